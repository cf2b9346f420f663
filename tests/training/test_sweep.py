"""Sweeps: every run once, whatever happens to workers and launchers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.store.runs import find_runs, open_run, tabulate
from ssmlens.training.config import TrainConfig
from ssmlens.training.sweep import run_path, sweep

RUNS = int(os.environ.get("SSMLENS_STUB_RUNS", "24"))
KILLS = int(os.environ.get("SSMLENS_STUB_KILLS", "2"))
PROGRAM = Path(__file__).with_name("stub_sweep.py")


def launch(out, *words, **environment):
    command = [sys.executable, PROGRAM, out, *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def test_every_run_once_with_two_launchers_of_which_one_is_killed(tmp_path):
    """SSMLENS_STUB_RUNS=500 SSMLENS_STUB_KILLS=10 is the whole of it."""
    out = tmp_path / "sweep"
    steady, killed = launch(out, RUNS, 2), launch(out, RUNS, 2)
    try:
        for number in range(1, KILLS + 1):
            goal = number * RUNS // (KILLS + 2)
            while len(list(out.glob("*/status.json"))) < goal and killed.poll() is None:
                time.sleep(0.02)
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            killed = launch(out, RUNS, 2)
        assert (steady.wait(), killed.wait()) == (0, 0)
    finally:
        steady.kill()
        killed.kill()
    runs = [open_run(path) for path in find_runs(out)]
    assert sorted(run.seed for run in runs) == list(range(RUNS))
    assert {run.status.state for run in runs} == {"done"}
    assert all(len(run.metrics) == 1 for run in runs)
    assert tabulate(runs).char.values.tolist() == [[0.5]] * RUNS
    begun = sum((run.path / "begun").stat().st_size for run in runs)
    assert begun >= RUNS  # faults and kills: some more than once


def test_what_cannot_be_done_is_recorded_with_its_reason(tmp_path):
    arms = ("crash", "hang", "fill", "refuse", "default")
    assert launch(tmp_path, 1, 3, *arms).wait() == 0
    status = {run.arm: run.status for run in map(open_run, find_runs(tmp_path))}
    told = {arm: (status[arm].state, status[arm].error) for arm in arms}
    assert told == {
        "crash": ("failed", "crashed 3 times: its process ended with signal 6"),
        "hang": ("failed", "hung 3 times: it gave no sign of life for 2 s"),
        "fill": ("failed", "out of memory 3 times: MemoryError"),
        "refuse": ("failed", "no, never"),
        "default": ("done", ""),
    }
    begun = {open_run(p).arm: (p / "begun").stat().st_size for p in find_runs(tmp_path)}
    assert begun == {"crash": 3, "hang": 3, "fill": 3, "refuse": 1, "default": 1}
    assert launch(tmp_path, 1, 1, "crash", "default").wait() == 0  # it stays failed
    assert begun == {open_run(p).arm: (p / "begun").stat().st_size for p in find_runs(tmp_path)}


@pytest.fixture
def grid(tiny):
    """Two arms at two rates, two steps each."""
    rates = (1e-3, 1e-2)
    return [
        tiny(steps=2, init=init, learning_rate=rate, capture_at=(2,))
        for init in ("mamba-ssm", "mimetic")
        for rate in rates
    ]


def test_a_sweep_trains_its_configs_and_goes_on_where_it_was(grid, tmp_path, tiny):
    """A shard of it, then all of it with a run that fails, then nothing, then what failed."""
    shard = sweep(grid, tmp_path, devices=["cpu"], shard=(2, 3))
    assert [(run.arm, run.learning_rate) for run in shard] == [("default", 1e-2)]
    assert shard[0].status.state == "done"
    wild = tiny(learning_rate=1e30, clip=0.0, warmup=0)
    told = []

    def sweep_all(**options):
        told.clear()
        return sweep(
            [*grid, wild, *grid],
            tmp_path,
            devices=["cpu"],
            progress=lambda *now: told.append(now),
            **options,
        )

    runs = sweep_all()
    assert [now[:2] for now in told] == [(n, 5) for n in range(1, 6)]
    assert told[-1][2] == "1 failed"
    assert [run.arm for run in runs] == ["default", "default", "mimetic", "mimetic", "default"]
    assert [run.status.state for run in runs] == ["done"] * 4 + ["failed"]
    assert "the loss is nan" in runs[-1].status.error
    assert runs[1].written == shard[0].written
    for run in runs[:-1]:
        assert ssmlens.verify(run.path / "captures" / "step-000002.h5") == []
    assert len(find_runs(tmp_path)) == 5

    assert [run.written for run in sweep_all()] == [run.written for run in runs]
    assert told[-1] == (5, 5, "1 failed")
    again = sweep_all(retry_failed=True)
    assert [run.written for run in again[:-1]] == [run.written for run in runs[:-1]]
    assert again[-1].written > runs[-1].written
    with pytest.raises(UsageError, match="i/N needs 1 ≤ i ≤ N"):
        sweep(grid, tmp_path, shard=(3, 2))


def test_a_bad_config_is_told_before_anything_is_begun(grid, tmp_path, tiny):
    with pytest.raises(UsageError, match=r"config 4 \(default\): --mixer Mamba2 --headdim"):
        sweep([*grid, tiny(headdim=5)], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_folders_are_named_after_what_they_hold(tiny, tmp_path):
    config = tiny(init="mimetic", components=("A", "BC"), c=4.0, seed=2)
    path = run_path(tmp_path, config)
    assert path.name == f"copy-mimetic-A+BC-c=4-lr0.01-seed2-{config.digest()[:12]}"
    again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert run_path(tmp_path, again) == path
