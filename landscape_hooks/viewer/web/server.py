"""Server: the pages of runs on this machine, for a browser here or at the other end of a tunnel.

In: runs, or folders of runs. Out: answers to a browser on the loopback. The address holds a random token, without which
nothing is answered; the headers forbid everything that a page does not need. Nothing is written.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from landscape_hooks.errors import LandscapeError
from landscape_hooks.store.run import RunLike
from landscape_hooks.viewer.web.html import policy
from landscape_hooks.viewer.web.rooms import STYLE, Room, index, rooms_of, sorry
from landscape_hooks.viewer.web.script import digest

LOOPBACK = "127.0.0.1"
PORT = 8450
"""The port that is tried first; another one where it is taken."""

LONGEST = 30.0
"""Seconds that the end of the server waits for an answer that has begun."""

OURS = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine in a browser, also at the other end of a tunnel."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server(ThreadingHTTPServer):
    """Answers until it is closed; `address` is where a browser finds it."""

    daemon_threads = True

    def __init__(self, rooms: list[Room], host: str = LOOPBACK, port: int | None = None) -> None:
        self.rooms = rooms
        self.host = host
        self.token = secrets.token_urlsafe(16)
        self._answers, self._closing, self._change = 0, False, threading.Condition()
        try:
            super().__init__((host, PORT if port is None else port), Handler)
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise LandscapeError(
                    f"Cannot listen on {host}:{PORT if port is None else port} ({error.strerror})",
                    mend="Choose another --port, or leave it out",
                ) from error
            super().__init__((host, 0), Handler)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    @property
    def path(self) -> str:
        """What comes after the host in the address: the list, or the only run."""
        return f"/{self.token}/" + ("0/" if len(self.rooms) == 1 else "")

    @property
    def address(self) -> str:
        """The whole address."""
        host = socket.gethostname() if self.host in ("", "0.0.0.0") else self.host
        return f"http://{host}:{self.port}{self.path}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Answer in a thread, for as long as the block lasts."""
        thread = threading.Thread(target=self.serve_forever, name="landscape-server", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self._drain()
            self.server_close()

    @contextlib.contextmanager
    def answering(self) -> Iterator[bool]:
        """Count an answer for as long as the block lasts; gives whether there is to be one."""
        with self._change:
            self._answers += 1
            wanted = not self._closing
        try:
            yield wanted
        finally:
            with self._change:
                self._answers -= 1
                self._change.notify_all()

    def _drain(self) -> None:
        """Wait for the answers that have begun: a thread that ends in the middle of a figure aborts the process."""
        with self._change:
            self._closing = True
            self._change.wait_for(lambda: self._answers == 0, timeout=LONGEST)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no error."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "landscape-hooks"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        """Answer with a page, a picture, or what is new; not any more when the server ends."""
        with self.server.answering() as wanted:
            if wanted:
                self._reply()
            else:
                self.close_connection = True

    def _reply(self) -> None:
        room, rest, query = self._find()
        try:
            if room is None and rest != "":
                self._send(404, "text/plain", b"There is nothing here.")
            elif room is None:
                self._send(200, "text/html", index(self.server.rooms).encode(), LIST)
            elif rest == "":
                self._send(200, "text/html", room.page().encode(), policy(follow=room.follow))
            elif rest == "thumbnail.png":
                self._send(200, "image/png", room.thumbnail())
            elif rest == "new" and room.follow:
                self._answer(room, query)
            else:
                self._send(404, "text/plain", b"There is nothing here.")
        except LandscapeError as error:
            assert room is not None
            if rest == "":
                self._send(200, "text/html", sorry(room.label, error).encode(), LIST)
            else:
                self._send(404, "text/plain", str(error).encode())
        except ConnectionError:
            self.close_connection = True
        except Exception as error:  # the browser says it; the other pages go on
            self._send(500, "text/plain", f"{type(error).__name__}: {error}".encode())

    do_HEAD = do_GET

    def _find(self) -> tuple[Room | None, str, dict[str, list[str]]]:
        """The room that is asked for, and what of it; another rest than "" without a room is nothing."""
        parts = urlsplit(self.path)
        _, _, after = parts.path.partition("/")
        token, _, rest = after.partition("/")
        host = self.headers.get("Host", "").rsplit(":", 1)[0] if self.headers.get("Host") else ""
        known = host in OURS or self.server.host != LOOPBACK
        if not (known and secrets.compare_digest(token.encode(), self.server.token.encode())):
            return None, "nothing", {}
        if rest == "":
            return None, "", {}
        number, slash, rest = rest.partition("/")
        if not (slash and number.isdecimal() and int(number) < len(self.server.rooms)):
            return None, "nothing", {}
        return self.server.rooms[int(number)], rest, parse_qs(parts.query)

    def _answer(self, room: Room, query: dict[str, list[str]]) -> None:
        """What a page that follows does not know yet."""
        version = query.get("version", ["0"])[0]
        found = room.news(int(version) if version.isdecimal() and len(version) < 10 else 0)
        if found is None:
            self._send(204, "application/json", b"")
        else:
            self._send(200, "application/json", json.dumps(found, allow_nan=False).encode())

    def _send(self, status: int, kind: str, body: bytes, rules: str = "default-src 'none'") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind if kind.startswith("image") else f"{kind}; charset=utf-8")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", f"{rules}; frame-ancestors 'none'")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not printed: they hold the token."""


LIST = f"default-src 'none'; img-src 'self' data:; style-src {digest(STYLE)}; base-uri 'none'; form-action 'none'"
"""The policy of the pages without a script."""


def _user() -> str:
    """The user as ssh takes it; "" where the system has no name for it."""
    try:
        return f"{getpass.getuser()}@"
    except (KeyError, OSError):
        return ""


def serve(
    *runs: RunLike,
    port: int | None = None,
    follow: bool = False,
    host: str = LOOPBACK,
    say: Callable[[str], object] = print,
) -> None:
    """Show runs in a browser, until Ctrl-C: on this machine, or through a tunnel from another one.

    Parameters
    ----------
    runs
        runs (paths or URLs), or folders that hold runs.
    port
        the port; left out, 8450 or a free one.
    follow
        whether new snapshots of trainings that are still running appear.
    host
        the address to listen on. Anybody who reaches it and knows the token sees the runs.
    say
        what prints the address.

    Raises
    ------
    RunError
        a place is neither a run nor a folder that holds one.
    LandscapeError
        the port is taken.
    """
    with Server(rooms_of([str(run) for run in runs], follow=follow), host, port).running() as server:
        say(f"Open in a browser:  {server.address}")
        if host == LOOPBACK:
            tunnel = f"ssh -N -L {server.port}:{host}:{server.port} {_user()}{socket.gethostname()}"
            say(f"From another machine, first:  {tunnel}")
        say("Ctrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
