"""Runs: what is in their folders, that they resume to the same curve, and how they end badly."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import ssmlens
from ssmlens.errors import BusyError, RunFileError, SsmlensError, UsageError
from ssmlens.runs.run import open_run
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.metrics import masked_loss, measure
from ssmlens.training import loop
from ssmlens.training.build import build_model
from ssmlens.training.config import TrainConfig
from ssmlens.training.loop import train
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.session import TrainingError

CPU = {"device": "cpu"}


def lines(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_a_run_leaves_the_folder_that_the_reader_knows(tiny, tmp_path):
    told = []
    run = train(tiny(init="mimetic", seed=3), tmp_path / "run", **CPU, progress=told.append)
    assert (run.arm, run.seed, run.learning_rate, run.length) == ("mimetic", 3, 1e-2, 4)
    assert (run.status.state, run.status.step, run.status.steps) == ("done", 20, 20)
    assert run.metrics.curve("loss")[0].tolist() == [10, 20]
    for length in (4, 8):
        steps, char = run.metrics.curve("char", "eval", length)
        assert steps.tolist() == [0, 10, 20]
        assert ((char >= 0) & (char <= 1)).all()
    assert told[-1].step == told[-1].steps == 20
    assert told[-1].char == run.metrics.final("char", 4)
    assert TrainConfig.from_dict(run.config).digest() == tiny(init="mimetic", seed=3).digest()


def test_the_last_checkpoint_measures_as_the_run_did(tiny, tmp_path):
    """On the same held-out rows: one example a row, exactly that long, whatever the training rows were."""
    config = tiny(letters=26, layout="jelassi", context=40, free_running=True, steps=10)
    run = train(config, tmp_path / "run", **CPU)
    model = ssmlens.load_model(run.path / "checkpoints" / "last")
    for length in (4, 8):
        exam = Copy(length=length, layout="jelassi", packing=False, count=16)
        batch = exam.build(batch_seed(0, length, held_out=True))
        told = measure(model, batch, freely=True)
        assert {name: run.metrics.final(name, length) for name in told} == told


@pytest.mark.parametrize(
    ("task", "letters", "typed"),
    [("copy", 26, "|az"), ("sort", 512, "|az"), ("recall", 52, "|az"), ("ngram", 30, "|az")],
)
def test_capture_opens_the_last_checkpoint_of_every_task_of_letters(
    tiny, tmp_path, cli, task, letters, typed
):
    own = {"length": 8, "min_length": None, "n": 2} if task == "ngram" else {}
    run = train(tiny(task=task, letters=letters, steps=1, **own), tmp_path / "run", **CPU)
    last = run.path / "checkpoints" / "last"
    assert ssmlens.load_model(last).tokenizer.decode([1, 3, 28]) == typed
    for asked in {task, "copy"}:
        out = tmp_path / f"{asked}.h5"
        said = cli("capture", "--model", last, "--task", asked, "--length", 8, "--out", out)
        assert said.code == 0, said.err


def test_the_curve_is_that_of_plain_torch(tiny, tmp_path):
    """An independent loop: the same loss at every step, to the last bit, and so the same weights."""
    config = tiny(steps=12, decay_ssm=True, schedule="cosine", eval_every=5)
    run = train(config, tmp_path / "run", **CPU)
    task = check(config).task
    model = build_model(check(config), torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1)
    rates = [0.2, 0.4, 0.6, 0.8, 1.0]
    angles = torch.arange(0, 7) / 7 * torch.pi
    rates += ((1 + angles.cos()) / 2).tolist()
    losses = []
    for step, rate in enumerate(rates):
        batch = task.build(batch_seed(0, step))
        loss = masked_loss(model(batch.tokens).logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate * 1e-2
        optimizer.step()
        losses.append(loss.item())
    kept = run.metrics.curve("loss")
    assert kept[0].tolist() == [10, 12]
    assert kept[1].tolist() == pytest.approx(
        [sum(losses[:10]) / 10, sum(losses[10:]) / 2], rel=1e-6
    )
    trained = ssmlens.load_model(run.path / "checkpoints" / "last")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stopped_at", [7, 13, 20])
def test_a_resumed_run_has_the_curve_of_an_uninterrupted_one(
    tiny, tmp_path, monkeypatch, stopped_at
):
    config = tiny(steps=24, eval_every=8)
    whole = train(config, tmp_path / "whole", **CPU, checkpoint_every=6)
    done = loop.Trainee.next_step

    def stop(trainee):
        if trainee.step == stopped_at:
            raise Stop
        return done(trainee)

    monkeypatch.setattr(loop.Trainee, "next_step", stop)
    with pytest.raises(Stop):
        train(config, tmp_path / "stopped", **CPU, checkpoint_every=6)
    assert open_run(tmp_path / "stopped").status.state == "failed"
    monkeypatch.undo()
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 99')  # what a crash in the middle of a line leaves
    resumed = train(config, tmp_path / "stopped", **CPU, checkpoint_every=6, resume=True)
    assert lines(resumed.path) == lines(whole.path)
    last = "checkpoints/last/model.safetensors"
    assert (resumed.path / last).read_bytes() == (whole.path / last).read_bytes()
    assert [p.name for p in (whole.path / "checkpoints").iterdir() if not p.is_symlink()] == [
        "step-000024"
    ]


def test_a_killed_run_resumes(tiny, tmp_path):
    """A real kill -9, wherever it falls."""
    config = tiny(steps=40)
    whole = train(config, tmp_path / "whole", **CPU)
    out = tmp_path / "killed"
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    code = (
        "import json, sys, torch; from ssmlens import TrainConfig, train; torch.set_num_threads(1);"
        "config = TrainConfig.from_dict(json.load(open(sys.argv[1])));"
        "train(config, sys.argv[2], resume=True, device='cpu', checkpoint_every=7)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "config.json", out]) as process:
        while not (out / "checkpoints" / "last").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert train(config, out, **CPU, resume=True).status.state == "done"
    assert lines(out) == lines(whole.path)


def test_a_run_that_is_done_is_left_alone(tiny, tmp_path):
    train(tiny(), tmp_path / "run", **CPU)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    train(tiny(), tmp_path / "run", **CPU, resume=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(UsageError, match="already has a run; resume it"):
        train(tiny(), tmp_path / "run", **CPU)
    with pytest.raises(UsageError, match="has a run with seed 0, not 1"):
        train(tiny(seed=1), tmp_path / "run", **CPU, resume=True)


def test_a_run_that_was_killed_after_its_last_checkpoint_is_done(tiny, tmp_path):
    """Its status.json did not come to say so."""
    config = tiny(steps=10)
    whole = train(config, tmp_path / "run", device="cpu")
    told = (tmp_path / "run" / "status.json").read_text()
    (tmp_path / "run" / "status.json").write_text(told.replace("done", "running"))
    again = train(config, tmp_path / "run", resume=True, device="cpu")
    assert (again.status.state, again.status.step) == ("done", 10)
    assert len(again.metrics) == len(whole.metrics)


def test_a_folder_is_trained_in_by_one_process(tiny, tmp_path):
    with RunFolder(tmp_path / "run", tiny()), pytest.raises(BusyError, match="another process"):
        train(tiny(), tmp_path / "run", **CPU, resume=True)
    train(tiny(steps=2), tmp_path / "other", **CPU)


def test_a_loss_that_is_no_number_stops_the_run(tiny, tmp_path):
    wild = tiny(learning_rate=1e30, clip=0.0, steps=200, warmup=0)
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step \d+ \(learning rate 1e\+30\)"
    ):
        train(wild, tmp_path / "run", **CPU)
    run = open_run(tmp_path / "run")
    assert run.status.state == "failed"
    assert "the loss is nan" in run.status.error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_maps_are_captured_at_the_steps_asked_for(tiny, tmp_path):
    config = tiny(capture_at=(0, 10), steps=12, attention_layers=(1,), n_layer=2)
    plain = dataclasses.replace(config, capture_at=())
    run = train(config, tmp_path / "run", **CPU)
    files = sorted((run.path / "captures").iterdir())
    assert [f.name for f in files] == ["step-000000.h5", "step-000010.h5"]
    maps = []
    for file in files:
        assert ssmlens.verify(file) == []
        with ssmlens.open_capture(file) as opened:
            maps.append(opened.layer(0).attention_map(0))
            assert opened.token_strings(0)[4] == "|"
            assert opened.block_kinds == ["mamba", "attention"]
    assert abs(maps[1] - maps[0]).max() > 0
    assert lines(train(plain, tmp_path / "plain", **CPU).path) == lines(run.path)


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "bf16"},
        {"mixer": "Mamba1", "headdim": None},
        {"attention_layers": (0,), "attention_heads": 2},
        {"linear_attention_layers": (0,)},
        {"task": "sort", "letters": 9},
        {"task": "recall", "letters": 32},
        {"layout": "jelassi", "context": 40},
    ],
)
def test_what_can_be_trained(tiny, tmp_path, fields):
    run = train(tiny(steps=2, **fields), tmp_path / "run", **CPU)
    assert run.status.state == "done"
    assert ssmlens.load_model(run.path / "checkpoints" / "last").config.n_layer == 1


def test_it_learns(tiny, tmp_path):
    """One letter, said again: a minute's task in a second."""
    config = tiny(length=2, min_length=None, steps=120, batch=16, d_model=32, eval_every=120)
    run = train(config, tmp_path / "run", **CPU)
    assert run.metrics.final("char", 2) > 0.9
    assert run.metrics.curve("loss")[1][-1] < 0.5


