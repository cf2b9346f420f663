"""`ssmlens validate-ranking`."""

import dataclasses
from typing import Any

from ssmlens.cli.command import Result
from ssmlens.cli.sweep import failures
from ssmlens.cli.transplant import TransplantCommand, draw
from ssmlens.text_table import text_table


@dataclasses.dataclass(frozen=True)
class ValidateRankingCommand(TransplantCommand):
    """Does the order of rank-layers, or any score, predict what students of a teacher's layers learn? Train a student
    from every layer and from its shuffled values, and tell the rank correlations, with intervals and tests along depth.

    The options are those of ssmlens transplant. What is measured is the mean over all rates and seeds, at the longest
    length.
    """

    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Learning rates of every arm."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of every arm."""
    controls: tuple[str, ...] = ("all",)
    """As in ssmlens transplant. Without shuffled values of all layers nothing is told of their structure."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.runs.prediction_table import corrected, plain, rows
        from ssmlens.runs.rank_statistics import split_half

        made, out = self.trained()
        table, predictions = _predictions(made)
        adjusted = corrected(predictions, [[it.score for it in predictions[1:]]])
        if self.figure is not None:
            draw(made.students(), list(table.scores), self.figure, self.theme)
        seeds = table.real.shape[1]
        ceiling = split_half(table.real)
        lines = [
            f"{len(table.layer)} layers, {seeds} whole {'seed' if seeds == 1 else 'seeds'}, {table.outcome}: "
            "Spearman's ρ over layers of scores before training with what students reach",
            text_table(rows(predictions, adjusted)),
            f"order of rank-layers: {', '.join(made.ranking.by)}"
            + (
                ""
                if ceiling != ceiling
                else f"; the seeds agree to {ceiling:.2f} (Spearman, Brown)"
            ),
            *failures(made.runs),
            f"open them with ssmlens dashboard {out}",
        ]
        data = {
            "out": str(out),
            "outcome": table.outcome,
            "layers": table.layer.tolist(),
            "seeds": seeds,
            "agreement_of_seeds": ceiling,
            "real": table.real.mean(1).tolist(),
            "shuffled": table.shuffled.mean(1).tolist() if table.shuffled.shape[1] else None,
            "by": list(made.ranking.by),
            "predictions": [plain(it, p) for it, p in zip(predictions, adjusted, strict=True)],
        }
        failed = any(run.status.state == "failed" for run in made.runs)
        return Result(data, "\n".join(lines), exit_code=int(failed))


def _predictions(made: Any) -> tuple[Any, list[Any]]:
    """The table of the layers with the order of `rank-layers` as a score, and its prediction before all others."""
    import numpy as np

    from ssmlens.runs.validation import LOG_SCALE, layer_table, predict

    table = layer_table(made.runs)
    rank = {row.layer: row.rank for row in made.ranking}
    order = [np.nan if rank[n] is None else -float(rank[n]) for n in table.layer.tolist()]
    known = {name: v for name, v in table.scores.items() if np.isfinite(v).any()}
    scores = {"rank-layers": np.array(order), **known}
    table = dataclasses.replace(table, scores=scores)
    names = [name for name in scores if name != LOG_SCALE]
    return table, [predict([table], name) for name in names]


COMMAND = ValidateRankingCommand
