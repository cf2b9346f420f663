"""`ssmlens train`: a run from the command line, its curve in text, and bad use in one line that names the flag."""

import dataclasses
import os

import pytest
import torch

from ssmlens.runs.run import open_run
from ssmlens.training import presets
from ssmlens.training.config import TrainConfig

TINY = {
    "--length": 4,
    "--letters": 5,
    "--d-model": 16,
    "--n-layer": 1,
    "--d-state": 8,
    "--headdim": 8,
    "--steps": 20,
    "--batch": 8,
    "--warmup": 5,
    "--eval-every": 10,
    "--eval-count": 16,
    "--learning-rate": 1e-2,
}
SMALL = [word for option in TINY.items() for word in option]


def test_a_run_and_its_curve(cli, here):
    said = cli("train", *SMALL, "--init", "mimetic", "--device", "cpu")
    assert said.code == 0, said.err
    run = open_run(here / "runs" / "copy-mimetic-lr0.01-seed0")
    assert run.status.state == "done"
    title, line, where = said.out.splitlines()
    assert title == "characters right at length 4, from the first step to the last"
    final = [run.metrics.final("char", length) for length in (4, 8)]
    assert line.split()[0] == "mimetic"
    assert len(line.split()[1]) == 3  # a bar a measurement
    assert f"{final[0]:.3f}   at 8 {final[1]:.3f}" in line
    assert "ssmlens dashboard runs/copy-mimetic-lr0.01-seed0" in where


def test_json_has_the_curve(cli, here):
    said = cli("train", *SMALL, "--out", "run", "--device", "cpu", "--json")
    (told,) = said.json["runs"]
    run = open_run(here / "run")
    assert (told["out"], told["arm"], told["state"], told["steps"]) == (
        "run",
        "default",
        "done",
        20,
    )
    assert told["accuracy"]["8"]["char"] == run.metrics.final("char", 8)
    assert [step for step, _ in told["curve"]["4"]] == [0, 10, 20]


def test_resume_goes_on_as_the_folder_says(cli, here):
    assert cli("train", *SMALL, "--out", "run", "--device", "cpu").code == 0
    again = cli("train", *SMALL, "--out", "run", "--device", "cpu")
    assert (again.code, "run already has a run; resume it with --resume" in again.complaint) == (
        2,
        True,
    )
    assert cli("train", "--resume", "--out", "run", "--device", "cpu").code == 0
    assert cli("train", "--resume", "--out", "run", "--steps", 20).code == 0
    other = cli("train", "--resume", "--out", "run", "--steps", 30)
    assert (other.code, other.complaint) == (
        2,
        "run was started with --steps 20; leave that option out",
    )
    nowhere = cli("train", "--resume", "--out", "nowhere")
    assert (nowhere.code, "there is no run in nowhere" in nowhere.complaint) == (2, True)
    (here / "nothing").mkdir()
    assert cli("train", "--resume", "--out", "nothing").code == 2


def test_a_preset_sets_its_arms_side_by_side(cli, here, monkeypatch):
    config = TrainConfig(
        length=4, letters=5, d_model=16, n_layer=1, d_state=8, headdim=8, steps=20, batch=8
    )
    both = (config, dataclasses.replace(config, init="mimetic"))
    monkeypatch.setitem(presets.PRESETS, "copy-in-a-minute", presets.Preset(both, "a note"))
    said = cli("train", "--preset", "copy-in-a-minute", "--device", "cpu")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["default", "mimetic"]
    assert lines[3] == "a note"
    folder = here / "runs" / "copy-in-a-minute"
    assert sorted(p.name for p in folder.iterdir()) == [
        "copy-default-lr0.001-seed0",
        "copy-mimetic-lr0.001-seed0",
    ]
    refused = cli("train", "--preset", "copy-in-a-minute", "--steps", 3)
    assert (refused.code, refused.complaint) == (
        2,
        "--preset copy-in-a-minute sets its own --steps; leave that option out",
    )


@pytest.mark.parametrize(
    ("words", "environment", "threads"),
    [((), None, 1), ((), "2", 2), (("--threads", 3), "2", 3), (("--threads", 3), None, 3)],
)
def test_a_tiny_model_trains_with_one_thread_unless_told(
    cli, monkeypatch, words, environment, threads
):
    seen = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(torch, "get_num_threads", lambda: int(environment or 8))
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    said = cli("train", *SMALL, "--steps", 1, "--out", "run", "--device", "cpu", *words)
    assert said.code == 0, said.err
    assert seen == [threads, int(environment or 8)]


@pytest.mark.skipif(
    "SSMLENS_PRESET" not in os.environ, reason="SSMLENS_PRESET=1 runs it: two minutes"
)
def test_copy_in_a_minute_keeps_its_promise(cli):
    said = cli("train", "--preset", "copy-in-a-minute", "--device", "cpu", "--json")
    default, mimetic = said.json["runs"]
    assert (default["arm"], mimetic["arm"]) == ("default", "mimetic")
    assert mimetic["accuracy"]["20"]["char"] > 0.9
    assert default["accuracy"]["20"]["char"] < mimetic["accuracy"]["20"]["char"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--task cpoy", "--task: unknown task 'cpoy'; did you mean 'copy'?"),
        ("--task sort --length 600", "--letters of at least 600"),
        ("--eval-lengths 0", "--eval-lengths 0: the copy task needs --length of at least 1"),
        ("--d-model 64 --headdim 48", "--mixer Mamba2 --headdim:"),
        ("--attention-layers 0 --attention-heads 3", "--attention-heads 3 does not divide"),
        ("--lerning-rate 1", "--lerning-rate"),
        ("--learning-rate fast", "--learning-rate"),
        ("--schedule sudden", "--schedule"),
        ("--preset copy", "--preset 'copy' is unknown; choose from: copy-in-a-minute"),
        ("--device cuda:x", "unknown device 'cuda:x'; use cpu, cuda or cuda:1"),
        ("--tracker nobody", "--tracker 'nobody' is unknown"),
        ("--threads 0", "--threads is at least 1, not 0"),
        ("--checkpoint-every 0", "--checkpoint-every is at least 1"),
        ("--init-from nowhere", "unknown model 'nowhere'"),
        ("--init transplant --teacher copy-mamba2-default --teacher-layer 9", "9 is out of range"),
        ("--init transplant --teacher copy-mamba2-default --teacher-layer 1", "does not fit"),
    ],
)
def test_bad_use_is_one_line_that_names_the_flag(cli, here, options, told):
    said = cli("train", "--out", "run", *options.split())
    assert said.code == 2
    assert said.out == ""
    assert told in said.complaint
    assert list(here.iterdir()) == []


def test_a_loss_that_is_no_number_is_a_failure(cli):
    wild = [*SMALL, "--learning-rate", 1e30, "--clip", 0, "--warmup", 0]
    said = cli("train", *wild, "--out", "run", "--device", "cpu")
    assert said.code == 1
    assert "the loss is nan at step" in said.complaint
