"""How fast the page of a replay is: first picture, turning, replaying. Prints medians; run it on a quiet machine.

    python benchmarks/page.py [--rounds 5] [--sizes 25 201] [--gpu]

A headless Chromium opens the page at 1280 x 720 beside an empty page, one after the other in the same browser.
SwiftShader plays the graphics card, unless --gpu leaves that to the browser. Times are from the page's beginning to the
picture that its canvas holds (its pixels are read, so that they are there).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from viewer import bowl

from landscape_hooks.viewer.web.html import write_html

SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
EMPTY = "<!doctype html><title>empty</title><canvas></canvas>"
FIRST = """
const seen = () => {
  const page = globalThis.landscapePage;
  if (document.title === "empty" || page?.draws) {
    if (page?.scene) page.scene.gl.readPixels(0, 0, 1, 1, 6408, 5121, new Uint8Array(4));
    globalThis.firstPicture = performance.now();
  } else requestAnimationFrame(seen);
};
requestAnimationFrame(seen);
"""
COUNT = """async ([action, seconds]) => {
  const page = landscapePage;
  page.act(() => { page.replay.turntable = action === "turning"; page.replay.timeline.playing = action === "replaying";
                   page.replay.timeline.loop = true; });
  const frames = async (seconds) => {
    const start = performance.now(), before = page.draws;
    while (performance.now() - start < 1000 * seconds) {
      await new Promise((done) => requestAnimationFrame(done));
      if (page.scene) page.scene.gl.readPixels(0, 0, 1, 1, 6408, 5121, new Uint8Array(4));
    }
    return (page.draws - before) / (performance.now() - start) * 1000;
  };
  await frames(1);
  const found = await frames(seconds);
  page.act(() => { page.replay.turntable = page.replay.timeline.playing = false; });
  return found;
}"""


def first_picture(browser: Browser, file: Path) -> float:
    """Milliseconds until the file shows its picture."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.add_init_script(FIRST)
    page.goto(file.as_uri())
    while not (found := page.evaluate("globalThis.firstPicture")):
        page.wait_for_timeout(10)
    context.close()
    return float(found)


def frames_a_second(browser: Browser, file: Path, action: str, seconds: float) -> float:
    """Pictures a second while the page turns or replays."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.goto(file.as_uri())
    while not page.evaluate("globalThis.landscapePage?.draws"):
        page.wait_for_timeout(10)
    found = page.evaluate(COUNT, [action, seconds])
    context.close()
    return float(found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 201], help="points of a side of the grid")
    parser.add_argument("--gpu", action="store_true", help="do not play the graphics card in software")
    options = parser.parse_args(argv)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    folder = Path(tempfile.mkdtemp())
    empty = folder / "empty.html"
    empty.write_text(EMPTY)
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", *(() if options.gpu else SOFTWARE)]
        browser: Any = driver.chromium.launch(executable_path=found, args=arguments)
        first_picture(browser, empty)  # the browser itself is warm
        for size in options.sizes:
            file = write_html(bowl(size), folder / f"{size}.html")
            pairs = [(first_picture(browser, empty), first_picture(browser, file)) for _ in range(options.rounds)]
            nothing, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
            print(f"{size} x {size}, {file.stat().st_size / 1e6:.2f} MB: first picture after {ours:.0f} ms, "
                  f"an empty page {nothing:.0f} ms", flush=True)  # fmt: skip
            for action in ("turning", "replaying"):
                rates = [frames_a_second(browser, file, action, 3) for _ in range(min(options.rounds, 3))]
                print(f"  {action}: {statistics.median(rates):.1f} pictures a second", flush=True)
        browser.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
