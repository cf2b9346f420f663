"""Guard every request: who may ask, for what, and the form of a refusal.

The dashboard listens on this computer. A page of another site must not read from it (Host, Origin), a reader
over the network needs a token, and only the pages, their pictures and their data are served.
"""

import dataclasses
import hmac
import html
import ipaddress
import logging
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from dash import Dash
from dash.exceptions import PreventUpdate
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, MethodNotAllowed, NotFound

from ssmlens_dashboard.address import parse
from ssmlens_dashboard.callback_body import check

_LOCAL = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 256 * 1024
"""Most bytes in the body of a request."""
_UPDATE = "/_dash-update-component"
_PAGES = "/<path:path>"
_RULES = (
    "/",
    _PAGES,
    "/assets/<path:filename>",
    "/_dash-layout",
    "/_dash-dependencies",
    "/_dash-component-suites/<string:package_name>/<path:fingerprinted_path>",
    "/_favicon.ico",
    _UPDATE,
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
BARE_HEADERS = {
    **_HEADERS,
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Headers of an answer that is not a page."""
FAILED = "the dashboard failed; its terminal shows the cause"
"""The message to a client after an unexpected failure."""
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Access:
    """Where requests to the dashboard may come from.

    Attributes:
        host: The address it listens on.
        port: The port it listens on.
        token: The token that readers need; None if only this computer can reach `host`.
    """

    host: str = "127.0.0.1"
    port: int = 8050
    token: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this computer can reach it."""
        return self.name in _LOCAL or (self._ip is not None and self._ip.is_loopback)

    @property
    def name(self) -> str:
        """The host as browsers write it in a URL and in a Host header: IPv6 in brackets, in its shortest form."""
        if self._ip is None:
            return self.host.lower()
        return f"[{self._ip}]" if self._ip.version == 6 else str(self._ip)

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds the token: cookies are shared by all ports of a host."""
        return f"ssmlens-{self.port}"

    @property
    def address(self) -> str:
        """The URL to open, with the token if there is one."""
        name = socket.gethostname() if self._any else self.name
        token = "" if self.token is None else f"?token={self.token}"
        return f"http://{name}:{self.port}/{token}"

    def admits(self, host: str) -> bool:
        """Whether a Host header names this server, not a foreign name that resolves to it."""
        if self._any:
            return True  # any name may resolve to it; the token decides
        names = (self.name, *(_LOCAL if self.local else ()))
        bare = names if self.port == 80 else ()
        return host.lower() in (*bare, *(f"{name}:{self.port}" for name in names))

    @property
    def _any(self) -> bool:
        """Whether it listens on every address of this computer."""
        return self._ip is not None and self._ip.is_unspecified

    @property
    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as a number; None for a name."""
        try:
            return ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return None


def protect(app: Dash, access: Access, pages: tuple[str, ...], routes: tuple[str, ...]) -> None:
    """Put the guard before every request. All callbacks must be registered already.

    Args:
        app: The app.
        access: Where requests may come from.
        pages: Names of the pages.
        routes: Rules of the routes served besides Dash's own.
    """
    server: Flask = app.server
    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    served = {*_RULES, *routes}

    def admit() -> Response | None:
        host = request.headers.get("Host")
        if host is None:  # `request.host` would fall back to the server's own name
            raise BadRequest("the request has no Host header")
        if not (host and access.admits(request.host)):
            raise Forbidden("this server answers only to its own address; forward the same port")
        if access.token is not None and not _same(request.cookies.get(access.cookie), access.token):
            return _welcome(access.token, access.cookie, pages)
        if request.method not in ("GET", "HEAD", "POST"):
            raise MethodNotAllowed()
        if request.method == "POST" and not _same_origin():
            raise Forbidden("this request comes from another site")
        rule = request.url_rule.rule if request.url_rule else None
        if rule is not None and rule not in served:
            raise NotFound("this address does not exist")
        if rule == _PAGES and request.path.strip("/") not in pages:
            raise NotFound("there is no such page")
        if rule == "/":
            return Response(status=302, headers={"Location": _address(pages)})
        if rule == _UPDATE and request.method == "POST":
            check(_json(), app.callback_map)
        return None

    # First, so that nothing else runs for a refused request.
    server.before_request_funcs.setdefault(None, []).insert(0, admit)
    server.after_request(_headers(" ".join(app.csp_hashes())))
    server.register_error_handler(HTTPException, _refusal)
    server.register_error_handler(Exception, _failure)


def _same(value: str | None, token: str) -> bool:
    return value is not None and hmac.compare_digest(value.encode(), token.encode())


def _welcome(token: str, cookie: str, pages: tuple[str, ...]) -> Response:
    """Answer a URL with the token: set the cookie and lead on to the page.

    A page leads on, not a redirect: after a link from another site, a redirect would arrive without the cookie.
    """
    if request.method != "GET" or not _same(request.args.get("token"), token):
        raise Forbidden("open the address that ssmlens dashboard printed, with its token")
    to = html.escape(_address(pages))
    page = f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={to}"><a href="{to}">on</a>'
    response = Response(page, mimetype="text/html")
    response.set_cookie(cookie, token, httponly=True, samesite="Strict")
    return response


def _address(pages: tuple[str, ...]) -> str:
    """The address of this request, rebuilt from its valid parts: nothing else is echoed."""
    return parse(request.path, request.query_string.decode("latin-1"), pages)[0].href


def _same_origin() -> bool:
    origin = urlsplit(request.headers.get("Origin", ""))
    return origin.scheme in ("http", "https") and origin.netloc == request.host


def _json() -> object:
    try:
        return request.get_json()
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error


def _headers(script_hashes: str) -> Callable[[Response], Response]:
    # Mantine and ag-grid write styles into the page. Scripts are our own files, or allowed by their hash.
    policy = (
        f"default-src 'none'; script-src 'self' {script_hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    def add(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return add


def _refusal(error: HTTPException) -> Response:
    response = jsonify(error=" ".join((error.description or error.name).split()))
    response.status_code = error.code or 500
    return response


def _failure(error: Exception) -> Response:
    """Answer an unexpected failure: the cause goes to the terminal, not to the page."""
    if isinstance(error, PreventUpdate):
        return Response(status=204)
    # Dash raises this for a file that it did not register.
    if request.path.startswith("/_dash-component-suites/"):
        return _refusal(NotFound("this address does not exist"))
    _log.error("%s %s: %s: %s", request.method, request.path, type(error).__name__, error)
    response = jsonify(error=FAILED)
    response.status_code = 500
    return response
