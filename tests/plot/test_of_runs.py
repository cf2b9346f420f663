"""`ssmlens.plot.training` and `.students`, from runs whose numbers are known."""

import dataclasses

import numpy as np
import pytest

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.runs.compare import ArmSummary
from ssmlens.runs.students import Student


@dataclasses.dataclass
class Metrics:
    curves: dict

    def curve(self, measure, split, length):
        steps, values = self.curves.get((measure, split, length), ([], []))
        return np.array(steps, int), np.array(values, float)


@dataclasses.dataclass
class Run:
    arm: str
    metrics: Metrics
    length: int | None = 17


def run(arm, steps, values, **more):
    return Run(arm, Metrics({("char", "eval", 17): (steps, values), **more}))


def lines(figure):
    """The curves by name, without their bands."""
    return {trace.name: trace for trace in figure.data if trace.name and trace.mode != "none"}


def test_an_arm_is_the_mean_of_its_runs_with_a_band():
    runs = [
        run("mimetic", [1, 2, 3], [0.1, 0.4, 1.0]),
        run("mimetic", [1, 3], [0.3, 0.0]),
        run("default", [1, 2], [0.0, np.nan]),
    ]
    figure = ssmlens.plot.training(runs)
    mimetic = next(t for t in figure.data if t.name == "mimetic" and t.line.width)
    assert list(mimetic.x) == [1, 2, 3]
    assert np.allclose(np.asarray(mimetic.y, float), [0.2, 0.4, 0.5], atol=1e-3)
    default = next(t for t in figure.data if t.name == "default" and t.line.width)
    assert list(default.x) == [1]
    assert "length 17" in figure.layout.yaxis.title.text


def test_loss_is_of_training_and_has_no_length():
    loss = Run("default", Metrics({("loss", "train", None): ([0, 5], [2.0, 1.0])}))
    figure = ssmlens.plot.training([loss], measure="loss")
    assert figure.layout.yaxis.title.text == "loss"
    with pytest.raises(UsageError, match="none of these 1 runs has measured char at length 17"):
        ssmlens.plot.training([loss])
    with pytest.raises(UsageError, match="none of these 0 runs"):
        ssmlens.plot.training([])


def student(arm, layer, shuffled, score, mean):
    spread = (mean - 0.1, mean + 0.1)
    overall = {"overall": mean, "overall_interval": spread, "overall_spread": spread}
    best = {"best_rate": 1e-3, "best": 1.0, "best_interval": (1.0, 1.0), "best_spread": (1.0, 1.0)}
    more = {"by_seed": {}, "rates": {}, "chosen": {}, "held_out": True, "lock_in": 1.0}
    counts = {"window": None, "seeds": 2, "failed": 0}
    at = {17: ArmSummary(arm=arm, **overall, **best, **more, **counts)}
    scores = {} if score is None else {"copy_score": score}
    return Student(arm, layer, shuffled, scores, at)


def test_students_stand_at_their_layers_score_and_accuracy():
    grown = [
        student("transplant 3", 3, False, 0.9, 0.8),
        student("transplant 1", 1, False, 0.2, 0.3),
    ]
    alone = student("default", None, False, None, 0.25)
    figure = ssmlens.plot.students([*grown, alone], ["copy_score"])
    points = next(t for t in figure.data if t.name == "transplant")
    assert list(points.x) == [0.2, 0.9]
    assert list(points.y) == [0.3, 0.8]
    assert list(points.text) == ["1", "3"]
    assert any(shape.y0 == 0.25 for shape in figure.layout.shapes), "the reference's mean"
    with pytest.raises(UsageError, match="no students"):
        ssmlens.plot.students([], ["copy_score"])
