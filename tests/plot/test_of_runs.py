"""`ssmlens.plot.training` and `.students`, from runs whose numbers are known."""

import json

import numpy as np
import pytest

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.runs.compare import ArmSummary
from ssmlens.runs.students import Student


@pytest.fixture
def run(tmp_path):
    """run(arm, {step: char at length 17}, …): a run that was measured so."""

    def write(arm, measured, *, split="eval", length=17, name="char", state="done", **config):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        fields = {"arm": arm, "length": 17, "seed": 0, "learning_rate": 1e-3, **config}
        (folder / "config.json").write_text(json.dumps(fields))
        lines = [
            {"step": step, "split": split, "length": length, name: value}
            for step, value in measured.items()
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(it) + "\n" for it in lines))
        status = {"state": state, "step": 3, "steps": 3, "seconds": 1.0}
        (folder / "status.json").write_text(json.dumps(status))
        return ssmlens.open_run(folder)

    return write


def line(figure, arm):
    """The curve of an arm, without its band."""
    (found,) = (trace for trace in figure.data if trace.name == arm and trace.line.width)
    return found


def test_an_arm_is_the_mean_of_its_runs_with_a_band(run):
    runs = [
        run("mimetic", {1: 0.1, 2: 0.4, 3: 1.0}),
        run("mimetic", {1: 0.3, 3: 0.0}),
        run("default", {1: 0.0, 2: None}),
    ]
    figure = ssmlens.plot.training(runs)
    mimetic = line(figure, "mimetic")
    assert list(mimetic.x) == [1, 2, 3]
    assert np.allclose(np.asarray(mimetic.y, float), [0.2, 0.4, 0.5], atol=1e-3)
    assert list(line(figure, "default").x) == [1]
    assert "length 17" in figure.layout.yaxis.title.text


def test_arms_are_those_of_compare(run):
    """A transplant and its control are two arms though both bear one name; a failed run has learned nothing."""
    transplant = {"teacher_layer": 3, "teacher": "teacher"}
    runs = [
        run("layer 3", {1: 0.2}, shuffled=True, **transplant),
        run("layer 3", {1: 0.9}, **transplant),
        run("default", {1: 0.4}),
        run("default", {1: 0.0}, state="failed"),
    ]
    drawn = [trace for trace in ssmlens.plot.training(runs).data if trace.line.width]
    assert [(trace.name, pytest.approx(trace.y[0])) for trace in drawn] == [
        ("default", 0.4),
        ("layer 3", 0.9),
        ("layer 3", 0.2),
    ]


def test_the_length_is_the_longest_trained_on_that_was_measured(run):
    runs = [run("default", {1: 0.4}), run("mimetic", {}, length=33)]
    assert "length 17" in ssmlens.plot.training(runs).layout.yaxis.title.text


def test_loss_is_of_training_and_has_no_length(run):
    loss = run("default", {0: 2.0, 5: 1.0}, split="train", length=None, name="loss")
    figure = ssmlens.plot.training([loss], measure="loss")
    assert figure.layout.yaxis.title.text == "loss"
    assert list(line(figure, "default").y) == [2, 1]
    with pytest.raises(UsageError, match="none of these 1 runs has measured char at length 17"):
        ssmlens.plot.training([loss], length=17)
    with pytest.raises(UsageError, match=r"has measured char$"):
        ssmlens.plot.training([loss])
    with pytest.raises(UsageError, match="none of these 0 runs"):
        ssmlens.plot.training([])


def student(arm, layer, control, score, mean):
    spread = (mean - 0.1, mean + 0.1)
    overall = {"overall": mean, "overall_interval": spread, "overall_spread": spread}
    best = {"best_rate": 1e-3, "best": 1.0, "best_interval": (1.0, 1.0), "best_spread": (1.0, 1.0)}
    more = {"by_seed": {}, "rates": {}, "chosen": {}, "held_out": True, "lock_in": 1.0}
    counts = {"window": None, "seeds": 2, "failed": 0}
    at = {17: ArmSummary(arm=arm, **overall, **best, **more, **counts)}
    scores = {} if score is None else {"copy_score": score}
    return Student(arm, layer, control, scores, at)


def test_students_stand_at_their_layers_score_and_accuracy():
    grown = [
        student("transplant 3", 3, "", 0.9, 0.8),
        student("transplant 1", 1, "", 0.2, 0.3),
    ]
    alone = student("default", None, "", None, 0.25)
    figure = ssmlens.plot.students([*grown, alone], ["copy_score"])
    points = next(t for t in figure.data if t.name == "transplant")
    assert list(points.x) == [0.2, 0.9]
    assert list(points.y) == [0.3, 0.8]
    assert list(points.text) == ["1", "3"]
    assert any(shape.y0 == 0.25 for shape in figure.layout.shapes), "the reference's mean"
    with pytest.raises(UsageError, match="no students"):
        ssmlens.plot.students([], ["copy_score"])
