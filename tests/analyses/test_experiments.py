"""The experiments' arms are what they are called, and their tables say what came out."""

import dataclasses
import json
import os
import signal

import pytest
import torch

from analyses import sitting
from analyses.components import arms, report
from analyses.transplant import experiment
from analyses.transplant import report as transplant_report
from ssmlens.inits.mimetic import Mimetic
from ssmlens.runs.run import find_runs, open_run
from ssmlens.text_table import text_table
from ssmlens.training.build import build_model
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path

TINY = {"d_model": 16, "n_layer": 1, "d_state": 8, "headdim": 8}
CPU = torch.device("cpu")


def weights(config):
    model = build_model(check(config), CPU)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def grid():
    return arms.configs(rates=(1e-3,), seeds=(0,))


def test_sixteen_arms_of_different_names_and_weights(grid):
    assert len({config.arm_name for config in grid}) == 16
    begun = [weights(dataclasses.replace(config, **TINY)) for config in grid]
    for i, ours in enumerate(begun):
        assert not any(same(ours, theirs) for theirs in begun[:i])


def test_no_component_is_the_default(grid):
    plain, *_ = grid
    assert (plain.init, plain.arm_name) == ("mamba-ssm", "default")
    config = dataclasses.replace(plain, **TINY)
    model = build_model(check(config), CPU)
    Mimetic(components=()).apply_(model)
    assert same(dict(model.state_dict()), weights(config))


def test_all_components_are_the_papers(grid):
    *_, whole = grid
    config = dataclasses.replace(whole, **TINY)
    assert same(weights(config), weights(dataclasses.replace(config, components=())))


def test_the_whole_grid_can_be_trained():
    whole = arms.configs()
    assert len({config.digest() for config in whole}) == len(whole) == 16 * 5 * 4
    for config in (*whole[:16], experiment.STUDENT):
        check(config)
    assert {config.seed for config in whole[:64]} == {0}


def write(out, config, char):
    with RunFolder(run_path(out, config), config) as folder:
        for length in config.lengths:
            folder.measure(1, "eval", length, loss=0.1, char=char * 50 / length, string=char / 2)
        if config.teacher_layer is not None:
            folder.write_scores(config.teacher_layer, {"copy_score": config.teacher_layer / 10})
        folder.write_status("done", 1, 1, 1.0)


def test_the_tables_of_components(tmp_path):
    """Every component adds its own share; the main effects give it back."""
    share = {"A": 0.4, "delta": 0.02, "BC": 0.2, "conv": 0.1}
    for seed in (0, 1):
        for config in arms.configs(rates=(1e-3, 1e-2), seeds=(seed,)):
            best = config.learning_rate == 1e-3
            char = 0.05 + sum(share[name] for name in config.components) * (1 if best else 0.5)
            write(tmp_path, config, char + seed / 500)
    told = report.tables([open_run(path) for path in find_runs(tmp_path)])
    rows = [" ".join(line.split()) for line in told.splitlines() if line.startswith("|")]
    assert rows[2].startswith("| mimetic A+delta+BC+conv | 0.591 |")
    assert "| 0.001 edge | 0.771 |" in rows[2]
    effects = {row.split(" | ")[0].strip("| "): row.strip(" |").split(" | ")[1:] for row in rows}
    for name, value in share.items():
        assert effects[name][:2] == [f"{0.75 * value:+.3f}", f"{value:+.3f}"]
        assert effects[name][5] == f"{value / 2:+.3f}", "characters at 100"


def test_the_table_of_transplants(tmp_path):
    for seed in (0, 1):
        base = dataclasses.replace(experiment.STUDENT, seed=seed)
        write(tmp_path, base, 0.1)
        grown = dataclasses.replace(base, init="transplant", teacher="t", teacher_layer=3)
        write(tmp_path, grown, 0.6 + 0.1 * seed)
    runs = [open_run(path) for path in find_runs(tmp_path)]
    told = transplant_report.tables(runs, {"by": ["copy_score"], "ranks": {"3": 1.0}})
    rows = [
        " ".join(line.split()) for line in told.splitlines() if line.startswith("| transplant 3")
    ]
    cells = rows[0].strip("| ").split(" | ")
    assert cells[:3] == ["transplant 3", "1", "0.300"]
    assert "0.812 (0.750..0.875)" in cells, "of length 40: 50/40 of .6 and .7"


def test_results_are_kept_when_time_is_up_and_gone_on_with(tmp_path, capsys):
    asked = sitting.options("x", tmp_path / "kept", (1e-3,), 1).parse_args(
        ["--out", str(tmp_path / "out"), "--minutes", "0"]
    )
    whole = arms.configs(rates=(1e-3,), seeds=(0,))

    def train(progress, **where):
        assert where == {"devices": ["auto"], "workers": None, "pack": None}
        for done, config in enumerate(whole, 1):
            write(asked.out, config, 0.5)
            progress(done, 16, "")

    sitting.sit(asked, train, lambda: {"teacher": "t"})
    assert "time is up" in capsys.readouterr().out
    held = json.loads((tmp_path / "kept" / "results.json").read_text())
    assert (held["about"], len(held["runs"])) == ({"teacher": "t"}, 1)

    asked.out = tmp_path / "elsewhere"
    sitting.sit(asked, lambda **_: None)
    assert len(find_runs(asked.out)) == 1, "results.json was there, and is taken up"
    assert len(json.loads((tmp_path / "kept" / "results.json").read_text())["runs"]) == 1


def test_results_are_kept_when_the_sitting_is_ended_from_outside(tmp_path):
    asked = sitting.options("x", tmp_path / "kept", (1e-3,), 1).parse_args(
        ["--out", str(tmp_path / "out")]
    )
    before = signal.getsignal(signal.SIGTERM)

    def train(**_):
        write(asked.out, arms.configs(rates=(1e-3,), seeds=(0,))[0], 0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        sitting.sit(asked, train)
    assert len(json.loads((tmp_path / "kept" / "results.json").read_text())["runs"]) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_markdown():
    table = text_table([["a", "b"], ["x|y", "1"]], form="markdown")
    assert [line.replace(" ", "") for line in table.splitlines()] == [
        "|a|b|",
        "|:-----|----:|",
        r"|x\|y|1|",
    ]
