"""The page in Firefox, on a virtual display: it draws from a file, and a real mouse and keyboard change what is seen.

Firefox has no driver that pip installs, so the screen is looked at, as a person would. `.ci/run` has these tests.
"""

import os
import shutil
import subprocess
import time

import numpy as np
import pytest

from landscape_hooks.viewer.web.html import write_html
from tests.landscapes import surface

pytestmark = [
    pytest.mark.more,
    pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg, which takes pictures of the display, is missing"),
]

PREFERENCES = {
    "webgl.force-enabled": True,  # the graphics card is played in software
    "browser.aboutwelcome.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
    "ui.systemUsesDarkTheme": 0,
}
SIZE = (1000, 700)


class Screen:
    """What a display shows, and the mouse and keyboard before it."""

    def __init__(self, display):
        self.display, self.environment = display, {**os.environ, "DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1"}

    def look(self):
        """(height, width, 3) the picture."""
        grab = ["ffmpeg", "-loglevel", "error", "-f", "x11grab", "-video_size", "x".join(map(str, SIZE)), "-i",
                self.display, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]  # fmt: skip
        raw = subprocess.run(grab, check=True, capture_output=True, env=self.environment).stdout
        return np.frombuffer(raw, np.uint8).reshape(SIZE[1], SIZE[0], 3).astype(int)

    def until(self, holds, seconds=60):
        """The first picture of which `holds` is true."""
        end = time.monotonic() + seconds
        while not holds(seen := self.look()):
            assert time.monotonic() < end, "the display never shows it"
            time.sleep(0.3)
        return seen

    def do(self, *words):
        """Press keys, or move the mouse."""
        subprocess.run(["xdotool", *map(str, words)], check=True, env=self.environment)


def saturation(picture):
    """How many pixels of the middle are as colourful as a colour map."""
    middle = picture[200:500, 200:800]
    return int((np.ptp(middle, axis=-1) > 60).sum())


@pytest.fixture
def firefox(display, tmp_path):
    program = shutil.which("firefox") or shutil.which("firefox-esr")
    if program is None:
        pytest.skip("there is no Firefox on this machine")
    profile = tmp_path / "profile"
    profile.mkdir()
    words = {True: "true", False: "false"}
    lines = [f'user_pref("{k}", {words[v] if isinstance(v, bool) else repr(v)});' for k, v in PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines).replace("'", '"'))
    screen, started = Screen(display), []

    def opened(file):
        command = [program, "--profile", str(profile), "--no-remote", "--kiosk", file.as_uri()]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, env=screen.environment, **quiet))
        return screen

    yield opened
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.mark.timeout(300)
def test_the_page_draws_turns_and_changes_its_colours(firefox, tmp_path):
    file = write_html(surface(25, 25), tmp_path / "run.html")
    screen = firefox(file)
    first = screen.until(lambda seen: saturation(seen) > 20_000)
    if not shutil.which("xdotool"):
        pytest.skip("xdotool, which moves a real mouse, is not installed")

    screen.do("mousemove", 500, 350, "click", 1, "key", "c")
    coloured = screen.until(lambda seen: np.abs(seen - first).max(axis=-1).sum() > 10**6)

    screen.do("mousemove", 500, 300, "mousedown", 1, "mousemove", 640, 300, "mousemove", 700, 320, "mouseup", 1)
    screen.until(lambda seen: np.abs(seen - coloured).max(axis=-1).sum() > 10**6)
