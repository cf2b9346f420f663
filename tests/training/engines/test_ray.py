"""What the Ray engine asks of a cluster; whole sweeps over two nodes are in test_sweep.py, where Ray is installed."""

import sys
from types import SimpleNamespace

import pytest

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.training.engines import ray as ray_engine
from ssmlens.training.engines.engine import Place, Report, Workers
from ssmlens.training.engines.ray import RayEngine

BIG, SMALL, CPUS = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 8.0}


@pytest.fixture
def cluster(monkeypatch):
    """cluster(node, ...): what `import ray` finds, connected to a cluster of nodes with these resources."""

    def connect(*nodes):
        listed = [{"Alive": True, "Resources": node} for node in nodes]
        listed.append({"Alive": False, "Resources": BIG})
        ray = SimpleNamespace(is_initialized=lambda: True, nodes=lambda: listed)
        monkeypatch.setitem(sys.modules, "ray", ray)

    return connect


@pytest.mark.parametrize(
    ("nodes", "asked", "count", "device"),
    [
        ([BIG, SMALL, CPUS], Workers(), 5, "cuda:0"),  # a GPU each
        ([BIG, SMALL, CPUS], Workers(gpus=0.25), 16 + 2, "cuda:0"),  # then cores are scarce
        ([BIG, SMALL, CPUS], Workers(gpus=0.3, cpus=0.5), 13 + 3, "cuda:0"),
        ([BIG, SMALL, CPUS], Workers(gpus=0.1, cpus=0.2), 40 + 10, "cuda:0"),
        ([BIG, SMALL, CPUS], Workers(devices=("cpu",), cpus=2), 8 + 1 + 4, "cpu"),
        ([BIG, SMALL, CPUS], Workers(gpus=0.0), 26, "cpu"),
        ([CPUS], Workers(), 8, "cpu"),
        ([CPUS], Workers(count=3), 3, "cpu"),
    ],
)
def test_workers_fill_the_cluster(cluster, nodes, asked, count, device):
    cluster(*nodes)
    with RayEngine(asked) as engine:
        assert engine.places == [Place(device)] * count


def test_what_cannot_be_placed_is_refused(cluster, monkeypatch):
    cluster(CPUS, {"GPU": 2.0})
    with (
        pytest.raises(UsageError, match=r"no machine .* has 1 CPUs and 0\.5 GPUs"),
        RayEngine(Workers(gpus=0.5)),
    ):
        pass
    for asked, told in (
        (Workers(devices=("cuda:0",)), "set `devices` to auto or cpu"),
        (Workers(devices=("cpu", "cpu")), "set `devices` to auto or cpu"),
        (Workers(gpus=1.5), "`gpus_per_worker` is a share of one GPU, 0..1, not 1.5"),
        (Workers(gpus=float("nan")), "`gpus_per_worker` is a share of one GPU"),
        (Workers(gpus=0.5, devices=("cpu",)), "`gpus_per_worker` does not go with `devices` cpu"),
        (Workers(cpus=0.0), "`cpus_per_worker` is above 0, not 0"),
    ):
        with pytest.raises(UsageError, match=told):
            RayEngine(asked)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"`engine` ray needs ray: pip install 'ssmlens\[ray\]'"):
        RayEngine(Workers())


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    def init(**options):
        raise ConnectionError("Could not find\nany running Ray instance")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with (
        pytest.raises(
            SsmlensError, match="cannot connect to a cluster: Could not find any running"
        ),
        RayEngine(Workers()),
    ):
        pass


def test_what_ray_says_of_a_dead_worker_becomes_a_line():
    class ActorDiedError(Exception):
        pass

    told = "The actor died.\n\tpid: 7\nWorker exit type: {}\nWorker exit detail: Some causes\ninclude OOM"
    gone = ray_engine._death_report(ActorDiedError(told.format("SYSTEM_ERROR")))
    assert gone == Report(None, "crashed", "its process ended with SYSTEM_ERROR")
    full = ray_engine._death_report(ActorDiedError(told.format("NODE_OUT_OF_MEMORY")))
    assert full == Report(None, "out of memory", "its process ended with NODE_OUT_OF_MEMORY")
    assert ray_engine._death_report(ActorDiedError("no\nnode")) == Report(
        None, "crashed", "no node"
    )


def test_a_machine_without_the_launchers_folder_says_so(tmp_path):
    actor = ray_engine._Actor(print, Place("cpu"))
    (told,) = actor.enter(str(tmp_path / "not there"))
    assert told is not None
    assert told.state == "crashed"
    assert "has no folder" in told.error
    assert "the machines must share a file system" in told.error
