"""A ranking of layers: its rows, as a table to read and as plain values."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class RankedLayer:
    """A row of a ranking.

    Attributes:
        rank: 1 is best; equal ranks share their mean (1.5); None for a layer that could not be
            ranked.
        layer: Block index in the model.
        scores: Mean over prompts of each score, and the companions' values; NaN where there is
            none.
        spread: Standard deviation over prompts of the same scores.
        closure_error: Worst over prompts of ‖recomputed − output‖ / ‖output‖.
        reason: Why the layer is not ranked, or ranked on fewer prompts than others; "" otherwise.
    """

    rank: float | None
    layer: int
    scores: dict[str, float]
    spread: dict[str, float]
    closure_error: float
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Layers, best first. Iterate over it, print it, or take `to_dict()`.

    Attributes:
        rows: The layers, best first; those that could not be ranked last.
        by: The scores that order it.
        notes: Where other scores disagree, and what was left out of the order.
    """

    rows: tuple[RankedLayer, ...]
    by: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[RankedLayer]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> RankedLayer:
        return self.rows[place]

    def to_dict(self) -> dict[str, Any]:
        """The ranking in plain values that JSON can hold: NaN becomes None."""
        return {
            "by": list(self.by),
            "layers": [_plain(dataclasses.asdict(row)) for row in self.rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """An aligned table, then the notes."""
        columns = [
            ["rank", *("-" if row.rank is None else f"{row.rank:g}" for row in self.rows)],
            ["layer", *(str(row.layer) for row in self.rows)],
            *(self._column(name) for name in (self.rows[0].scores if self.rows else ())),
            ["closure_error", *(f"{row.closure_error:.1e}" for row in self.rows)],
        ]
        widths = [max(map(len, column)) for column in columns]
        reasons = ["", *(row.reason for row in self.rows)]
        table = [
            "  ".join([*map(str.rjust, cells, widths), reason]).rstrip()
            for reason, *cells in zip(reasons, *columns, strict=True)
        ]
        order = self.by[0] if len(self.by) == 1 else f"mean rank of {', '.join(self.by)}"
        return "\n".join([f"layers by {order}", *table, *(f"note: {n}" for n in self.notes)])

    def _column(self, name: str) -> list[str]:
        """The name, then each row's value: whole numbers as such, others with their spread."""
        values = [(row.scores[name], row.spread.get(name)) for row in self.rows]
        whole = all(
            math.isnan(mean) or (mean == round(mean) and spread is None) for mean, spread in values
        )
        cells = [name]
        for mean, spread in values:
            cell = "-" if math.isnan(mean) else f"{mean:.0f}" if whole else f"{mean:.3f}"
            cells.append(cell if spread is None else f"{cell} ±{spread:.3f}")
        return cells


def _plain(value: Any) -> Any:
    """Nested plain values with NaN and infinities as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
