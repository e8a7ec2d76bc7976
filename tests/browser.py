"""A headless Chromium for the tests of the page; they are skipped where there is none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
READY = "globalThis.landscapePage?.draws > 0 && !landscapePage.dirty"
SECONDS = 60.0
"""What a slow machine may take for a picture."""


def until(page: Any, condition: str) -> None:
    """Wait until an expression is true. The driver's own waiting evaluates strings, which the page's policy forbids."""
    end = time.monotonic() + SECONDS
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never true: {condition}"
        page.wait_for_timeout(30)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; WebGL 2 is drawn in software."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Watched:
    """A page whose console, errors and requests are noted; all of them are to stay empty."""

    def __init__(self, browser: Any, *, size: tuple[int, int] = (800, 500), **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.said: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requested.append(request.url))

    def open(self, file: Path | str, address: str = "") -> Any:
        """Open a file (or a URL), and wait for its first picture."""
        url = file if isinstance(file, str) else file.resolve().as_uri()
        self.page.goto(url + address)
        until(self.page, READY)
        return self.page

    def close(self) -> None:
        """End the page, which must have been silent and offline."""
        self.context.close()
        assert not self.said, self.said
