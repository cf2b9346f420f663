"""Serve the dashboard until it is interrupted."""

import socket
from collections.abc import Callable
from contextlib import suppress

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ssmlens.errors import UsageError


class _Handler(WSGIRequestHandler):
    """Keeps connections open, says nothing about itself, and logs nothing but failures."""

    protocol_version = "HTTP/1.1"

    def version_string(self) -> str:
        """What it says of itself."""
        return "ssmlens"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Requests are not logged."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one, and IPv6 may come in the brackets of a URL.

    Raises:
        UsageError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    here = socket.socket(family, socket.SOCK_STREAM)
    here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        here.bind((host.strip("[]"), port))
        here.listen(64)
    except (OSError, OverflowError) as error:
        here.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host} port {port} ({why}); choose another --port"
        ) from error
    return here


def server_on(here: socket.socket, application: Flask) -> BaseWSGIServer:
    """A server of the application on a listening socket, a thread for each connection."""
    host, port = here.getsockname()[:2]
    return make_server(
        host, port, application, threaded=True, request_handler=_Handler, fd=here.fileno()
    )


def serve(here: socket.socket, application: Flask, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C; `ready` is called once the server answers."""
    server = server_on(here, application)
    ready()
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()
