// Following: asks the server of the page for the new snapshots of a training that is still running.

/** @typedef {import("./page.js").Page} Page */

/**
 * Ask every `interval` milliseconds while the page is seen; a page that is closed or hidden asks for nothing.
 * @param {Page} page @param {number} interval
 */
export function follow(page, interval) {
  let version = 0;
  let asking = false;
  const ask = async () => {
    if (document.hidden || asking) return;
    asking = true;
    try {
      const answer = await fetch(`new?version=${version}`, { cache: "no-store" });
      if (answer.status === 200) {
        const found = await answer.json();
        version = found.version;
        if (found.surface || found.paths) page.act(() => page.replay.grow(found));
        else if (found.error !== page.panels.notice) page.act(() => (page.panels.notice = found.error));
      } else if (answer.status !== 204) throw new Error(`status ${answer.status}`);
    } catch {
      page.act(() => (page.panels.notice = "The server that this page comes from does not answer any more."));
    }
    asking = false;
  };
  setInterval(ask, interval);
  document.addEventListener("visibilitychange", ask);
  ask();
}
