"""The report's texts and tables as plain values; page/report.html turns them into HTML."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from ssmlens.names import MAMBA, OTHER, PROMPT
from ssmlens.plot.sources import ReportSource
from ssmlens.scores import SCORES, Ranking
from ssmlens.scores.chance import chance_levels
from ssmlens.scores.reading import is_softmax
from ssmlens.store.verdict import CLOSURE, MAP_CLOSURE, Verdict

Verdicts = Mapping[int, Verdict]
"""The verdict of each layer by its number."""

MARKS = {
    "yes": ("✓ ok", "ok"),
    "no": ("✗ failed", "failed"),
    "not resolved": ("? not resolved", "failed"),
}
"""The mark of each answer, and the CSS class of its colour."""

_CHANCE = "what each score is by chance; where layers differ, the least and the most"
_FACTS = {
    "revision": "Revision",
    "model_digest": "Weights",
    "backend": "Backend",
    "dtype": "Dtype",
    "command": "Command",
}
_WIDE = ("Blocks", "Versions", "Command")
_LONGEST = 40  # characters of a fact that is not wide
_SHOWN_RANKS = 12


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Its text.
        css: Its CSS class.
        value: Its sort key.
        title: Its tooltip.
        small: Small text after it.
        opens: The layer that a click opens.
        mark: The CSS class of a mark around the text.
    """

    text: str
    css: str = ""
    value: str = ""
    title: str = ""
    small: str = ""
    opens: int | None = None
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    foot: Sequence[Cell] = ()


def header(capture: ReportSource, verdicts: Verdicts) -> dict[str, Any]:
    """Model, how it was captured, whether the layers close, and the prompts."""
    without_yes = {index: v for index, v in verdicts.items() if not v.believed}
    computed = [index for index in verdicts if not is_softmax(capture.layer(index))]
    if without_yes:
        layers = ", ".join(map(str, without_yes))
        verdict = f"Does not close: layer {layers}. Find out why before you read these maps."
    elif computed:
        verdict = f"All {len(computed)} layers reproduce what the model computed."
    else:
        verdict = "Only softmax attention: its maps are the model's own weights."
    failed = any(v.answer == "no" for v in without_yes.values())
    facts = [(label, capture.attributes.get(name)) for name, label in _FACTS.items()]
    facts[4:4] = [
        ("Versions", _versions(capture.attributes)),
        ("Layers", ranges(capture.layers)),
        ("Blocks", _blocks(capture.block_kinds)),
        ("Capture", capture.digest),
        ("Schema", capture.schema_version),
    ]
    return {
        "model": str(capture.attributes.get("model", "unnamed model")),
        "mark": MARKS["no" if failed else "not resolved" if without_yes else "yes"],
        "verdict": verdict,
        "facts": [_fact(name, str(value)) for name, value in facts if value not in (None, "")],
        "prompts": [
            {"text": text or "(token ids)", "told": f"{kind}, {_count(int(length), 'token')}"}
            for text, kind, length in zip(
                capture.prompt_texts, capture.prompt_kinds, capture.length, strict=True
            )
        ],
    }


def ranking_order(ranking: Ranking) -> dict[str, Any]:
    """Describe the order of the layers, any cut of the list, and the notes."""
    several = len(ranking.by) > 1
    count = len(ranking.rows)
    return {
        "by": f"mean rank of {', '.join(ranking.by)}" if several else "".join(ranking.by),
        "cut": f"; the first {_SHOWN_RANKS} of {count}" if count > _SHOWN_RANKS else "",
        "notes": [*ranking.notes, *_reasons(ranking)],
    }


def ranking_table(ranking: Ranking, verdicts: Verdicts, capture: ReportSource) -> Table:
    """Tabulate the layers, best first."""
    names = list(ranking.rows[0].scores) if ranking.rows else []
    rows = [
        [
            Cell("–" if row.rank is None else f"{row.rank:g}", "number rank"),
            _layer_cell(row.layer),
            *(
                _number(row.scores[n], row.spread.get(n, math.nan), by=n in ranking.by)
                for n in names
            ),
            _number(row.closure_error, form=".2g"),
            _number(row.map_closure, form=".2g"),
            _check(verdicts[row.layer], capture, row.layer),
        ]
        for row in ranking.rows[:_SHOWN_RANKS]
    ]
    head = ["rank", "layer", *names, CLOSURE, MAP_CLOSURE, "check"]
    levels = {name: ranking.chance_of(name) for name in names}
    return Table("Ranking", head, rows, foot=_by_chance(["chance", "", *names], levels, head))


def score_table(scores: xr.Dataset, means: Mapping[str, Sequence[float]]) -> Table:
    """Tabulate one row per layer, one column per score; the tooltip of an empty cell says why."""
    layers = [int(i) for i in scores["layer"].values]
    rows = [
        [
            _layer_cell(layer),
            *(_number(values[i], why=_reason(scores, n, i)) for n, values in means.items()),
        ]
        for i, layer in enumerate(layers)
    ]
    head = ["layer", *means]
    foot = _by_chance(["chance", *means], chance_levels(scores), head)
    return Table("Scores", head, rows, sortable=True, foot=foot)


