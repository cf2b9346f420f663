"""The table of training runs: a row a run, plain text and numbers."""

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
    found: Sequence[Listed],
    length: int | None,
    captures: Mapping[str, Sequence[Entry]],
    at: Address,
) -> tuple[list[Column], list[dict[str, Any]]]:
    """Columns and rows for ag-grid, a row a run: plain text and numbers, and where a click on its captures leads.

    Args:
        found: The runs.
        length: The length whose evaluation is shown.
        captures: The captures of each run, by its id, in order.
        at: The address of the page; what is led to keeps its theme.
    """
    number = numbers()
    shown = _shown(found)
    long = "" if length is None else f" at {length}"
    told = columns(
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
        *(_measure(name, long) for name in shown),
        {"field": "seconds", "headerName": "time", "width": 92, **_TIME},
        {"field": "problem", "flex": 1, "minWidth": 120, "tooltipField": "problem"},
    )
    rows = [_row(it, length, shown) | _links(captures.get(it.entry.id, ()), at) for it in found]
    return told, rows


def _shown(found: Sequence[Listed]) -> list[str]:
    """The measures that have a column: characters and strings always, others where a run has them."""
    there = [name for name in measures([it.run for it in found if it.run]) if name != LOSS]
    return list(dict.fromkeys(["char", "string", *there]))


def _measure(name: str, long: str) -> dict[str, Any]:
    """The column of a measure. Its field is not the measure's own name, which may be that of another column."""
    title = _TITLES.get(name) or readable(name, 30)
    kind = numbers(".1%") if name in SHARES else numbers()
    return {"field": f"at {name}", "headerName": f"{title}{long}", "width": 116, **kind}


_TITLES = {"char": "characters", "string": "strings"}


def _row(it: Listed, length: int | None, shown: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": it.entry.id,
        "run": readable(it.entry.name, 60),
        "state": it.state,
        "problem": readable(it.problem, 400),
    }
    if it.run is None:
        return row
    status, loss = it.run.status, it.run.metrics.curve("loss", TRAIN)[1]
    return row | {
        "arm": readable(it.run.arm, 40),
        "layer": it.run.teacher_layer,
        "seed": it.run.seed,
        "rate": without_nan(it.run.learning_rate),
        "step": f"{status.step} of {status.steps}" if status.steps else str(status.step),
        "loss": without_nan(float(loss[-1])) if len(loss) else None,
        **{f"at {name}": _final(it.run, name, length) for name in shown},
        "seconds": without_nan(status.seconds),
        "time": _time(status.seconds),
        "problem": readable(status.error, 400),
    }


def _final(run: Run, measure: str, length: int | None) -> float | None:
    return None if length is None else without_nan(run.metrics.final(measure, length))


def _links(captures: Sequence[Entry], at: Address) -> dict[str, Any]:
    """To the maps of a run's first capture, and to its first beside its last."""
    if not captures:
        return {}
    first, last = captures[0].id, captures[-1].id
    told = {"captures": len(captures), "maps": Address("maps", first, theme=at.theme).href}
    if first != last:
        beside = Address("compare", first, 0, against=(Place(last, 0, 0),), theme=at.theme)
        told["change"] = beside.href
    return told


def _link(field: str, text: str, tooltip: str) -> dict[str, Any]:
    """A column whose cells hold an address and show `text`, a JavaScript expression."""
    return {
        "field": field,
        "width": 104,
        "sortable": False,
        "cellClass": "link",
        "headerTooltip": tooltip,
        "valueFormatter": {"function": f"params.value ? {text} : ''"},
    }


_LINKS = (
    _link("maps", "params.data.captures + ' captures'", "Maps captured while it trained"),
    _link("change", "'first and last'", "The first capture beside the last"),
)


_TIME = {
    "type": "rightAligned",
    "valueFormatter": {"function": "params.data.time"},
}
"""A column whose cells are sorted by their seconds and read as words."""


def _time(seconds: float) -> str:
    """Seconds in the two largest units that they fill: "3 s", "2 min 10 s", "1 h 5 min"; "" for NaN."""
    if math.isnan(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
