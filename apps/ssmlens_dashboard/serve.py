"""Serve the dashboard until it is interrupted."""

import ctypes
import socket
from collections.abc import Callable
from contextlib import suppress

from flask import Flask
from werkzeug.serving import BaseWSGIServer

from ssmlens.errors import UsageError
from ssmlens_dashboard.request_handler import Handler
from ssmlens_dashboard.server import Server

_M_ARENA_MAX = -8  # in glibc's malloc.h
PATIENCE = 20.0
"""Seconds within which a request must arrive."""


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Port 0 takes a free port; an IPv6 host may have brackets, as in a URL.

    Raises:
        UsageError: The address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(64)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {host} port {port} ({reason}); choose another `port`"
        ) from error
    return listener


def server_on(
    listener: socket.socket, application: Flask, patience: float = PATIENCE
) -> BaseWSGIServer:
    """Make a server of the application on a listening socket, with one thread per connection.

    Args:
        listener: The socket.
        application: The application.
        patience: Seconds within which a request must arrive.
    """
    return Server(listener, application, Handler, patience)


def serve(listener: socket.socket, application: Flask, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C; `ready` is called once the server answers."""
    _share_heaps()
    server = server_on(listener, application)
    ready()
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()


def _share_heaps() -> None:
    """Let all threads of this process allocate from two heaps.

    glibc gives each thread its own heap, and a heap never shrinks. With one thread per connection, twenty clients used
    250 MB within a minute; with two heaps, 60 MB.
    """
    with suppress(AttributeError, OSError):  # other C libraries have no such setting
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
