"""What is made of the runs of a transplant: arms, the rate that each is taken at, the span of its seeds."""

import json

import pytest

from ssmlens.errors import UsageError
from ssmlens.runs.run import find_runs, open_run
from ssmlens.runs.students import panels, students
from ssmlens.training.config import TrainConfig
from ssmlens.training.transplant import _arms, _Controls

PLAIN = TrainConfig(length=20, scope="mixer")


@pytest.fixture
def write(tmp_path):
    """write(config, at_20, at_40, …): a run that ended so."""

    def run(config, at_20, at_40, scores=None, state="done"):
        folder = tmp_path / config.digest()[:12]
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        lines = [
            {"step": 5, "split": "eval", "length": n, "char": c, "string": 0.0, "loss": 1 - c}
            for n, c in ((20, at_20), (40, at_40))
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(it) + "\n" for it in lines))
        (folder / "status.json").write_text(json.dumps({"state": state}))
        if scores is not None:
            (folder / "scores.json").write_text(json.dumps({"layer": 0, "scores": scores}))

    return run


def start(rate, seed, **fields):
    return TrainConfig(length=20, learning_rate=rate, seed=seed, **fields)


def test_each_arm_at_the_rate_that_is_best_for_the_training_length(write, tmp_path):
    layer = {"init": "transplant", "teacher": "t", "teacher_layer": 3}
    for seed, (low, high) in enumerate([(0.8, 0.1), (0.9, 0.3)]):
        write(start(1e-3, seed, **layer), low, high, {"mask_ones": 0.5, "copy_score": None})
        write(start(1e-2, seed, **layer), 0.5, 0.6, {"mask_ones": 0.5, "copy_score": None})
        write(start(1e-3, seed, **layer, shuffled=True), 0.3, 0.2, {"mask_ones": 0.5})
    write(start(1e-3, 0), 0.7, 0.4, state="failed")
    grown, control, plain = students([open_run(path) for path in find_runs(tmp_path)])
    assert (grown.arm, grown.layer, grown.control) == ("transplant 3", 3, "")
    assert (control.arm, control.layer, control.control) == ("shuffled 3", 3, "shuffled")
    assert (plain.arm, plain.layer, plain.scores) == ("default", None, {})
    assert grown.scores["mask_ones"] == 0.5
    assert grown.scores["copy_score"] != grown.scores["copy_score"]
    assert {n: arm.best_rate for n, arm in grown.at.items()} == {20: 1e-3, 40: 1e-3}
    assert (grown.at[40].best, grown.at[40].best_spread) == (pytest.approx(0.2), (0.1, 0.3))
    assert grown.at[40].overall == pytest.approx((0.2 + 0.6) / 2)
    assert grown.at[40].overall_spread == pytest.approx((0.35, 0.45))
    assert (plain.at[20].best, plain.at[20].failed) == (0, 1), "what failed has learned nothing"
    arms, references = panels([grown, control, plain], ["mask_ones"], [20, 40])
    assert [(it.arm, it.layer.tolist()) for it in arms] == [("transplant", [3]), ("shuffled", [3])]
    assert arms[0].scores["mask_ones"].tolist() == [0.5]
    assert arms[0].accuracy[40].tolist() == [pytest.approx([0.4, 0.35, 0.45])]
    assert references["default"][20].tolist() == [0, 0, 0]


def test_no_run_has_no_students():
    with pytest.raises(UsageError, match="there is no run"):
        students([])


@pytest.mark.parametrize(("controls", "shuffled"), [("best", [3]), ("all", [3, 0, 1])])
def test_every_arm_is_there_once(controls, shuffled):
    arms = _arms(PLAIN, "t", [3, 0, 1], _Controls.parse(controls))
    grown = [f"transplant {layer} scope=mixer" for layer in (3, 0, 1)]
    control = [f"shuffled {layer} scope=mixer" for layer in shuffled]
    assert [arm.arm_name for arm in arms] == ["default", "mimetic", *grown, *control]
    assert len({arm.digest() for arm in arms}) == len(arms)
