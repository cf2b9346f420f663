"""Refuse requests that never reach the application."""

import json
from http import HTTPStatus

from ssmlens_dashboard.guard import BARE_HEADERS, FAILED, MOST_BYTES

_MESSAGES = {
    HTTPStatus.BAD_REQUEST: "this is not an HTTP/1.1 request",
    HTTPStatus.LENGTH_REQUIRED: "send the body with its length, not in chunks",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"the body must have at most {MOST_BYTES} bytes",
    HTTPStatus.REQUEST_URI_TOO_LONG: "this address is too long",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the headers are too long",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "send the request as HTTP/1.1 or 1.0",
    HTTPStatus.INTERNAL_SERVER_ERROR: FAILED,
    HTTPStatus.SERVICE_UNAVAILABLE: "too many requests at once; try again",
}


def refusal(code: HTTPStatus) -> tuple[dict[str, str], bytes]:
    """Return the headers and body of an answer that ends the connection."""
    body = json.dumps({"error": _MESSAGES.get(code, code.phrase)}).encode() + b"\n"
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return {**headers, **BARE_HEADERS, "Connection": "close"}, body


def _full_answer(code: HTTPStatus) -> bytes:
    headers, body = refusal(code)
    lines = [f"HTTP/1.1 {code.value} {code.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


TOO_MANY = _full_answer(HTTPStatus.SERVICE_UNAVAILABLE)
"""The full answer to a connection beyond the limit."""
