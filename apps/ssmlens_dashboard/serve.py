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
"""Seconds within which a request must be sent."""


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
            f"cannot listen on {host} port {port} ({why}); choose another `port`"
        ) from error
    return here


def server_on(
    here: socket.socket, application: Flask, patience: float = PATIENCE
) -> BaseWSGIServer:
    """A server of the application on a listening socket, a thread for each connection.

    Args:
        here: The socket.
        application: The application.
        patience: Seconds within which a request must be sent.
    """
    return Server(here, application, Handler, patience)


def serve(here: socket.socket, application: Flask, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C; `ready` is called once the server answers."""
    _share_heaps()
    server = server_on(here, application)
    ready()
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()


def _share_heaps() -> None:
    """Let all threads of this process allocate from two heaps.

    glibc gives each thread a heap of its own, and a heap keeps the memory it once had. With a thread for each
    connection, twenty clients filled a quarter of a gigabyte in a minute; with two heaps, 60 MB.
    """
    with suppress(AttributeError, OSError):  # other C libraries have nothing to set
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
