"""Components for Mamba-1, at a tiny size: runs are examined once they have ended, and results are resumed."""

import dataclasses
import json
import time

import pytest
import torch

from analyses import sitting
from analyses.components import arms, exams, run, work
from analyses.results_file import keep, restore, runs_below
from ssmlens.adapters.load import load_model
from ssmlens.runs.run import find_runs, open_run
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.metrics import accuracy, free_running
from ssmlens.training.engines.engine import Place
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path
from ssmlens.training.sweep_jobs import SweepJob

TINY = {
    **{"length": 20, "min_length": 5, "d_model": 16, "n_layer": 1, "d_state": 8},
    **{"eval_lengths": (20, 40), "eval_count": 6, "eval_every": 5, "batch": 4, "precision": "fp32"},
}
SPLITS = {"free", "duplicates-4", "duplicates-8", "other-4", "other-8"}


def tiny(count=2):
    whole = arms.configs(rates=(1e-3,), seeds=(0,), steps=5, generation="mamba1")
    return [dataclasses.replace(config, **TINY) for config in whole[:count]]


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(run, "configs", lambda *asked: tiny())


def sit(monkeypatch, tmp_path, *more):
    where = ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "kept")]
    given = ["run", "--generation", "mamba1", "--devices", "cpu", *where, *more]
    monkeypatch.setattr("sys.argv", given)
    run.main()
    return json.loads((tmp_path / "kept" / "results.json").read_text())


def test_the_grid_is_mamba_1s_and_a_seed_comes_whole_before_the_next():
    whole = arms.configs(generation="mamba1")
    assert len({config.digest() for config in whole}) == 16 * 5 * 4
    check(whole[-1])
    assert {(c.mixer, c.d_state, c.headdim) for c in whole} == {("Mamba1", 32, None)}
    assert [config.seed for config in whole] == sorted(config.seed for config in whole)
    ours = dataclasses.replace(whole[7], mixer="Mamba2", d_state=128, headdim=64)
    assert ours == arms.configs()[7], "all else is as for Mamba-2"


def test_runs_are_examined_kept_and_not_run_again(short, monkeypatch, tmp_path):
    held = sit(monkeypatch, tmp_path)
    assert len(held["runs"]) == 2
    for it in held["runs"]:
        assert set(it["exams"]) == SPLITS
        assert it["exams"]["free"]["40"]["step"] == [5]

    for path in find_runs(tmp_path / "out"):
        ours = open_run(path)
        model = load_model(path / "checkpoints" / "last")
        for length in (20, 40):
            rows = Copy(length=length, count=6).build(batch_seed(0, length, held_out=True))
            wanted = accuracy(free_running(model, rows), rows)
            assert ours.metrics.final("char", length, "free") == wanted.character
            assert ours.metrics.final("string", length, "free") == wanted.string
        lines = (path / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == len(set(lines)), "asked once"

    elsewhere = tmp_path / "elsewhere"
    restore(tmp_path / "kept" / "results.json", elsewhere)
    keep(runs_below(elsewhere), tmp_path / "again.json", {})
    assert json.loads((tmp_path / "again.json").read_text())["runs"] == held["runs"]

    monkeypatch.setattr(work, "train_pack", None)
    assert sit(monkeypatch, tmp_path)["runs"] == held["runs"]


def test_a_run_that_was_stopped_before_its_exam_is_examined_later(short, monkeypatch, tmp_path):
    whole = sit(monkeypatch, tmp_path)
    path, *_ = find_runs(tmp_path / "out")
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["split"] in ("train", "eval")]
    (path / "metrics.jsonl").write_text("".join(kept))
    assert not exams.is_examined(open_run(path))
    (tmp_path / "kept" / "results.json").unlink()
    again = sit(monkeypatch, tmp_path)
    assert [it["exams"] for it in again["runs"]] == [it["exams"] for it in whole["runs"]]


def test_an_exam_that_fails_costs_no_run(monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("no kernel\nhere")

    monkeypatch.setattr(work, "examine", fail)
    told = []
    jobs = [SweepJob(run_path(tmp_path, config), config) for config in tiny()]
    work.train_and_examine(jobs, Place("cpu"), lambda *it: told.append(it), lambda: None)
    assert told == [(0, "done", ""), (1, "done", "")]
    for path in find_runs(tmp_path):
        ended = open_run(path)
        assert (ended.status.state, exams.is_examined(ended)) == ("done", True)
        assert ended.status.error == "exam: RuntimeError: no kernel here"


def test_runs_that_fail_are_told_of_at_once(tmp_path):
    bad = dataclasses.replace(tiny()[0], learning_rate=1e30)
    job = SweepJob(run_path(tmp_path, bad), bad)
    told = []
    work.train_and_examine([job], Place("cpu"), lambda *it: told.append(it), lambda: None)
    assert [(place, state) for place, state, _ in told] == [(0, "failed")]
    assert exams.is_examined(open_run(job.path))


def test_what_has_no_exam_is_not_kept_and_the_clock_stops_what_is_at_work(tmp_path):
    """The alarm rings in the midst of a run; of the two that ended, one was not examined."""
    asked = sitting.options("x", tmp_path / "kept", (1e-3,), 1).parse_args(
        ["--out", str(tmp_path / "out"), "--minutes", "0.005"]
    )

    def train(**_):
        for place, config in enumerate(tiny()):
            with RunFolder(run_path(asked.out, config), config) as folder:
                folder.measure(5, "eval", 20, char=0.5)
                if place:
                    folder.measure(5, "free", 20, char=0.25, string=0.0)
                folder.write_status("done", 5, 5, 1.0)
        for _ in range(6000):
            time.sleep(0.01)
        pytest.fail("nobody rang")

    sitting.sit(asked, train, complete=exams.is_examined)
    (kept,) = json.loads((tmp_path / "kept" / "results.json").read_text())["runs"]
    assert kept["exams"]["free"]["20"] == {"step": [5], "char": [0.25], "string": [0.0]}


def test_exams_do_not_depend_on_who_asks_and_spare_the_model(tmp_path):
    (config,) = tiny(1)
    jobs = [SweepJob(run_path(tmp_path, config), config)]
    work.train_and_examine(jobs, Place("cpu"), lambda *_: None, lambda: None)
    (path,) = find_runs(tmp_path)
    before = (path / "metrics.jsonl").read_text()
    exams.examine(path, config, torch.device("cpu"))
    lines = (path / "metrics.jsonl").read_text().removeprefix(before).splitlines()
    assert len(lines) == len(SPLITS) * 2
    assert before.endswith("\n".join(lines) + "\n")
