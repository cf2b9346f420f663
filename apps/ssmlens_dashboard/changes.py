"""Send a browser only what changed: a view's changed outputs, and only the changed parts of a figure."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from dash import Patch, no_update
from plotly.utils import PlotlyJSONEncoder

Sent = list[dict[str, str]]
"""For each output, a digest of every part that the browser has."""

_CONTENT = ""
_LAYOUT = "layout"


def changes(values: Sequence[Any], before: object) -> tuple[list[Any], Sent]:
    """Reduce a view's outputs to what differs from the last answer.

    Args:
        values: The outputs of the view.
        before: The digests of the last answer, from the browser; None for a new page.

    Returns:
        For each output its value, a patch of a figure, or `no_update`; and the digests after this answer.
    """
    plain = [value.to_plotly_json() if isinstance(value, go.Figure) else value for value in values]
    now = [_parts(value) for value in plain]
    if not (isinstance(before, list) and len(before) == len(now) and all(map(_is_dict, before))):
        return plain, now
    sent = []
    for number, (value, parts, known) in enumerate(zip(plain, now, before, strict=True)):
        if value is no_update:
            now[number] = known
            sent.append(no_update)
        elif parts == known:
            sent.append(no_update)
        else:
            sent.append(_patch(value, parts, known))
    return sent, now


def _parts(value: Any) -> dict[str, str]:
    if not _is_figure(value):
        return {_CONTENT: _digest(value)}
    layout = {key: _digest(part) for key, part in value[_LAYOUT].items()}
    return {_CONTENT: _digest(value["data"]), **layout}


def _patch(value: Any, parts: dict[str, str], known: dict[str, Any]) -> Any:
    """Patch only the changed parts of a layout where the data did not change: plotly redraws no more than those."""
    if not (_is_figure(value) and known.get(_CONTENT) == parts[_CONTENT]):
        return value
    patch = Patch()
    for key, part in value[_LAYOUT].items():
        if known.get(key) != parts[key]:
            patch[_LAYOUT][key] = part
    for key in known.keys() - parts.keys():
        del patch[_LAYOUT][key]
    return patch


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _is_figure(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"data", _LAYOUT}


def _digest(value: Any) -> str:
    if value is no_update:
        return ""
    text = json.dumps(value, cls=PlotlyJSONEncoder)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
