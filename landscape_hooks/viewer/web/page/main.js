// Main: reads the data that Python put into the page, and shows them.

import { follow } from "./following.js";
import { Page } from "./page.js";

const data = /** @type {import("../geometry/data.js").Payload} */ (
  JSON.parse(document.getElementById("data")?.textContent ?? "null")
);
const page = new Page(data);
if (data.follow) follow(page, data.follow);
Object.assign(globalThis, { landscapePage: page }); // for the console
