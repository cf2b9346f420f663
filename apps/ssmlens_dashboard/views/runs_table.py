"""The table of training runs: a row a run, plain text and numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssmlens.plots.training_curves import readable
from ssmlens.store.run_metrics import TRAIN
from ssmlens_dashboard.address import Address, Place
from ssmlens_dashboard.library import Entry
from ssmlens_dashboard.views.runs import MEASURES, Listed, final_mean


def table(
    found: Sequence[Listed],
    length: int | None,
    captures: Mapping[str, Sequence[Entry]],
    at: Address,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Columns and rows for ag-grid, a row a run: plain text and numbers, and where a click on its captures leads.

    Args:
        found: The runs.
        length: The length whose evaluation is shown.
        captures: The captures of each run, by its id, in order.
        at: The address of the page; what is led to keeps its theme.
    """
    number, share = (
        {"valueFormatter": _formatted(form), "type": "rightAligned"} for form in (".3~g", ".1%")
    )
    long = "" if length is None else f" at {length}"
    columns = [
        {"field": "run", "pinned": "left", "width": 170},
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
        {"field": "char", "headerName": f"characters{long}", "width": 116, **share},
        {"field": "string", "headerName": f"strings{long}", "width": 100, **share},
        {"field": "minutes", "width": 76, **number},
        {"field": "problem", "flex": 1, "minWidth": 120, "tooltipField": "problem"},
    ]
    named = [
        {"headerName": column["field"], "sortable": True, "resizable": True, **column}
        for column in columns
    ]
    rows = [_row(it, length) | _links(captures.get(it.entry.id, ()), at) for it in found]
    return named, rows


def _row(it: Listed, length: int | None) -> dict[str, Any]:
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
        "rate": _plain(it.run.learning_rate),
        "step": f"{status.step} of {status.steps}" if status.steps else str(status.step),
        "loss": _plain(float(loss[-1])) if len(loss) else None,
        **{name: _plain(final_mean([it.run], name, length)) for name in MEASURES},
        "minutes": _plain(status.seconds / 60),
        "problem": readable(status.error, 400),
    }


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


def _formatted(form: str) -> dict[str, str]:
    """A number in d3's format; nothing where there is none."""
    return {"function": f"params.value == null ? '' : d3.format('{form}')(params.value)"}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
