"""`ssmlens validate-ranking`."""

import dataclasses
from typing import Any

from ssmlens.cli.command import Result
from ssmlens.cli.sweep import failures
from ssmlens.cli.transplant import TransplantCommand, draw
from ssmlens.text_table import text_table


@dataclasses.dataclass(frozen=True)
class ValidateRankingCommand(TransplantCommand):
    """Test whether the order of rank-layers, or any score, predicts what students of a teacher's layers learn.

    Trains a student from every layer and from its shuffled values. Reports the rank correlations, with intervals and
    tests along depth. The options are those of ssmlens transplant. The outcome is the mean over all rates and seeds, at
    the longest length.
    """

    rates: tuple[float, ...] = (1e-3, 3e-3)
    """Learning rates of every arm."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of every arm."""
    controls: tuple[str, ...] = ("all",)
    """As in ssmlens transplant. Results about structure need the shuffled values of all layers."""

    def run(self) -> Result:
        """Train the students and return the table of predictions."""
        from ssmlens.runs.prediction_table import corrected, plain, rows
        from ssmlens.runs.rank_statistics import split_half

        transplants, out = self.train()
        table, predictions = _predictions(transplants)
        adjusted = corrected(predictions, [[prediction.score for prediction in predictions[1:]]])
        if self.figure is not None:
            draw(transplants.students(), list(table.scores), self.figure, self.theme)
        seeds = table.real.shape[1]
        ceiling = split_half(table.real)
        lines = [
            f"{len(table.layer)} layers, {seeds} complete {'seed' if seeds == 1 else 'seeds'}, {table.outcome}: "
            "Spearman's ρ over layers between scores before training and the students' outcome",
            text_table(rows(predictions, adjusted)),
            f"order of rank-layers: {', '.join(transplants.ranking.by)}"
            + (
                ""
                if ceiling != ceiling
                else f"; the seeds agree to {ceiling:.2f} (Spearman, Brown)"
            ),
            *failures(transplants.runs),
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
            "by": list(transplants.ranking.by),
            "predictions": [
                plain(prediction, p) for prediction, p in zip(predictions, adjusted, strict=True)
            ],
        }
        failed = any(run.status.state == "failed" for run in transplants.runs)
        return Result(data, "\n".join(lines), exit_code=int(failed))


def _predictions(transplants: Any) -> tuple[Any, list[Any]]:
    """Return the layers' table with the order of `rank-layers` as a score, and the predictions, that one first."""
    import numpy as np

    from ssmlens.runs.validation import LOG_SCALE, layer_table, predict

    table = layer_table(transplants.runs)
    rank = {row.layer: row.rank for row in transplants.ranking}
    order = [np.nan if rank[n] is None else -float(rank[n]) for n in table.layer.tolist()]
    known = {name: v for name, v in table.scores.items() if np.isfinite(v).any()}
    scores = {"rank-layers": np.array(order), **known}
    table = dataclasses.replace(table, scores=scores)
    names = [name for name in scores if name != LOG_SCALE]
    return table, [predict([table], name) for name in names]


COMMAND = ValidateRankingCommand
