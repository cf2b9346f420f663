"""The server: which connections it accepts and drops; a failure of one leaves the others alone."""

import logging
import socket
import sys
from contextlib import suppress
from typing import Any

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from ssmlens_dashboard.connections import Connections
from ssmlens_dashboard.refusals import TOO_MANY

_log = logging.getLogger(__name__)


class Server(ThreadedWSGIServer):
    """A thread for each connection, and a bound on how many there are.

    Args:
        here: The socket that it listens on.
        application: What makes the answers.
        handler: What a connection's thread runs.
        patience: Seconds within which a request must be sent.

    Attributes:
        connections: Those that are open.
    """

    def __init__(
        self,
        here: socket.socket,
        application: Flask,
        handler: type[WSGIRequestHandler],
        patience: float,
    ):
        self.connections = Connections()
        self.patience = patience
        host, port = here.getsockname()[:2]
        super().__init__(host, port, application, handler, fd=here.fileno())

    def get_request(self) -> tuple[Any, Any]:
        """The next connection. Where it cannot be accepted, another is cut; the system keeps it for the next try."""
        try:
            return super().get_request()
        except ConnectionError:
            raise
        except OSError:
            self.connections.make_room()
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin the thread of a connection."""
        if self.connections.admit(request):
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.setblocking(False)
            request.send(TOO_MANY)
        self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        super().shutdown_request(request)
        self.connections.forget(request)

    def service_actions(self) -> None:
        """Called twice a second: drop requests that are late."""
        self.connections.cut_late(self.patience)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failure in a connection's thread, or in starting it, as one line."""
        error = sys.exception()
        _log.error("a connection failed: %s: %s", type(error).__name__, error)

    def server_close(self) -> None:
        """Stop listening, and let go of every connection."""
        super().server_close()
        self.connections.cut_all()