def test_every_checkpoint_is_kept_where_that_is_asked_for(tiny, tmp_path):
    def kept(name, **options):
        run = train(tiny(steps=6), tmp_path / name, **CPU, checkpoint_every=2, **options)
        return sorted(path.name for path in (run.path / "checkpoints").iterdir())

    assert kept("last") == ["last", "step-000006"]
    every = ["last", "step-000002", "step-000004", "step-000006"]
    assert kept("all", keep_checkpoints=True) == every
    first, last = (
        ssmlens.load_model(tmp_path / "all" / "checkpoints" / name) for name in (every[1], "last")
    )
    assert not torch.equal(first.lm_head.weight, last.lm_head.weight)


def test_links_in_a_run_folder_lead_nowhere(tiny, tmp_path):
    """From a run folder that somebody sent: nothing outside is written or removed."""
    precious, outside = tmp_path / "precious", tmp_path / "outside"
    precious.write_text("dear")
    (outside / "step-999999").mkdir(parents=True)
    train(tiny(steps=4), tmp_path / "run", **CPU, checkpoint_every=2)
    run = tmp_path / "run"
    (run / "status.json").write_text('{"state": "running", "step": 2, "steps": 4}')
    (run / "status.json.partial").symlink_to(precious)
    (run / "checkpoints" / "step-000001").symlink_to(outside)
    train(tiny(steps=4), run, **CPU, resume=True)
    assert not (run / "status.json.partial").is_symlink()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(outside)
    (run / "status.json").write_text('{"state": "running", "step": 0, "steps": 4}')
    with pytest.raises(SsmlensError, match="checkpoints: a link stands in its place"):
        train(tiny(steps=4), run, **CPU, resume=True)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(SsmlensError, match=r"metrics\.jsonl: a link stands in its place"):
        train(tiny(steps=4), run, **CPU, resume=True)
    assert precious.read_text() == "dear"
    assert [path.name for path in outside.iterdir()] == ["step-999999"]


