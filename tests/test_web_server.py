"""The server of pages: what it answers, whom it answers, and a training that is still running."""

import http.client
import json
import re
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from landscape_hooks.errors import LandscapeError, RunError
from landscape_hooks.viewer.web.rooms import rooms_of
from landscape_hooks.viewer.web.server import Server, serve
from tests.browser import Watched, chromium, until
from tests.landscapes import surface, write_run
from tests.test_viewer_live import append, training  # noqa: F401

SLACK = 5.0
"""How many times as long as on a free machine a browser may take on a busy one."""

KEPT = ("X-Content-Type-Options", "Referrer-Policy", "Cache-Control", "X-Frame-Options", "Content-Security-Policy")


@contextmanager
def serving(*places, follow=False):
    with Server(rooms_of([str(place) for place in places], follow=follow), port=0).running() as server:
        yield server


def ask(server, path, *, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "runs" / "one.zarr", surface())
    write_run(tmp_path / "runs" / "deeper" / "<b>two.zarr", surface(7, 6))
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def test_one_run_is_a_page_with_a_policy_that_lets_nothing_in(folder):
    with serving(folder / "one.zarr") as server:
        assert server.address == f"http://127.0.0.1:{server.port}/{server.token}/0/"
        answer, body = ask(server, server.path)
        assert answer.status == 200
        assert b'id="data"' in body
        rules = answer.getheader("Content-Security-Policy")
        assert "default-src 'none'" in rules
        assert "connect-src 'none'" in rules
        assert "frame-ancestors 'none'" in rules
        assert "Python" not in answer.getheader("Server")
        assert all(answer.getheader(name) for name in KEPT)
        head, nothing = ask(server, server.path, method="HEAD")
        assert (head.status, nothing) == (200, b"")


@pytest.mark.everyday(4)
@pytest.mark.parametrize(
    "path",
    ["/", "/0/", "/wrong/0/", "/{token}", "/{token}/1/", "/{token}/0", "/{token}/0/new", "/{token}/0/../../etc/passwd",
     "/{token}/0/page.html", "/{token}/x/",  "/{token}x/0/"],
)  # fmt: skip
def test_nothing_else_is_answered(folder, path):
    with serving(folder / "one.zarr") as server:
        answer, body = ask(server, path.format(token=server.token))
        found = path == "/{token}"  # the list of the one run, which the token allows
        assert answer.status == (200 if found else 404)
        assert found or body == b"There is nothing here."


def test_a_page_of_another_site_cannot_ask_under_its_own_name(folder):
    with serving(folder / "one.zarr") as server:
        for host, status in (("evil.example", 404), ("localhost:9000", 200), ("127.0.0.1:1", 200), ("[::1]:8", 200)):
            assert ask(server, server.path, host=host)[0].status == status
        assert ask(server, server.path, method="POST")[0].status == 501


def test_a_folder_is_a_list_with_thumbnails(folder):
    with serving(folder) as server:
        assert [room.label for room in server.rooms] == ["<b>two", "one"]
        answer, body = ask(server, server.path)
        rules = answer.getheader("Content-Security-Policy")
        assert rules.startswith("default-src 'none'; img-src 'self' data:; style-src 'sha256-")
        text = body.decode()
        assert "&lt;b&gt;two" in text
        assert "<b>two" not in text
        assert "pca: 21 × 16 points, 40 snapshots" in text
        answer, picture = ask(server, server.path + "1/thumbnail.png")
        assert answer.getheader("Content-Type") == "image/png"
        assert picture.startswith(b"\x89PNG")
        assert ask(server, server.path + "0/")[0].status == 200


def test_a_run_without_a_surface_says_so(tmp_path):
    from landscape_hooks.store.run import create_run

    create_run(tmp_path / "run.zarr")
    with serving(tmp_path / "run.zarr") as server:
        answer, body = ask(server, server.path)
        assert answer.status == 200
        assert b"landscape-hooks analyze RUN" in body
        assert ask(server, server.path + "thumbnail.png")[0].status == 404