def closure_table(verdicts: Verdicts, capture: ReportSource) -> Table:
    """Every layer's errors, with a mark that does not depend on colour."""
    names = list(dict.fromkeys(name for v in verdicts.values() for name in v.errors))
    rows = [
        [
            _layer_cell(index),
            _check(verdict, capture, index),
            *(_number(verdict.errors.get(name, math.nan), form=".2g") for name in names),
            Cell("–" if verdict.worst_token is None else str(verdict.worst_token), "number"),
            _number(verdict.agreement),
            Cell("" if verdict.believed else verdict.reason, "reason"),
        ]
        for index, verdict in verdicts.items()
    ]
    head = ["layer", "check", *names, "worst token", "channel agreement", "problem"]
    return Table("Closure", head, rows, sortable=True)


def tolerances(verdicts: Verdicts) -> str:
    """The largest that each error may be: "closure_error 1e-04, map_error 1e-05"."""
    largest = {name: limit for v in verdicts.values() for name, limit in v.tolerances.items()}
    return ", ".join(f"{name} {limit:.0e}" for name, limit in largest.items())


def mean_scores(scores: xr.Dataset) -> dict[str, list[float]]:
    """Average every variable of a Dataset of scores over prompts; return lists over layers."""
    variables: dict[str, Any] = {str(n): v for n, v in scores.data_vars.items() if n != "reason"}
    means = {
        name: v.mean(PROMPT, skipna=True) if PROMPT in v.dims else v
        for name, v in variables.items()
    }
    return {name: [float(x) for x in values.values] for name, values in means.items()}


def ranges(layers: Sequence[int]) -> str:
    """Format numbers as ranges: 1, 2, 3, 7 → "1–3, 7"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _reasons(ranking: Ranking) -> list[str]:
    """Say why layers are not ranked, one line per reason."""
    layers: dict[str, list[int]] = {}
    for row in ranking.rows:
        if row.reason:
            layers.setdefault(row.reason, []).append(row.layer)
    return [f"layer {ranges(sorted(indices))}: {reason}" for reason, indices in layers.items()]


def _by_chance(names: Sequence[str], levels: Mapping[str, str], head: Sequence[str]) -> list[Cell]:
    """The last row: what each score is by chance, and hovered how that is computed; empty where there is none."""
    if not any(levels.values()):
        return []
    cells = [
        Cell(levels.get(n, ""), "number", title=SCORES[n].chance_in_words if n in SCORES else "")
        for n in names[1:]
    ]
    blank = [Cell("")] * (len(head) - len(names))
    return [Cell(names[0], title=_CHANCE), *cells, *blank]


def _layer_cell(layer: int) -> Cell:
    return Cell(str(layer), "number", value=str(layer), opens=layer)


def _check(verdict: Verdict, capture: ReportSource, index: int) -> Cell:
    text, css = MARKS[verdict.answer]
    order = str(int(verdict.believed))
    if verdict.believed and is_softmax(capture.layer(index)):
        return Cell("softmax attention", value=order)
    return Cell(text, value=order, title=verdict.reason, mark=f"mark {css}")


def _number(
    value: float,
    spread: float = math.nan,
    *,
    by: bool = False,
    why: str = "",
    form: str = ".3g",
) -> Cell:
    if math.isnan(value):
        return Cell("–", "number", title=why)
    return Cell(
        format(value, form).replace("-", "−"),
        "number by" if by else "number",
        value=repr(float(value)),
        small=f" ±{spread:.2g}" if by and spread > 0 else "",
    )


def _reason(scores: xr.Dataset, name: str, row: int) -> str:
    if "reason" not in scores or name not in scores["score"].values:
        return ""
    reasons = scores["reason"].sel(score=name).isel(layer=row)
    return "; ".join(dict.fromkeys(str(r) for r in reasons.values.ravel() if str(r)))


def _fact(name: str, value: str) -> dict[str, Any]:
    wide = name in _WIDE
    short = value if wide or len(value) <= _LONGEST else f"{value[:16]}…"
    return {"name": name, "short": short, "value": value, "wide": wide}


def _versions(attributes: Mapping[str, Any]) -> str:
    """List the versions of the software that made the capture: "ssmlens 0.1.0, torch 2.13.0"."""
    suffix = "_version"
    known = {n.removesuffix(suffix): v for n, v in attributes.items() if n.endswith(suffix)}
    return ", ".join(f"{name} {version}" for name, version in known.items())


def _blocks(kinds: Sequence[str]) -> str:
    """List the blocks by kind if not all are Mamba: "mamba 0–3, 5; attention 4"."""
    if set(kinds) <= {MAMBA, OTHER}:
        return ""
    places = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)}
    return "; ".join(f"{kind} {ranges(blocks)}" for kind, blocks in places.items())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
