"""The report's text and tables, as HTML: header, ranking, scores, proofs, layers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xarray as xr

from ssmlens.names import MAMBA, OTHER, PROMPT
from ssmlens.plots.markup import Markup, element, joined
from ssmlens.plots.proofs import ERRORS, Proof
from ssmlens.plots.sources import ReportSource
from ssmlens.scores import Ranking

_FACTS = {
    "revision": "Revision",
    "model_digest": "Weights",
    "backend": "Backend",
    "dtype": "Dtype",
    "command": "Command",
}
_SHOWN_RANKS = 12


def header(capture: ReportSource, all_proofs: Sequence[Proof]) -> Markup:
    """Model, how it was captured, whether the maps are proven, and the prompts."""
    failed = [p for p in all_proofs if not p.ok]
    scans = [p for p in all_proofs if p.kind == MAMBA]
    if failed:
        layers = ", ".join(str(p.layer) for p in failed)
        verdict = f"Not proven: layer {layers}. Do not read these maps before you know why."
    elif scans:
        verdict = f"All {len(scans)} layers reproduce what the model computed."
    else:
        verdict = "Softmax attention alone: its maps are the model's own weights."
    facts = [(label, capture.attributes.get(name)) for name, label in _FACTS.items()]
    facts[4:4] = [
        ("Versions", _versions(capture.attributes)),
        ("Layers", _ranges(capture.layers)),
        ("Blocks", _blocks(capture.block_kinds)),
        ("Capture", capture.digest),
        ("Schema", capture.schema_version),
    ]
    return joined(
        element("p", "ssmlens report · hidden attention", class_="eyebrow"),
        element("h1", str(capture.attributes.get("model", "unnamed model"))),
        element("p", mark(not failed), " ", verdict, class_="verdict"),
        element("dl", *(_fact(k, str(v)) for k, v in facts if v not in (None, "")), class_="facts"),
        element(
            "details",
            element("summary", _count(len(capture.prompt_texts), "prompt")),
            element("ol", *_prompts(capture), class_="prompts", start="0"),
            open=len(capture.prompt_texts) <= 6,
        ),
    )


def ranking_table(ranking: Ranking, all_proofs: Sequence[Proof]) -> Markup:
    """The layers, best first, with reasons; then where the scores disagree."""
    proof = {p.layer: p for p in all_proofs}
    names = list(ranking.rows[0].scores) if ranking.rows else []
    shown = ranking.rows[:_SHOWN_RANKS]
    rows = [
        [
            _text("–" if row.rank is None else f"{row.rank:g}", class_="number rank"),
            _layer_cell(row.layer),
            *(
                _number(row.scores[n], row.spread.get(n, math.nan), by=n in ranking.by)
                for n in names
            ),
            _check(proof[row.layer]),
        ]
        for row in shown
    ]
    order = f"mean rank of {', '.join(ranking.by)}" if len(ranking.by) > 1 else "".join(ranking.by)
    cut = (
        f"; the first {len(shown)} of {len(ranking.rows)}" if len(shown) < len(ranking.rows) else ""
    )
    notes = [*ranking.notes, *_reasons(ranking)]
    return joined(
        element("p", "Ordered by ", element("strong", order), cut, ".", class_="lead"),
        _table("Ranking", ["rank", "layer", *names, "check"], rows),
        element("ul", *(element("li", note) for note in notes), class_="notes") if notes else "",
    )


def _reasons(ranking: Ranking) -> list[str]:
    """Why layers are not ranked, a line for all layers with the same reason."""
    layers: dict[str, list[int]] = {}
    for row in ranking.rows:
        if row.reason:
            layers.setdefault(row.reason, []).append(row.layer)
    return [f"layer {_ranges(sorted(who))}: {reason}" for reason, who in layers.items()]


def score_table(scores: xr.Dataset, means: Mapping[str, Sequence[float]]) -> Markup:
    """A sortable table: a row a layer, a column a score; an empty cell says why when hovered."""
    layers = [int(i) for i in scores["layer"].values]
    rows = [
        [
            _layer_cell(layer),
            *(_number(values[i], why=_reason(scores, n, i)) for n, values in means.items()),
        ]
        for i, layer in enumerate(layers)
    ]
    return _table("Scores", ["layer", *means], rows, sortable=True)


def proof_table(all_proofs: Sequence[Proof]) -> Markup:
    """A sortable table of every layer's errors, with a mark that does not depend on colour."""
    rows = [
        [
            _layer_cell(proof.layer),
            _check(proof),
            *(_number(proof.errors[name], form=".2g") for name in ERRORS),
            _text("–" if proof.worst_token is None else str(proof.worst_token), class_="number"),
            _number(proof.channel_agreement),
            _text(proof.problem, class_="reason"),
        ]
        for proof in all_proofs
    ]
    head = ["layer", "check", *ERRORS, "worst token", "channel agreement", "problem"]
    return _table("Proofs", head, rows, sortable=True)