class Evil:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize(
    "kind", ["garbage", "empty", "evil", "other model", "weights", "no losses"]
)
def test_a_checkpoint_that_cannot_be_gone_on_with_is_one_line(tiny, tmp_path, kind):
    out = train(tiny(steps=4), tmp_path / "run", **CPU, checkpoint_every=2).path
    last = out / "checkpoints" / "last"
    state, weights = last / "training.pt", last / "model.safetensors"
    if kind == "other model":
        other = train(tiny(steps=4, d_model=32), tmp_path / "other", **CPU).path
        shutil.copy(other / "checkpoints" / "last" / "model.safetensors", weights)
    elif kind == "weights":
        weights.write_bytes(b"\xff" * 100)
    elif kind == "no losses":
        torch.save({**torch.load(state, weights_only=True), "progress": {"losses": "x"}}, state)
    elif kind == "evil":
        torch.save({"progress": Evil()}, state)
    else:
        state.write_bytes(b"garbage" if kind == "garbage" else b"")
    (out / "status.json").write_text('{"state": "running", "step": 2, "steps": 4}')
    with pytest.raises(RunFileError, match=r"last cannot be resumed \(.*\); remove it") as error:
        train(tiny(steps=4), out, **CPU, resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "status.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "garbage", "deep"])
def test_files_of_a_run_that_are_not_what_they_must_be(tiny, tmp_path, name, kind):
    out = train(tiny(steps=2), tmp_path / "run", **CPU).path
    path = out / name
    if name != "status.json":
        (out / "status.json").write_text('{"state": "running", "step": 0, "steps": 2}')
    path.unlink()
    make = {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir}
    text = {"garbage": '{"a": \n', "deep": "[" * 100_000 + "\n"}
    make[kind]() if kind in make else path.write_text(text[kind])
    with pytest.raises(SsmlensError, match=name.replace(".", r"\.")) as error:
        train(tiny(steps=2), out, **CPU, resume=True)
    assert "\n" not in str(error.value)
