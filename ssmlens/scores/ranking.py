"""A ranking of layers or heads: its rows, as a table to read and as plain values."""

import dataclasses
import html
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ssmlens.text_table import text_table

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class RankedLayer:
    """A row of a ranking.

    Attributes:
        rank: 1 is best; equal ranks share their mean (1.5); None for a layer that could not be
            ranked.
        layer: Block index in the model.
        scores: Mean over prompts of each score, and the companions' values; NaN if there is none.
        spread: Standard deviation over prompts of the same scores.
        closure_error: Largest over prompts of ‖recomputed − output‖ / ‖output‖.
        map_closure: The same difference relative to the map's contribution (`recorder.closure`); NaN if unknown.
        reason: Why the layer is not ranked, why its maps are not proven, or why it is ranked on fewer prompts than
            others; "" otherwise.
        head: In a ranking of heads, the head's number in the layer.
        operator: In a ranking of heads, the head's operator: "decay scan", "delta rule", "softmax".
    """

    rank: float | None
    layer: int
    scores: dict[str, float]
    spread: dict[str, float]
    closure_error: float
    map_closure: float = math.nan
    reason: str = ""
    head: int | None = None
    operator: str | None = None

    @property
    def label(self) -> str:
        """The layer as text; a head is "layer.head", a head of softmax attention "layer.head softmax"."""
        if self.head is None:
            return str(self.layer)
        attends = " softmax" if self.operator == "softmax" else ""
        return f"{self.layer}.{self.head}{attends}"


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Layers or heads, best first. Iterate over it, print it, or take `to_dict()`.

    Attributes:
        rows: The layers, best first; those that could not be ranked last.
        by: The scores that order it.
        notes: Where other scores disagree, and which scores were left out.
        of: Kind of the rows, "layer" or "head".
    """

    rows: tuple[RankedLayer, ...]
    by: tuple[str, ...]
    notes: tuple[str, ...] = ()
    of: Literal["layer", "head"] = "layer"

    def with_notes(self, notes: Sequence[str]) -> "Ranking":
        """The same ranking with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def __iter__(self) -> Iterator[RankedLayer]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> RankedLayer:
        return self.rows[place]

    def to_dict(self) -> dict[str, Any]:
        """The ranking as plain values for JSON: NaN becomes None."""
        return {
            "by": list(self.by),
            f"{self.of}s": [_plain(_dict(row)) for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """An aligned table, then the notes."""
        table = text_table(self._table(), left=(-1,))
        return "\n".join([self._title, table, *(f"note: {n}" for n in self.notes)])

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        header, *rows = self._table()
        cells = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        notes = "".join(f"<div>note: {html.escape(note)}</div>" for note in self.notes)
        title = html.escape(self._title)
        return f"<div>{title}</div><table><tr>{cells}</tr>{body}</table>{notes}"

    def to_frame(self) -> "pandas.DataFrame":
        """One row per layer: `rank` (NaN if not ranked), the scores, their `_spread`, both closures, `reason`.

        The index is the layer's block index; for heads it is layer and head, and there is a column `operator`.
        """
        import pandas

        index = ["layer"] if self.of == "layer" else ["layer", "head"]
        columns = index if self.of == "layer" else [*index, "operator"]
        rows = [
            {
                **{name: getattr(row, name) for name in columns},
                "rank": row.rank,
                **row.scores,
                **{f"{name}_spread": value for name, value in row.spread.items()},
                "closure_error": row.closure_error,
                "map_closure": row.map_closure,
                "reason": row.reason,
            }
            for row in self.rows
        ]
        return pandas.DataFrame(rows).set_index(index) if rows else pandas.DataFrame()

    @property
    def _title(self) -> str:
        order = self.by[0] if len(self.by) == 1 else f"mean rank of {', '.join(self.by)}"
        return f"{self.of}s by {order}"

    def _table(self) -> list[list[str]]:
        """A header, then one row per layer; the reason comes last, without a column name."""
        names = list(self.rows[0].scores) if self.rows else []
        map_closures = [row.map_closure for row in self.rows]
        known = not all(map(math.isnan, map_closures))
        columns = [
            ["rank", *("-" if row.rank is None else f"{row.rank:g}" for row in self.rows)],
            [self.of, *(row.label for row in self.rows)],
            *map(self._column, names),
            ["closure_error", *(f"{row.closure_error:.1e}" for row in self.rows)],
            *([["map_closure", *map(_error, map_closures)]] if known else []),
            ["", *(row.reason for row in self.rows)],
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def _column(self, name: str) -> list[str]:
        """The name, then each row's value: integers without decimals, others with their spread."""
        values = [(row.scores[name], row.spread.get(name)) for row in self.rows]
        is_integer = all(
            math.isnan(mean) or (mean == round(mean) and spread is None) for mean, spread in values
        )
        cells = [name]
        for mean, spread in values:
            cell = "-" if math.isnan(mean) else f"{mean:.0f}" if is_integer else f"{mean:.3f}"
            cells.append(cell if spread is None else f"{cell} ±{spread:.3f}")
        return cells


def _error(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}"


def _dict(row: RankedLayer) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    if row.head is None:
        del values["head"], values["operator"]
    return values


def _plain(value: Any) -> Any:
    """Replace NaN and infinities by None in nested plain values."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
