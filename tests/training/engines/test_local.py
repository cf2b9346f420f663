"""Processes of this machine: where they are, and what they say."""

import os

import pytest

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.training.engines.engine import Place, Report, Workers, engines
from ssmlens.training.engines.local import LocalEngine
from ssmlens.training.engines.serve import serve


def asked(count, *devices):
    return Workers(count, devices or ("cpu",))


@pytest.fixture
def four_gpus(monkeypatch):
    from ssmlens.models import device

    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 4)


FOUR = ("cuda:0", "cuda:1", "cuda:2", "cuda:3")


@pytest.mark.parametrize(
    ("count", "devices", "expected"),
    [
        (None, FOUR, FOUR),
        (4, FOUR, FOUR),
        (6, FOUR, (*FOUR, "cuda:0", "cuda:1")),
        (3, ("cuda:2",), ("cuda:2",) * 3),
        (None, ("auto",), ("cuda",)),
        (2, ("cpu", "cuda:1"), ("cpu", "cuda:1")),
    ],
)
def test_workers_take_the_devices_in_turn(four_gpus, count, devices, expected):
    places = LocalEngine(asked(count, *devices)).places
    assert places == [Place(device, len(expected)) for device in expected]


def test_what_cannot_be_placed_is_refused(four_gpus):
    with pytest.raises(UsageError, match="4 devices need at least as many `workers`, not 2"):
        LocalEngine(asked(2, *FOUR))
    with pytest.raises(UsageError, match="cuda:4"):
        LocalEngine(asked(1, "cuda:4"))
    with pytest.raises(UsageError, match="`gpus_per_worker` and `cpus_per_worker` need"):
        LocalEngine(Workers(gpus=0.5))
    with pytest.raises(UsageError, match="`workers` is at least 1, not 0"):
        asked(0)
    with pytest.raises(UsageError, match="`devices` is empty"):
        Workers(1, ())
    with pytest.raises(UsageError, match="unknown engine 'lokal'; did you mean 'local'"):
        engines["lokal"]


def echo(pack, place, told, beat):
    """Says where it is, as the error of its first job."""
    told(0, "failed", f"{place.device} {os.getpid()}")


def test_a_process_says_it_is_ready_what_became_of_its_pack_and_how_it_died():
    with LocalEngine(asked(1)) as engine:
        worker = engine.start(echo, Place("cuda:3"))
        try:

            def receive():
                while not engine.wait([worker], 60.0):
                    pass
                return worker.receive()

            assert receive() is None
            worker.send(["job"])
            told = receive()
            assert told[:2] == (0, "failed")
            device, process = told.error.split()
            assert device == "cuda:3"
            assert receive() == Report(None, "ended")
            os.kill(int(process), 9)
            assert receive() == Report(None, "crashed", "its process ended with signal 9")
        finally:
            worker.end()


def fails(error):
    def work(pack, place, told, beat):
        told(1, "done", "")
        if error is not None:
            raise error

    return work


class OutOfMemoryError(RuntimeError):
    """As torch's is called."""


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (SsmlensError("no,\n never"), ("failed", "no, never")),
        (ValueError("odd"), ("crashed", "ValueError: odd")),
        (OutOfMemoryError("full"), ("out of memory", "OutOfMemoryError: full")),
        (MemoryError(), ("out of memory", "MemoryError")),
        (None, ("crashed", "its work ended without a report on 1 of 2 jobs")),
    ],
)
def test_what_a_worker_says_of_the_end_of_its_work(error, end):
    said = []
    serve(["a", "b"], fails(error), Place("cpu"), said.append)
    assert said == [Report(1, "done"), Report(None, *end)]
