"""The body of a callback request, held to the callbacks there are before Dash looks at it."""

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
        BadRequest: With one line that says what is wrong.
    """
    if not isinstance(body, dict):
        raise BadRequest("a callback's body is an object")
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
        raise BadRequest("changedPropIds is a list of names")
    outputs = body.get("outputs")
    given = outputs if isinstance(outputs, list) else [outputs]
    if [_named(item) for item in given] != _declared_outputs(output):
        raise BadRequest("the outputs are not this callback's")


def _declared_outputs(output: str) -> list[tuple[str, str]]:
    """Ids and properties of a callback's name: "id.property", or several of them, "..a.x...b.y.."."""
    several = output.startswith("..")
    names = output[2:-2].split("...") if several else [output]
    return [(identifier, name) for identifier, _, name in (it.rpartition(".") for it in names)]


def _match(given: object, declared: list[dict[str, str]], what: str) -> None:
    """Whether values come for the declared properties, in order."""
    if not isinstance(given, list) or len(given) != len(declared):
        raise BadRequest(f"the {what} are not this callback's")
    for item, wanted in zip(given, declared, strict=True):
        if _named(item) != (wanted["id"], wanted["property"]):
            raise BadRequest(f"the {what} are not this callback's")
        value = item.get("value")
        if wanted["id"] == URL or '"type":"here"' in wanted["id"]:
            if not (value is None or isinstance(value, str)):
                raise BadRequest("an address is text")
            if len(value or "") > 2 * LONGEST:
                raise BadRequest("this address is too long")


def _named(item: object) -> tuple[str, str] | None:
    """Id and property that an entry names; ids of several parts as Dash writes them."""
    if not isinstance(item, dict):
        return None
    identifier, name = item.get("id"), item.get("property")
    if isinstance(identifier, dict):
        identifier = json.dumps(identifier, sort_keys=True, separators=(",", ":"))
    return (identifier, name) if isinstance(identifier, str) and isinstance(name, str) else None
