"""Sweeps: every run once, whatever happens to workers and launchers."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ssmlens
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.runs.run import find_runs, open_run
from ssmlens.runs.table import tabulate
from ssmlens.training import loop
from ssmlens.training import sweep as sweep_module
from ssmlens.training.config import TrainConfig
from ssmlens.training.engines.engine import Place, Worker, engines
from ssmlens.training.engines.local import LocalEngine
from ssmlens.training.engines.serve import serve
from ssmlens.training.sweep import run_path, sweep
from ssmlens.training.sweep_jobs import SweepJob

RUNS = int(os.environ.get("SSMLENS_STUB_RUNS", "24"))
KILLS = int(os.environ.get("SSMLENS_STUB_KILLS", "2"))
HERE = Path(__file__).parent
# The tests' own python; another one where Ray is installed elsewhere.
PYTHON = os.environ.get("SSMLENS_STUB_PYTHON", sys.executable)
HAS_RAY = subprocess.run([PYTHON, "-c", "import ray"], capture_output=True).returncode == 0
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")


def launch(out, *words, **environment):
    command = [PYTHON, HERE / "stub_sweep.py", out, *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


@dataclasses.dataclass
class Cluster:
    """A Ray cluster of two nodes on this machine."""

    address: str
    process: subprocess.Popen

    def lose_a_node(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def cluster():
    pipe = subprocess.PIPE
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [PYTHON, HERE / "ray_cluster.py"]
    with subprocess.Popen(command, env=quiet, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Cluster(process.stdout.readline().strip(), process)
        process.stdin.close()


def work_off_with_kills(out, *words, **environment):
    """Two launchers at once, of which one is killed and started again, until all is done."""
    steady, killed = (launch(out, RUNS, *words, **environment) for _ in range(2))
    try:
        for number in range(1, KILLS + 1):
            goal = number * RUNS // (KILLS + 2)
            while len(list(out.glob("*/status.json"))) < goal and killed.poll() is None:
                time.sleep(0.02)
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            killed = launch(out, RUNS, *words, **environment)
        assert (steady.wait(), killed.wait()) == (0, 0)
    finally:
        steady.kill()
        killed.kill()


def require_all_once(out):
    runs = [open_run(path) for path in find_runs(out)]
    assert sorted(run.seed for run in runs) == list(range(RUNS))
    assert {run.status.state for run in runs} == {"done"}
    assert all(len(run.metrics) == 1 for run in runs)
    assert tabulate(runs).char.values.tolist() == [[0.5]] * RUNS
    assert sum(map(begun, find_runs(out))) >= RUNS  # faults and kills: some more than once


def begun(path):
    """How often a stub run was begun."""
    return len((path / "begun").read_text().splitlines())


@pytest.mark.parametrize("pack", [1, 8])
def test_every_run_once_with_two_launchers_of_which_one_is_killed(tmp_path, pack):
    """SSMLENS_STUB_RUNS=500 SSMLENS_STUB_KILLS=10 is the whole of it."""
    out = tmp_path / "sweep"
    work_off_with_kills(out, "--workers", 2, "--pack", pack)
    require_all_once(out)


@needs_ray
def test_every_run_once_on_two_nodes_of_a_ray_cluster(tmp_path, cluster):
    """The same; SSMLENS_STUB_PYTHON is a python that has Ray, where that of the tests has none."""
    out = tmp_path / "sweep"
    words = ("--engine", "ray", "--workers", 3, "--pack", 8)
    work_off_with_kills(out, *words, RAY_ADDRESS=cluster.address)
    require_all_once(out)
    text = "".join((path / "begun").read_text() for path in find_runs(out))
    assert len(set(text.splitlines())) > 1  # processes


@needs_ray
def test_every_run_once_though_the_cluster_loses_a_node(tmp_path, cluster):
    out = tmp_path / "sweep"
    words = ("--engine", "ray", "--pack", 8)  # as many workers as both nodes have cores
    launcher = launch(out, RUNS, *words, RAY_ADDRESS=cluster.address)
    while len(list(out.glob("*/status.json"))) < RUNS // 3:
        assert launcher.poll() is None
        time.sleep(0.02)
    cluster.lose_a_node()
    assert launcher.wait() == 0
    require_all_once(out)


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=needs_ray)])
def test_what_cannot_be_done_is_recorded_with_its_reason(tmp_path, engine):
    """In one pack with what can be, and without a cluster that is there already."""
    arms = ("crash", "hang", "fill", "refuse", "default")
    words = ("--engine", engine, "--workers", 2, "--pack", 8)
    assert launch(tmp_path, 1, *arms, *words).wait() == 0
    runs = {run.arm: run for run in map(open_run, find_runs(tmp_path))}
    told = {arm: (run.status.state, run.status.error) for arm, run in runs.items()}
    ended = {"local": "signal 6", "ray": "SYSTEM_ERROR"}[engine]
    assert told == {
        "crash": ("failed", f"crashed 3 times: its process ended with {ended}"),
        "hang": ("failed", "hung 3 times: it gave no sign of life for 2 s"),
        "fill": ("failed", "out of memory 3 times: MemoryError"),
        "refuse": ("failed", "no, never"),
        "default": ("done", ""),
    }
    times = {arm: begun(run.path) for arm, run in runs.items()}
    assert times["refuse"] == times["default"] == 1
    again = launch(tmp_path, 1, "crash", "default", "--engine", engine)
    assert again.wait() == 0  # it stays failed
    assert times == {arm: begun(run.path) for arm, run in runs.items()}


class Here(Worker):
    """A worker in the process of the test, which need not import torch again."""

    def __init__(self, work, place):
        self.work, self.place, self.says = work, place, [None]

    def send(self, pack):
        serve(pickle.loads(pickle.dumps(pack)), self.work, self.place, self.says.append)

    def receive(self):
        return self.says.pop(0)

    def end(self):
        pass


class EngineHere(LocalEngine):
    def start(self, work, place):
        return Here(work, place)

    def wait(self, workers, seconds):
        return [worker for worker in workers if isinstance(worker, Here) and worker.says]


@pytest.fixture
def workers_here(monkeypatch):
    """Local workers are in this process; tests of the commands have processes, which train as well."""
    assert "local" in engines
    monkeypatch.setitem(engines._entries, "local", EngineHere)


@pytest.fixture
def grid(tiny):
    """Two arms at two rates, two steps each."""
    rates = (1e-3, 1e-2)
    return [
        tiny(steps=2, init=init, learning_rate=rate, capture_at=(2,))
        for init in ("mamba-ssm", "mimetic")
        for rate in rates
    ]


def test_a_sweep_trains_its_configs_and_goes_on_where_it_was(grid, tmp_path, tiny, workers_here):
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
            pack=3,
            progress=lambda *now: told.append(now),
            **options,
        )

    runs = sweep_all()
    assert [now[:2] for now in told] == [(n, 5) for n in range(1, 6)]
    assert told[0][2] == "1 done"  # before
    assert told[-1][2] == "4 done, 1 failed"
    assert [run.arm for run in runs] == ["default", "default", "mimetic", "mimetic", "default"]
    assert [run.status.state for run in runs] == ["done"] * 4 + ["failed"]
    assert "the loss is nan" in runs[-1].status.error
    assert runs[1].written == shard[0].written
    for run in runs[:-1]:
        assert ssmlens.verify(run.path / "captures" / "step-000002.h5") == []
    assert len(find_runs(tmp_path)) == 5

    assert [run.written for run in sweep_all()] == [run.written for run in runs]
    assert told == [(5, 5, "4 done, 1 failed")]
    again = sweep_all(retry_failed=True)
    assert [run.written for run in again[:-1]] == [run.written for run in runs[:-1]]
    assert again[-1].written > runs[-1].written


def test_what_no_sweep_can_do_is_refused_before_it_begins(grid, tmp_path):
    for options, told in (
        ({"shard": (3, 2)}, "`shard` 3/2: i/N needs 1 ≤ i ≤ N"),
        ({"pack": 0}, "`pack` is at least 1, not 0"),
        ({"hang_after": 0.0}, "`hang_after` is above 0, not 0"),
        ({"hang_after": float("nan")}, "`hang_after` is above 0, not nan"),
        ({"devices": ()}, "`devices` is empty"),
        ({"engine": "lokal"}, "unknown engine 'lokal'; did you mean 'local'"),
    ):
        with pytest.raises(UsageError, match=told):
            sweep(grid, tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_a_worker_is_on_its_device_and_takes_its_share_of_the_cores(monkeypatch, tmp_path):
    """Kernels are launched where the process is: on a second GPU it has to go there first."""
    seen = []
    monkeypatch.setattr(sweep_module, "_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(str(device)))
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(loop, "train_pack", lambda pack, **how: seen.append(how["device"]))
    pack = [SweepJob(tmp_path / "run", TrainConfig())]

    def nothing(*told):
        pass

    for place in (Place("cuda:1", 2), Place("cuda", 3), Place("cpu", 16)):
        sweep_module._train(pack, place, nothing, nothing)
    assert seen == ["cuda:1", 4, "cuda:1", 2, "cuda", 1, "cpu"]
    away = [SweepJob(tmp_path / "nowhere" / "run", TrainConfig())]
    with pytest.raises(SsmlensError, match="the machines of a sweep must share a file system"):
        sweep_module._train(away, Place("cpu"), nothing, nothing)


@pytest.mark.gpu
def test_a_sweep_uses_every_gpu_with_two_workers_on_each_and_two_runs_in_a_pack(tiny, tmp_path):
    """With Mamba-1, whose kernels Triton does not tune: every worker would, for minutes."""
    devices = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    mamba1 = {"mixer": "Mamba1", "headdim": None}
    configs = [tiny(seed=seed, **mamba1) for seed in range(4 * len(devices))]
    runs = sweep(configs, tmp_path, devices=devices, workers=2 * len(devices), pack=2)
    assert [(run.status.state, run.status.error) for run in runs] == [("done", "")] * len(configs)


def test_what_says_it_is_done_and_is_not_here_ends_the_sweep(tmp_path, workers_here):
    """As it is with machines that share no disk; the work of this test writes nothing anywhere."""
    with pytest.raises(SsmlensError, match=r"1 runs are done, but .* is not here: the machines"):
        sweep([TrainConfig()], tmp_path, devices=["cpu"], work=say_done)


def say_done(pack, place, told, beat):
    for number in range(len(pack)):
        told(number, "done", "")


def test_a_bad_config_is_told_before_anything_is_begun(grid, tmp_path, tiny):
    with pytest.raises(UsageError, match=r"config 4 \(default\): `mixer` Mamba2 `headdim`"):
        sweep([*grid, tiny(headdim=5)], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_folders_are_named_after_what_they_hold(tiny, tmp_path):
    config = tiny(init="mimetic", components=("A", "BC"), c=4.0, seed=2)
    path = run_path(tmp_path, config)
    assert path.name == f"copy-mimetic-A+BC-c=4-lr0.01-seed2-{config.digest()[:12]}"
    again = TrainConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert run_path(tmp_path, again) == path
