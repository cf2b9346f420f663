"""Serve the dashboard until it is interrupted."""

import socket
from collections.abc import Callable
from contextlib import suppress

from flask import Flask
from werkzeug.serving import BaseWSGIServer

from ssmlens.errors import UsageError
from ssmlens_dashboard.request_handler import Handler
from ssmlens_dashboard.server import Server

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
            f"cannot listen on {host} port {port} ({why}); choose another --port"
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
    server = server_on(here, application)
    ready()
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()
