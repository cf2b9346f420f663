"""Runs side by side: each as if it were alone, whatever happens to its neighbours; on a GPU in one CUDA graph."""

import dataclasses
import json

import pytest
import torch

from ssmlens.runs.run import open_run
from ssmlens.training.config import TrainConfig
from ssmlens.training.loop import train, train_pack
from ssmlens.training.pack import Pack
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.trainee import Trainee

GPU = pytest.mark.gpu


def lines(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def together(jobs, device="cpu"):
    """What a pack tells: place to (state, error), each place once."""
    told = {}

    def tell(place, state, error):
        assert place not in told
        told[place] = (state, error)

    train_pack(jobs, device=device, report=tell)
    return told


def test_each_run_of_a_pack_is_as_if_alone(tiny, tmp_path):
    base = tiny(steps=12)
    fields = ({}, {"seed": 1}, {"learning_rate": 3e-3}, {"init": "mimetic", "steps": 7})
    configs = [dataclasses.replace(base, **own) for own in fields]
    told = together([(tmp_path / f"together {i}", c) for i, c in enumerate(configs)])
    assert told == dict.fromkeys(range(4), ("done", ""))
    for i, config in enumerate(configs):
        alone = train(config, tmp_path / f"alone {i}", device="cpu")
        assert lines(tmp_path / f"together {i}") == lines(alone.path)


def test_one_that_fails_leaves_its_neighbours_alone(tiny, tmp_path):
    wild = tiny(learning_rate=1e30, clip=0.0, warmup=0)
    train(tiny(seed=3), tmp_path / "done", device="cpu")
    jobs = [
        (tmp_path / "wild", wild),
        (tmp_path / "good", tiny()),
        (tmp_path / "held", tiny(seed=2)),
        (tmp_path / "done", tiny(seed=3)),
        (tmp_path / "odd", tiny(headdim=7)),
        (tmp_path / "other", tiny(seed=5)),
    ]
    RunFolder(tmp_path / "other", tiny(seed=6)).close()
    with RunFolder(tmp_path / "held", tiny(seed=2)):
        told = together(jobs)
    assert [told[i][0] for i in range(6)] == [
        "failed",
        "done",
        "elsewhere",
        "done",
        "failed",
        "failed",
    ]
    assert "the loss is" in told[0][1]
    assert "`headdim`" in told[4][1]
    assert "has a run with seed 6" in told[5][1]
    assert "the loss is" in open_run(tmp_path / "wild").status.error
    alone = train(tiny(), tmp_path / "alone", device="cpu")
    assert lines(tmp_path / "good") == lines(alone.path)


def test_a_pack_goes_on_from_checkpoints_at_different_steps(tiny, tmp_path, monkeypatch):
    configs = [tiny(seed=seed, eval_every=7) for seed in range(3)]
    whole = [lines(train(c, tmp_path / f"whole {c.seed}", device="cpu").path) for c in configs]
    step = Trainee.next_step

    for config, stop in zip(configs[:2], (6, 14), strict=True):

        def stopped(trainee, stop=stop):
            if trainee.step == stop:
                raise KeyboardInterrupt
            return step(trainee)

        monkeypatch.setattr(Trainee, "next_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / f"{config.seed}", device="cpu", checkpoint_every=5)
        monkeypatch.undo()
    together([(tmp_path / f"{c.seed}", c) for c in configs])
    assert [lines(tmp_path / f"{c.seed}") for c in configs] == whole


def test_what_is_interrupted_is_told_neither_done_nor_failed(tiny, tmp_path, monkeypatch):
    """Out of memory, say: whoever called it may try again."""
    step = Trainee.next_step

    def stopped(trainee):
        if trainee.step == 12:
            raise MemoryError
        return step(trainee)

    monkeypatch.setattr(Trainee, "next_step", stopped)
    told = {}
    jobs = [(tmp_path / "short", tiny(steps=10)), (tmp_path / "long", tiny())]
    with pytest.raises(MemoryError):
        train_pack(jobs, device="cpu", report=lambda i, state, error: told.update({i: state}))
    assert told == {0: "done"}
    assert open_run(tmp_path / "long").status.state == "stopped"
    monkeypatch.undo()
    assert together(jobs) == dict.fromkeys(range(2), ("done", ""))


KINDS = [
    {},
    {"mixer": "Mamba1", "headdim": None},
    {"mixer": "Mamba3", "d_state": 32, "headdim": 32},
    {"attention_layers": (0,), "attention_heads": 2},
    {"linear_attention_layers": (0,)},
    {"task": "recall", "letters": 32},
    {"task": "sort", "letters": 26},
    {"task": "ngram", "length": 12, "min_length": None, "n": 2, "answer": 1},
    {"layout": "jelassi", "context": 40},
    {"precision": "bf16"},
]


@GPU
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: json.dumps(kind))
def test_a_recorded_step_is_the_eager_step(tiny, kind):
    """Losses of two models in one graph against each alone, without graph: the same batches, rates and weights."""
    shape = {"d_model": 64, "d_state": 16, "headdim": 8, "letters": 26, "steps": 12, "n_layer": 2}
    base: TrainConfig = tiny(**(shape | kind))
    device = torch.device("cuda")
    configs = [tiny(**(shape | kind), seed=1), tiny(**(shape | kind), learning_rate=1e-3)]
    assert base.steps == 12
    pack = Pack([Trainee(check(config), device) for config in configs])
    recorded = torch.stack([pack.step() for _ in range(12)]).T.tolist()
    for losses, config in zip(recorded, configs, strict=True):
        trainee = Trainee(check(config), device)
        eager = [float(trainee.train_step()) for _ in range(12)]
        assert losses == pytest.approx(eager, rel=2e-2 if base.precision == "bf16" else 5e-3)
        assert len(set(losses)) == 12
    assert recorded[0] != recorded[1]


@GPU
def test_a_pack_on_a_gpu_ends_whatever_becomes_of_its_runs(tiny, tmp_path):
    """Different numbers of steps, and a run that fails: the graph is recorded anew for those that are left."""
    shape = {"d_model": 64, "d_state": 16, "letters": 26}
    wild = tiny(**shape, learning_rate=1e30, clip=0.0, warmup=0, steps=60)
    configs = [tiny(**shape, steps=40), wild, tiny(**shape, steps=60), tiny(**shape, steps=7)]
    told = together([(tmp_path / f"{i}", c) for i, c in enumerate(configs)], "cuda")
    assert [told[i][0] for i in range(4)] == ["done", "failed", "done", "done"]
    alone = train(configs[2], tmp_path / "alone", device="cuda")
    curves = [open_run(p).metrics.curve("loss")[1].tolist() for p in (alone.path, tmp_path / "2")]
    assert curves[1] == pytest.approx(curves[0], rel=0.05)
