"""Check the body of a callback request against the app's callbacks, before Dash reads it."""

import json
from collections.abc import Mapping
from typing import Any

from werkzeug.exceptions import BadRequest

from ssmlens_dashboard.address import LONGEST
from ssmlens_dashboard.page import URL


def check(body: object, callbacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a body that Dash's own JavaScript would not have sent.

    Args:
        body: The JSON of the request.
        callbacks: The app's `callback_map`.

    Raises:
        BadRequest: The body is invalid; the message says why.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body of a callback must be an object")
    output = body.get("output")
    if not isinstance(output, str) or output not in callbacks:
        raise BadRequest("there is no such callback")
    declared = callbacks[output]
    if "callback" not in declared:
        raise BadRequest("this callback runs in the browser")
    _match(body.get("inputs"), declared["inputs"], "inputs")
    _match(body.get("state", []), declared["state"], "state")
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(name, str) for name in changed):
        raise BadRequest("changedPropIds must be a list of names")
    outputs = body.get("outputs")
    entries = outputs if isinstance(outputs, list) else [outputs]
    if [_named(item) for item in entries] != _declared_outputs(output):
        raise BadRequest("the outputs do not match this callback")


def _declared_outputs(output: str) -> list[tuple[str, str]]:
    """Ids and properties in a callback's name: "id.property", or several: "..a.x...b.y.."."""
    several = output.startswith("..")
    names = output[2:-2].split("...") if several else [output]
    return [(identifier, name) for identifier, _, name in (pair.rpartition(".") for pair in names)]


def _match(entries: object, declared: list[dict[str, str]], section: str) -> None:
    """Check that the entries have the declared properties, in order."""
    if not isinstance(entries, list) or len(entries) != len(declared):
        raise BadRequest(f"the {section} do not match this callback")
    for item, expected in zip(entries, declared, strict=True):
        if _named(item) != (expected["id"], expected["property"]):
            raise BadRequest(f"the {section} do not match this callback")
        value = item.get("value")
        if expected["id"] == URL or '"type":"here"' in expected["id"]:
            if not (value is None or isinstance(value, str)):
                raise BadRequest("an address must be text")
            if len(value or "") > 2 * LONGEST:
                raise BadRequest("this address is too long")


def _named(item: object) -> tuple[str, str] | None:
    """Id and property of an entry; an id of several parts as Dash writes it."""
    if not isinstance(item, dict):
        return None
    identifier, name = item.get("id"), item.get("property")
    if isinstance(identifier, dict):
        identifier = json.dumps(identifier, sort_keys=True, separators=(",", ":"))
    return (identifier, name) if isinstance(identifier, str) and isinstance(name, str) else None
