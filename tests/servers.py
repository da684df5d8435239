"""A small HTTP server on 127.0.0.1 that misbehaves as it is told, for whatever downloads."""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """One line of the server's log. path: with the query; headers: names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Page:
    """What is answered at a path.

    etag        made of the body where it is None; "" for none
    ranges      whether Range and If-Range are honoured
    chunked     sent in chunks, without Content-Length
    cut         after how many bytes of its body each next answer breaks off (None: it does not); used up from the left
    cut_always  the same for every answer once `cut` is used up
    first       answers before the page itself: status and headers, each for one request; used up from the left
    location    redirects there, with `status` where that is 3xx, else 302
    """

    body: bytes = b""
    content_type: str = "application/octet-stream"
    status: int = 200
    etag: str | None = None
    last_modified: str | None = None
    ranges: bool = True
    chunked: bool = False
    cut: list[int | None] = field(default_factory=list)
    cut_always: int | None = None
    first: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    location: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:16]}"' if self.etag is None else self.etag


BUSY = b"not now"


def busy(*seconds: str) -> list[tuple[int, dict[str, str]]]:
    """For `first`: one 429 for each Retry-After."""
    return [(429, {"Retry-After": s}) for s in seconds]


Pages = dict[str, Page | Callable[[Request], Page]]


@dataclass
class Server:
    """pages: by path, with or without the query; all else is 404. May be changed while it runs."""

    url: str
    pages: Pages
    log: list[Request] = field(default_factory=list)

    def paths(self, method: str = "GET") -> list[str]:
        return [request.path for request in self.log if request.method == method]

    def ranges(self) -> list[str | None]:
        """The Range header of every GET, in order."""
        return [request.headers.get("range") for request in self.log if request.method == "GET"]


@contextmanager
def serving(pages: Pages | None = None, host: str = "127.0.0.1") -> Iterator[Server]:
    """A server on a free port, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            server.log.append(request)
            found = server.pages.get(self.path) or server.pages.get(self.path.partition("?")[0])
            page = found(request) if callable(found) else found
            _answer(self, request, page or Page(b"there is nothing here", "text/plain", status=404))

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class calls it so)
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # the client has had enough
                super().handle_error(request, client_address)

    http = Quiet((host, 0), Handler)
    server = Server(f"http://{host}:{http.server_port}", {} if pages is None else pages)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _answer(handler: BaseHTTPRequestHandler, request: Request, page: Page) -> None:
    status, headers, body = page.status, {"Content-Type": page.content_type, **page.headers}, page.body
    if page.first:
        status, more = page.first.pop(0)
        headers, body = {"Content-Type": "text/plain", **more}, BUSY
    elif page.location is not None:
        status, body = (status if 300 <= status < 400 else 302), b""
        headers["Location"] = page.location
    elif status == 200:
        if page.tag:
            headers["ETag"] = page.tag
        if page.last_modified:
            headers["Last-Modified"] = page.last_modified
        if page.ranges:
            headers["Accept-Ranges"] = "bytes"
            status, body = _part(request, page, headers)
    cut = None
    if body is not BUSY:
        cut = page.cut.pop(0) if page.cut else page.cut_always
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if page.chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    elif "Content-Length" not in headers:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if request.method == "HEAD":
        return
    sent = body if cut is None else body[:cut]
    if not page.chunked:
        handler.wfile.write(sent)
    else:
        for start in range(0, len(sent), 8192):
            piece = sent[start : start + 8192]
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if cut is None:
            handler.wfile.write(b"0\r\n\r\n")
    if cut is not None:
        handler.close_connection = True


def _part(request: Request, page: Page, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and bytes for a Range of the form bytes=A- or bytes=A-B."""
    wanted, condition = request.headers.get("range"), request.headers.get("if-range")
    if wanted is None or condition not in (None, page.tag, page.last_modified):
        return 200, page.body
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, end, size = int(first), min(int(last or len(page.body)), len(page.body) - 1), len(page.body)
    if start >= size:
        headers["Content-Range"] = f"bytes */{size}"
        return 416, b""
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return 206, page.body[start : end + 1]
