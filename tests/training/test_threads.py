"""CPU threads: one for narrow models, and whoever says a number is obeyed."""

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.training import presets
from ssmlens.training.config import TrainConfig
from ssmlens.training.threads import use_threads, usual_threads


@pytest.mark.parametrize(("width", "threads"), [(16, 1), (255, 1), (256, None), (1024, None)])
def test_a_narrow_model_takes_one_thread(monkeypatch, width, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usual_threads(TrainConfig(d_model=width)) == threads


def test_the_environment_wins(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usual_threads(TrainConfig(d_model=16)) is None


def test_presets_take_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    every = [usual_threads(c) for preset in presets.PRESETS.values() for c in preset.configs]
    assert set(every) == {1}


def test_threads_are_as_before_afterwards(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    with use_threads(2):
        assert seen == [2]
    with pytest.raises(ZeroDivisionError), use_threads(None):
        raise ZeroDivisionError
    assert seen == [2, 5, 5, 5]
    with pytest.raises(UsageError, match="`threads` is at least 1, not 0"), use_threads(0):
        pass
