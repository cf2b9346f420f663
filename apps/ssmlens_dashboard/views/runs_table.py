"""The table of training runs: one row per run, plain text and numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssmlens.files.strict_json import without_nan
from ssmlens.plot.training_curves import readable
from ssmlens.runs.measures import LOSS, SHARES
from ssmlens.runs.metrics import TRAIN
from ssmlens.runs.run import Run
from ssmlens.runs.table import measures
from ssmlens_dashboard.address import Address, Place
from ssmlens_dashboard.listing import Entry
from ssmlens_dashboard.tables import Column, columns, numbers
from ssmlens_dashboard.views.runs import Listed


def table(
    listed: Sequence[Listed],
    length: int | None,
    captures: Mapping[str, Sequence[Entry]],
    at: Address,
) -> tuple[list[Column], list[dict[str, Any]]]:
    """Build columns and rows for ag-grid: one row per run, with links to its captures.

    Args:
        listed: The runs.
        length: The evaluation length shown.
        captures: The captures of each run by its id, in order.
        at: The address of the page; links keep its theme.
    """
    number = numbers()
    names = _measures(listed)
    long = "" if length is None else f" at {length}"
    definitions = columns(
        {"field": "run", "pinned": "left", "width": 230, "tooltipField": "run"},
        {"field": "arm", "width": 110},
        {"field": "layer", "headerName": "teacher layer", "width": 106, **number},
        {"field": "seed", "width": 60, **number},
        {"field": "rate", "headerName": "learning rate", "width": 104, **number},
        {
            "field": "state",
            "width": 84,
            "cellClassRules": {"failed": "['failed', 'unreadable'].includes(params.value)"},
        },
        *(_LINKS if captures else ()),
        {"field": "step", "type": "rightAligned", "width": 110},
        {"field": "loss", "width": 70, **number},
        *(_measure(name, long) for name in names),
        {"field": "seconds", "headerName": "time", "width": 92, **_TIME},
        {"field": "problem", "flex": 1, "minWidth": 120, "tooltipField": "problem"},
    )
    rows = [
        _row(item, length, names) | _links(captures.get(item.entry.id, ()), at) for item in listed
    ]
    return definitions, rows


def _measures(listed: Sequence[Listed]) -> list[str]:
    """List the measures that have a column: characters and strings always, others if a run has them."""
    measured = [
        name for name in measures([item.run for item in listed if item.run]) if name != LOSS
    ]
    return list(dict.fromkeys(["char", "string", *measured]))


def _measure(name: str, long: str) -> dict[str, Any]:
    """Define the column of a measure. Its field has a prefix, as a measure may have another column's name."""
    title = _TITLES.get(name) or readable(name, 30)
    kind = numbers(".1%") if name in SHARES else numbers()
    return {"field": f"at {name}", "headerName": f"{title}{long}", "width": 116, **kind}


_TITLES = {"char": "characters", "string": "strings"}


def _row(listed: Listed, length: int | None, names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": listed.entry.id,
        "run": readable(listed.entry.name, 60),
        "state": listed.state,
        "problem": readable(listed.problem, 400),
    }
    if listed.run is None:
        return row
    status, loss = listed.run.status, listed.run.metrics.curve("loss", TRAIN)[1]
    return row | {
        "arm": readable(listed.run.arm, 40),
        "layer": listed.run.teacher_layer,
        "seed": listed.run.seed,
        "rate": without_nan(listed.run.learning_rate),
        "step": f"{status.step} of {status.steps}" if status.steps else str(status.step),
        "loss": without_nan(float(loss[-1])) if len(loss) else None,
        **{f"at {name}": _final(listed.run, name, length) for name in names},
        "seconds": without_nan(status.seconds),
        "time": _time(status.seconds),
        "problem": readable(status.error, 400),
    }


def _final(run: Run, measure: str, length: int | None) -> float | None:
    return None if length is None else without_nan(run.metrics.final(measure, length))


def _links(captures: Sequence[Entry], at: Address) -> dict[str, Any]:
    """Link to the maps of a run's first capture, and to its first and last side by side."""
    if not captures:
        return {}
    first, last = captures[0].id, captures[-1].id
    links = {"captures": len(captures), "maps": Address("maps", first, theme=at.theme).href}
    if first != last:
        beside = Address("compare", first, 0, against=(Place(last, 0, 0),), theme=at.theme)
        links["change"] = beside.href
    return links


def _link(field: str, text: str, tooltip: str) -> dict[str, Any]:
    """Define a column of links: a cell contains an address and shows `text`, a JavaScript expression."""
    return {
        "field": field,
        "width": 104,
        "sortable": False,
        "cellClass": "link",
        "headerTooltip": tooltip,
        "valueFormatter": {"function": f"params.value ? {text} : ''"},
    }


_LINKS = (
    _link("maps", "params.data.captures + ' captures'", "Maps captured during training"),
    _link("change", "'first and last'", "The first and the last capture, side by side"),
)


_TIME = {
    "type": "rightAligned",
    "valueFormatter": {"function": "params.data.time"},
}
"""A column that sorts by seconds and shows words."""


def _time(seconds: float) -> str:
    """Format seconds in their two largest units: "3 s", "2 min 10 s", "1 h 5 min"; "" for NaN."""
    if math.isnan(seconds):
        return ""
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds_left} s" if minutes else f"{seconds_left} s"