def mark(ok: bool) -> Markup:
    """A tick or a cross with its word."""
    return element("span", "✓ ok" if ok else "✗ failed", class_="mark ok" if ok else "mark failed")


def _table(
    caption: str, head: Sequence[str], rows: Iterable[list[Markup]], *, sortable: bool = False
) -> Markup:
    def heading(name: str) -> Markup:
        words = joined(*(Markup(f"{part}<wbr>") for part in _broken(name)))
        return element(
            "th", element("button", words, type="button") if sortable else words, scope="col"
        )

    table = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *map(heading, head))),
        element("tbody", *(element("tr", *row) for row in rows)),
        class_="sortable" if sortable else None,
    )
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _broken(name: str) -> list[Markup]:
    """A name in pieces between which a line may break: after each underscore."""
    parts = name.split("_")
    return [joined(part + "_") for part in parts[:-1]] + [joined(parts[-1])]


def _text(text: str, class_: str | None = None) -> Markup:
    return element("td", text, class_=class_)


def _layer_cell(layer: int) -> Markup:
    button = element("button", str(layer), type="button", class_="open", data_layer=str(layer))
    return element("td", button, class_="number", data_value=str(layer))


def _check(proof: Proof) -> Markup:
    said = mark(proof.ok) if proof.kind == MAMBA or not proof.ok else "softmax attention"
    return element("td", said, title=proof.problem or None, data_value=str(int(proof.ok)))


def _number(
    value: float,
    spread: float = math.nan,
    *,
    by: bool = False,
    why: str = "",
    form: str = ".3g",
) -> Markup:
    if math.isnan(value):
        return element("td", "–", class_="number", title=why or None)
    shown = format(value, form).replace("-", "−")
    varies = element("small", f" ±{spread:.2g}") if by and spread > 0 else ""
    return element(
        "td",
        shown,
        varies,
        class_="number by" if by else "number",
        data_value=repr(float(value)),
    )


def _reason(scores: xr.Dataset, name: str, row: int) -> str:
    if "reason" not in scores or name not in scores["score"].values:
        return ""
    reasons = scores["reason"].sel(score=name).isel(layer=row)
    return "; ".join(dict.fromkeys(str(r) for r in reasons.values.ravel() if str(r)))


def _fact(name: str, value: str) -> Markup:
    wide = name in ("Blocks", "Versions", "Command")
    short = value if wide or len(value) <= 40 else f"{value[:16]}…"
    fact = element("dt", name), element("dd", short, title=value)
    return element("div", *fact, class_="wide" if wide else None)


def _versions(attributes: Mapping[str, Any]) -> str:
    """Of what made the capture: "ssmlens 0.1.0, torch 2.13.0"."""
    suffix = "_version"
    made = {n.removesuffix(suffix): v for n, v in attributes.items() if n.endswith(suffix)}
    return ", ".join(f"{name} {version}" for name, version in made.items())


def _prompts(capture: ReportSource) -> list[Markup]:
    kinds, lengths = capture.prompt_kinds, capture.length
    return [
        element(
            "li",
            element("code", text or "(token ids)"),
            element("small", f" {kind}, {_count(int(length), 'token')}"),
        )
        for text, kind, length in zip(capture.prompt_texts, kinds, lengths, strict=True)
    ]


def _blocks(kinds: Sequence[str]) -> str:
    """What the model's blocks are, where not all are Mamba: "mamba 0–3, 5; attention 4"."""
    if set(kinds) <= {MAMBA, OTHER}:
        return ""
    found = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)}
    return "; ".join(f"{kind} {_ranges(blocks)}" for kind, blocks in found.items())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _ranges(layers: Sequence[int]) -> str:
    """1, 2, 3, 7 → "1–3, 7"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def mean_scores(scores: xr.Dataset) -> dict[str, list[float]]:
    """Every variable of a Dataset of scores as a list over layers: the mean over its prompts."""
    variables: dict[str, Any] = {str(n): v for n, v in scores.data_vars.items() if n != "reason"}
    means = {
        name: v.mean(PROMPT, skipna=True) if PROMPT in v.dims else v
        for name, v in variables.items()
    }
    return {name: [float(x) for x in values.values] for name, values in means.items()}
