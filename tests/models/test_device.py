"""A device by name, on machines with and without CUDA."""

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.models.device import find_device


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n): as if torch found so many."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("count", "name", "device"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda"),
        (0, "cpu", "cpu"),
        (2, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, torch.device("cuda:1"), "cuda:1"),
        (0, "meta", "meta"),
    ],
)
def test_a_device_that_is_there(gpus, count, name, device):
    gpus(count)
    assert find_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("count", "name", "told"),
    [
        (0, "warp", r"^unknown device 'warp'; use cpu, cuda or cuda:1$"),
        (2, "cuda:x", "unknown device 'cuda:x'"),
        (0, "", "unknown device ''"),
        (0, "cuda", "^device cuda is requested, but torch finds no CUDA here; use cpu$"),
        (0, torch.device("cuda:1"), "^device cuda:1 is requested, .* no CUDA here"),
        (1, "cuda:1", "^device cuda:1 is requested, but torch finds only cuda:0 here$"),
        (4, "cuda:4", r"torch finds only cuda:0\.\.cuda:3 here$"),
    ],
)
def test_a_device_that_is_not(gpus, count, name, told):
    gpus(count)
    with pytest.raises(UsageError, match=told):
        find_device(name)
