"""The convolution of Mamba-2 taken apart: what the arms set, a sitting in miniature, and the verdicts."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from analyses.components import conv_report, conv_run, work
from analyses.components.conv_arms import ARMS, BASES, LENGTHS, QUESTIONS, configs
from analyses.components.conv_verdicts import complete_seeds, conclude, effects
from analyses.results_file import keep, runs_below
from ssmlens.adapters.load import load_model
from ssmlens.runs.run import find_runs, open_run
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.metrics import accuracy, free_running
from ssmlens.training.build import build_model
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path
from ssmlens.training.sweep_jobs import SweepJob, make_packs

TINY = {
    **{"length": 20, "min_length": 5, "d_model": 16, "headdim": 8, "d_state": 8, "batch": 4},
    **{"eval_lengths": (20, 40), "eval_count": 3, "eval_every": 5, "precision": "fp32"},
}
SMALL = {"d_model": 16, "headdim": 8, "d_state": 8}  # 32 channels of x, 8 of B and 8 of C


def test_the_grid():
    whole = configs()
    assert len({config.digest() for config in whole}) == len(whole) == 13 * 3 * 5
    assert [config.seed for config in whole] == sorted(config.seed for config in whole)
    for config in whole[: 13 * 3 : 3]:
        plan = check(config)
        assert plan.task.width == (220 if config.arm.endswith("packed") else 102)
        assert not any(plan.exams[length].packs for length in LENGTHS)
    jobs = [SweepJob(run_path(conv_run.RESULTS, config), config) for config in whole]
    packs = make_packs(jobs, 8, 4)
    first = [pack[0].config.seed for pack in packs]
    assert first == sorted(first), "a seed's packs come before the next seed's"


def weights(arm):
    (config,) = (c for c in configs(rates=(1e-3,), seeds=(3,)) if c.arm == arm)
    small = dataclasses.replace(config, **SMALL)
    model = build_model(check(small), torch.device("cpu"))
    return [dict(block.mixer.named_parameters()) for block in model.backbone.layers]


def changed(arm, base):
    """(layer, parameter, first index) of all that differs."""
    found = set()
    for layer, (ours, theirs) in enumerate(zip(weights(arm), weights(base), strict=True)):
        for name, value in ours.items():
            rows = (value != theirs[name]).reshape(len(value), -1).any(1)
            found |= {(layer, name, int(row)) for row in rows.nonzero()[:, 0]}
    return found


def parts(layers, channels, names=("conv1d.weight", "conv1d.bias")):
    return set(itertools.product(layers, names, channels))


@pytest.mark.parametrize(
    ("arm", "wanted"),
    [
        ("A+conv", parts(range(4), range(48))),
        ("A+conv packed", parts(range(4), range(48))),
        ("taps", parts(range(4), range(48), ["conv1d.weight"])),
        ("bias", parts(range(4), range(48), ["conv1d.bias"])),
        ("B,C", parts(range(4), range(32, 48))),
        ("x", parts(range(4), range(32))),
        ("layer 0", parts([0], range(48))),
        ("layers 1-3", parts([1, 2, 3], range(48))),
        ("A packed", set()),
        # in_proj has 32 rows for the gate, 32 for x, 8 for B and 8 for C.
        ("A+BC", set(itertools.product(range(4), ["in_proj.weight"], range(72, 80)))),
    ],
)
def test_what_an_arm_sets_beside_A(arm, wanted):
    assert changed(arm, "A") == wanted
    whole = weights("A+conv")
    for layer, values in enumerate(weights(arm)):
        for _, name, row in [it for it in wanted if it[0] == layer and "conv" in it[1]]:
            assert torch.equal(values[name][row], whole[layer][name][row])


def test_the_whole_convolution_is_the_identity_and_halves_make_it_up():
    for values in weights("A+conv"):
        assert torch.equal(values["conv1d.weight"][:, 0], torch.eye(4)[[3] * 48])
        assert not values["conv1d.bias"].any()
    for one, other in QUESTIONS:
        halves = changed(one, "A"), changed(other, "A")
        assert halves[0] | halves[1] == changed("A+conv", "A")
        assert not halves[0] & halves[1]


def tiny(*arms):
    whole = configs(rates=(1e-3,), seeds=(0,), steps=5)
    return [dataclasses.replace(c, **TINY) for c in whole if c.arm in arms]


def sit(monkeypatch, tmp_path, *more):
    """The command of a sitting, but for the devices."""
    where = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "kept")]
    monkeypatch.setattr(
        "sys.argv", ["conv_run", "--devices", "cpu", "--minutes", "9", *where, *more]
    )
    conv_run.main()
    return json.loads((tmp_path / "kept" / "results.json").read_text())


def test_a_sitting_in_miniature(monkeypatch, tmp_path):
    arms = ("A packed", "taps", "layers 1-3")
    monkeypatch.setattr(conv_run, "configs", lambda *asked: tiny(*arms))
    held = sit(monkeypatch, tmp_path, "--workers", "1", "--pack", "2")
    assert len(held["runs"]) == 3
    splits = {"free", "duplicates-4", "duplicates-8", "other-4", "other-8"}
    assert all(set(it["exams"]) == splits for it in held["runs"])
    for path in find_runs(tmp_path / "runs"):
        ours, model = open_run(path), load_model(path / "checkpoints" / "last")
        assert ours.arm in arms
        for length in (20, 40):
            rows = Copy(length=length, count=3).build(batch_seed(0, length, held_out=True))
            wanted = accuracy(free_running(model, rows), rows)
            assert ours.metrics.final("char", length, "free") == wanted.character

    # Another machine has results.json alone, and nothing is trained again there.
    monkeypatch.setattr(work, "train_pack", None)
    elsewhere, have = tmp_path / "elsewhere", tmp_path / "kept" / "results.json"
    again = sit(monkeypatch, elsewhere, "--have", str(have))
    assert again["runs"] == held["runs"]
    assert not complete_seeds(runs_below(tmp_path / "runs")), "three arms are no grid"
    monkeypatch.setattr("sys.argv", ["conv_report", str(have)])
    conv_report.main()
    assert "3 runs of seeds that are not whole" in have.with_name("table.md").read_text()
    assert not have.with_name("figure.svg").exists()


def cell(mean, count=5):
    return mean + np.linspace(-0.01, 0.01, count)


def values(**others):
    """Every arm at .9; others by name, with _ for what a keyword cannot have."""
    held = {arm: cell(0.9) for arm in ARMS}
    return held | {arm: cell(mean) for arm, mean in others.items()}


HARM = {"A+conv": 0.5, "A+BC+conv": 0.5}


def told(near, far=None, content=None):
    found = conclude(near, values() if far is None else far, content or {})
    return {
        claim[:1] if claim[:1] != "2" else claim[3:].split(" carries")[0]: v
        for claim, v in found.items()
    }


def test_halves_that_carry_the_harm():
    near = values(**HARM, taps=0.55, bias=0.82, x=0.905, **{"B,C": 0.5, "layer 0": 0.71})
    found = told(near)
    assert found["1"] == found["taps"] == found["B,C"] == "holds"
    assert found["bias"] == "in part", "found, and less than half"
    assert found["layer 0"] == "in part", "just less than half"
    assert found["x"] == found["layers 1-3"] == "does not hold at this size"


def test_without_harm_its_parts_are_not_tested():
    for conv in (0.9, 0.97):
        found = told(values(**{"A+conv": conv}))
        assert found["1"] == "does not hold at this size"
        assert {found[it] for it in ("taps", "x", "layer 0", "3", "6")} == {"not tested"}
    wide = values() | {"A+conv": np.array([0.6, 0.7, 0.8, 0.9, 1.0])}
    assert told(wide)["1"] == "in part"


@pytest.mark.parametrize(
    ("packed", "verdict"), [(0.9, "holds"), (0.99, "holds"), (0.7, "does not hold at this size")]
)
def test_packed_rows(packed, verdict):
    assert told(values(**HARM, **{"A+conv packed": packed}))["3"] == verdict


def test_far_beyond_and_the_whole_set():
    more = {"A+BC+conv": 0.95}, {"A+BC+conv": 0.99}
    found = told(values(**more[0]), values(**more[1], paper=0.99))
    assert (found["4"], found["5"]) == ("holds", "in part")
    assert told(values(**more[1]), values(**more[0]))["4"] == "in part", "not most at 300"
    found = told(values(), values(**{"A+BC+conv": 0.3}))
    assert (found["4"], found["5"]) == ("does not hold at this size", "does not hold at this size")
    assert told(values(paper=0.99), values(paper=0.99))["5"] == "holds"


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        ({"A": 0.1, "A+conv": 0.3}, "holds"),
        ({"A": 0.3, "A+conv": 0.1}, "does not hold at this size: with the convolution"),
        ({"A": 0.3, "A+conv": 0.3}, "does not hold at this size"),
        ({"A": 0.3, "A+conv": 0.37}, "in part"),
        ({"A": 0.3}, "not answered"),
    ],
)
def test_content(content, verdict):
    given = {arm: cell(mean) for arm, mean in content.items()}
    found = told(values(**HARM), content=given)["6"]
    assert found.startswith(verdict)
    assert (found == verdict) or "with" in verdict or verdict == "not answered"


def test_holm_is_within_a_question_and_packed_rows_have_a_base_of_their_own():
    near = values(taps=0.5, bias=0.5, **{"A packed": 0.2, "A+conv packed": 0.3})
    found = effects(near)
    assert found["taps"].p == found["bias"].p == pytest.approx(2 * 2 / 252)
    assert found["A+conv packed"].p == pytest.approx(2 / 252)
    assert found["A+conv packed"].difference.mean == pytest.approx(0.1)
    assert found["paper"].difference.mean == pytest.approx(0)
    assert [*found] == [*BASES]


def test_tables_and_figure_of_planted_runs(monkeypatch, tmp_path):
    seeds = range(6)
    for config in configs(rates=(1e-3,), seeds=seeds):
        if (config.seed, config.arm) == (5, "paper"):
            continue  # so that this seed is not whole
        share = {"A+conv": 0.5, "x": 0.6}.get(config.arm, 0.9) + 0.001 * config.seed
        with RunFolder(run_path(tmp_path / "runs", config), config) as folder:
            for length in LENGTHS:
                folder.measure(1500, "eval", length, char=share, string=0.0)
                folder.measure(1500, "free", length, char=share / 2, string=0.0)
                for n in (4, 8):
                    folder.measure(1500, f"duplicates-{n}", length, char=share - 0.1, string=0.0)
                    folder.measure(1500, f"other-{n}", length, char=0.1, string=0.0)
            folder.write_status("done", 1500, 1500, 1.0)
    text = conv_report.tables(runs_below(tmp_path / "runs"))
    assert "65 runs of the seeds 0, 1, 2, 3, 4, 0 failed, 65 examined; 12 runs" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["2. x carries the harm", "holds"] in rows
    assert ["2. taps carries the harm", "does not hold at this size"] in rows
    effect = next(row for row in rows if row[:3] == ["x", "A", "-0.300"])
    assert effect[4:] == ["0.0079", "0.016"]
    assert any(row[:4] == ["4", "100", "A+conv", f"{0.1 / 0.502:.3f}"] for row in rows)
    keep(runs_below(tmp_path / "runs"), tmp_path / "results.json", {})
    monkeypatch.setattr("sys.argv", ["conv_report", str(tmp_path / "results.json")])
    conv_report.main()
    assert (tmp_path / "table.md").read_text() == text
    figure = (tmp_path / "figure.svg").read_text()
    assert "layers 1-3 less A" in figure
    assert "300 letters" in figure
