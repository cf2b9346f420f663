"""Handle a connection: read one complete request, answer it, and close.

A request that is not HTTP is refused here, in the form of every other refusal (`guard`).
"""

import io
import logging
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, BinaryIO

from werkzeug.serving import WSGIRequestHandler
from werkzeug.test import run_wsgi_app

from ssmlens_dashboard.guard import MOST_BYTES
from ssmlens_dashboard.refusals import refusal
from ssmlens_dashboard.server import Server

_PIECE = 1 << 16  # bytes that a client must read within its time limit
_DRAINED = 1 << 24  # bytes to read of a refused body
_DRAINING = 2.0  # seconds
_NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_log = logging.getLogger(__name__)


class _Lines:
    """A stream that keeps the last line read: without a line end, the client left midway."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.last = b""

    def readline(self, most: int = -1, /) -> bytes:
        self.last = self._stream.readline(most)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Handler(WSGIRequestHandler):
    """Read a request within the server's `patience`; log only failures."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Set the time limit of a connection."""
        self.request.settimeout(self._server.patience)
        super().setup()
        self.rfile: Any = _Lines(self.rfile)

    @property
    def _server(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def version_string(self) -> str:
        """Name the server in its answers."""
        return "ssmlens"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Do not log requests."""

    def log_error(self, format: str, *args: Any) -> None:
        """Do not log errors of clients."""

    def handle_one_request(self) -> None:
        """Read a request and answer it."""
        self.close_connection = True
        if self.rfile.peek(1):
            self._server.connections.reads(self.connection)
            super().handle_one_request()
            self.close_connection = True

    def parse_request(self) -> bool:
        """Parse the request line and headers. Return whether they are complete and valid."""
        self.headers = self.MessageClass()
        if not super().parse_request():
            return False
        if self.request_version == "HTTP/0.9":
            self.send_error(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
            return False
        return self.rfile.last in (b"\r\n", b"\n")

    def run_wsgi(self) -> None:
        """Read the body of a parsed request and answer it."""
        body = self._body()
        if body is None:
            return
        try:
            environ = self.make_environ() | {"wsgi.input": io.BytesIO(body)}
        except ValueError:  # an invalid address
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        with self._server.connections.at_work(self.connection):
            try:
                parts, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
                answer = b"".join(parts)
            except Exception as error:
                _log.error("%s: %s", type(error).__name__, error)
                status, headers, answer = "", (), b""
        if status:
            self._answer(status, headers, answer)
        else:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request in the form of every refusal, not as a page of http.server."""
        headers, body = refusal(HTTPStatus(code))
        # The version of the answer: below 1.0 it would have no headers.
        self.request_version = self.protocol_version
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self._drain()

    def _body(self) -> bytes | None:
        """Read the body of a request; return None if it is refused or incomplete."""
        if "Transfer-Encoding" in self.headers:
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return None
        lengths = self.headers.get_all("Content-Length", ["0"])
        length = lengths[0].strip()
        if len(lengths) > 1 or not length.isdecimal() or len(length) > 18:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None
        if int(length) > MOST_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return None
        body = self.rfile.read(int(length))
        return body if len(body) == int(length) else None

    def _answer(self, status: str, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        number, _, phrase = status.partition(" ")
        self.send_response(int(number), phrase)
        names = set()
        for name, value in headers:
            self.send_header(name, value)
            names.add(name.lower())
        if "content-length" not in names and int(number) not in _NO_BODY:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        view = memoryview(body)
        for first in range(0, len(body), _PIECE):  # the timeout applies to each piece
            self.wfile.write(view[first : first + _PIECE])

    def _drain(self) -> None:
        """Read the rest of the request for a while: on an early close the client might miss the refusal."""
        until, left = time.monotonic() + _DRAINING, _DRAINED
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while left > 0 and (seconds := until - time.monotonic()) > 0:
                self.connection.settimeout(seconds)
                part = self.connection.recv(_PIECE)
                if not part:
                    return
                left -= len(part)
