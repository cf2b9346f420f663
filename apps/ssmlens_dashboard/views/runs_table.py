"""The table of training runs: a row a run, plain text and numbers."""

import math
from collections.abc import Sequence
from typing import Any

from ssmlens.plots.training_curves import readable
from ssmlens.store.run_metrics import TRAIN
from ssmlens_dashboard.views.runs import MEASURES, Listed, final_mean


def table(
    found: Sequence[Listed], length: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Columns and rows for ag-grid, a row a run: plain text and numbers."""
    number, share = (
        {"valueFormatter": _formatted(form), "type": "rightAligned"} for form in (".3~g", ".1%")
    )
    at = "" if length is None else f" at {length}"
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
        {"field": "step", "type": "rightAligned", "width": 110},
        {"field": "loss", "width": 70, **number},
        {"field": "char", "headerName": f"characters{at}", "width": 116, **share},
        {"field": "string", "headerName": f"strings{at}", "width": 100, **share},
        {"field": "minutes", "width": 76, **number},
        {"field": "problem", "flex": 1, "minWidth": 120, "tooltipField": "problem"},
    ]
    named = [
        {"headerName": column["field"], "sortable": True, "resizable": True, **column}
        for column in columns
    ]
    return named, [_row(it, length) for it in found]


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


def _formatted(form: str) -> dict[str, str]:
    """A number in d3's format; nothing where there is none."""
    return {"function": f"params.value == null ? '' : d3.format('{form}')(params.value)"}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