def test_a_page_that_fails_says_so_and_the_server_goes_on(folder, monkeypatch):
    with serving(folder / "one.zarr") as server:
        monkeypatch.setattr(server.rooms[0], "page", lambda: 1 / 0)
        answer, body = ask(server, server.path)
        assert (answer.status, body) == (500, b"ZeroDivisionError: division by zero")
        monkeypatch.undo()
        assert ask(server, server.path)[0].status == 200


def test_an_answer_that_has_begun_is_finished_before_the_end(folder, monkeypatch):
    """A thread that is in matplotlib when the process ends would abort it."""
    begun, ended = threading.Event(), threading.Event()

    def slowly():
        begun.set()
        time.sleep(0.5)
        ended.set()
        return b"PNG"

    with serving(folder / "one.zarr") as server:
        monkeypatch.setattr(server.rooms[0], "thumbnail", slowly)
        reader = threading.Thread(target=ask, args=(server, server.path + "thumbnail.png"))
        reader.start()
        assert begun.wait(10)
    assert ended.is_set()
    reader.join()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError):
        rooms_of([str(tmp_path)])
    run = write_run(tmp_path / "run.zarr", surface(7, 6))
    with serving(run) as server, pytest.raises(LandscapeError, match=f"127.0.0.1:{server.port}.*--port"):
        serve(run, port=server.port)


def test_new_snapshots_are_told_once(training):  # noqa: F811
    run, writer = training
    with serving(run, follow=True) as server:
        room = server.rooms[0]
        answer, _ = ask(server, server.path)
        assert "connect-src 'self'" in answer.getheader("Content-Security-Policy")
        assert ask(server, server.path + "new?version=0")[0].status == 204
        append(writer, [110, 130], np.array([[0.5, -1.0], [1.5, 2.0]]), [0.7, 0.0])
        room._read = 0.0
        answer, body = ask(server, server.path + "new?version=0")
        found = json.loads(body)
        assert (answer.status, found["version"]) == (200, 1)
        assert "NaN" not in body.decode()
        assert ask(server, server.path + "new?version=1")[0].status == 204
        for odd in ("", "?version=x", "?version=-1", "?version=99999999999999999999"):
            assert ask(server, server.path + "new" + odd)[0].status == 200


def test_a_browser_follows_a_recording_within_two_seconds(tmp_path):
    """The recorder of a real training writes, `analyze` has run, and the page that is open shows what comes."""
    import torch

    from landscape_hooks import Local, Surface, analyze, record

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data, criterion = (torch.randn(20, 3), torch.randn(20, 1)), torch.nn.MSELoss()
    run = tmp_path / "run.zarr"

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            criterion(model(data[0]), data[1]).backward()
            optimizer.step()
        recorder.flush()

    with record(model, optimizer, run, every=1, criterion=criterion, data=data) as recorder:
        train(8)
        analyze(run, size=5, engine=Local(workers=1, tune=False), progress=False)
        known = len(Surface.open(run).path)
        with chromium() as browser, serving(run, follow=True) as server:
            watched = Watched(browser)
            page = watched.open(server.address)
            assert page.evaluate("landscapePage.replay.timeline.length") == known
            train(4)
            start = time.monotonic()
            until(page, f"landscapePage.replay.timeline.length === {known + 4}")
            assert time.monotonic() - start < 2 * SLACK
            until(page, "!landscapePage.dirty")
            assert page.inner_text("#moment-said") == f"step 12 ({known + 4} of {known + 4})"
            assert any("/new?" in url for url in watched.requested)
            assert all(url.startswith(server.address) for url in watched.requested)
            watched.close()


def test_a_browser_goes_from_the_list_to_a_run(folder):
    with chromium() as browser, serving(folder) as server:
        watched = Watched(browser)
        watched.page.goto(server.address)
        until(watched.page, "[...document.images].every((one) => one.naturalWidth > 100)")
        watched.page.click("text=one")
        until(watched.page, "globalThis.landscapePage?.draws > 0")
        assert re.search(r"/1/", watched.page.url)
        watched.close()
