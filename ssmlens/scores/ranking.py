"""A ranking of layers or heads: its rows, as a table to read and as plain values."""

import dataclasses
import html
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ssmlens.files.strict_json import without_nan
from ssmlens.scores.chance import chance_text
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
        closure_error: Worst over prompts of ‖recomputed − output‖ / ‖output‖.
        map_closure: The same difference beside what the map contributes (`recorder.closure`); NaN where unknown.
        reason: Why the layer is not ranked, why it does not close, or why it is ranked on fewer prompts than
            others; "" otherwise.
        head: In a ranking of heads, which head of the layer.
        operator: In a ranking of heads, what the head is part of: "decay scan", "delta rule", "softmax".
        chance: Mean over prompts of what the scores are by chance (`Score.chance`), those that have such a level.
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
    chance: dict[str, float] = dataclasses.field(default_factory=dict)

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
        """The ranking in plain values that JSON can hold: NaN becomes None."""
        rows = [_dict(row) for row in self.rows]
        return without_nan({"by": self.by, f"{self.of}s": rows, "notes": self.notes})

    def __str__(self) -> str:
        """An aligned table, its last row what scores are by chance, then the notes."""
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
        """A row a layer: `rank` (NaN where not ranked), the scores with `_spread` and `_chance`, closures, `reason`.

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
                **{f"{name}_chance": value for name, value in row.chance.items()},
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
        """A header, a row a layer, and what the scores are by chance; a reason stands last, under no name."""
        names = list(self.rows[0].scores) if self.rows else []
        map_closures = [row.map_closure for row in self.rows]
        known = not all(map(math.isnan, map_closures))
        columns = [
            [
                "rank",
                *("-" if row.rank is None else f"{row.rank:g}" for row in self.rows),
                "chance",
            ],
            [self.of, *(row.label for row in self.rows), ""],
            *([*self._column(name), self.chance_of(name)] for name in names),
            ["closure_error", *(f"{row.closure_error:.1e}" for row in self.rows), ""],
            *([["map_closure", *map(_error, map_closures), ""]] if known else []),
            ["", *(row.reason for row in self.rows), ""],
        ]
        rows = [list(row) for row in zip(*columns, strict=True)]
        return rows if any(rows[-1][1:]) else rows[:-1]

    def chance_of(self, score: str) -> str:
        """What a score is by chance: one number, or the least and the most of the rows; "" where there is none."""
        return chance_text(row.chance[score] for row in self.rows if score in row.chance)

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
    of_head = ("head", "operator")
    return values if row.head is not None else {k: v for k, v in values.items() if k not in of_head}
