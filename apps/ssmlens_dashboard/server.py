"""The server: it accepts and drops connections. A failure in one does not affect the others."""

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
    """A server with one thread per connection and a limit on their number.

    Args:
        listener: The socket that it listens on.
        application: The application that answers.
        handler: The handler that a connection's thread runs.
        patience: Seconds within which a request must arrive.

    Attributes:
        connections: The open connections.
    """

    def __init__(
        self,
        listener: socket.socket,
        application: Flask,
        handler: type[WSGIRequestHandler],
        patience: float,
    ):
        self.connections = Connections()
        self.patience = patience
        host, port = listener.getsockname()[:2]
        super().__init__(host, port, application, handler, fd=listener.fileno())

    def get_request(self) -> tuple[Any, Any]:
        """Accept the next connection. If that fails, cut an older one; the system keeps this one for the next try."""
        try:
            return super().get_request()
        except ConnectionError:
            raise
        except OSError:
            self.connections.make_room()
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread of a connection, or refuse it."""
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
        """Drop late requests. Called twice a second."""
        self.connections.cut_late(self.patience)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log one line about a failure in a connection's thread or in its start."""
        error = sys.exception()
        _log.error("a connection failed: %s: %s", type(error).__name__, error)

    def server_close(self) -> None:
        """Stop listening and cut every connection."""
        super().server_close()
        self.connections.cut_all()
