"""Trackers: each is told what metrics.jsonl is; stand-ins for the libraries, which are not installed."""

import json
import sys

import pytest

from ssmlens.errors import UsageError
from ssmlens.training.loop import train


class Told(list):
    """wandb's and trackio's interface, and tensorboard's, writing down what they are told."""

    def init(self, **named):
        self.config = named
        return self

    def log(self, named, step):
        self.extend((step, name, value) for name, value in named.items())

    def finish(self):
        self.closed = True

    def SummaryWriter(self, folder):
        self.folder = folder
        return self

    def add_scalar(self, name, value, step):
        self.append((step, name, value))

    close = finish


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_is_told_all_that_is_measured(tiny, tmp_path, monkeypatch, name):
    told = Told()
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, told)
    config = tiny(steps=10)
    train(config, tmp_path / "run", device="cpu", trackers=[name])
    wanted = []
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        step, split, length = (line.pop(key) for key in ("step", "split", "length"))
        place = "" if length is None else f"/{length}"
        wanted += [(step, f"{split}/{key}{place}", value) for key, value in line.items()]
    assert told == wanted
    assert told.closed
    if name != "tensorboard":
        assert told.config["config"] == config.to_dict()


def test_a_tracker_that_is_not_there(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="`trackers` wandb: pip install wandb"):
        train(tiny(), tmp_path / "run", device="cpu", trackers=["wandb"])
    with pytest.raises(UsageError, match="`trackers` 'wndb' is unknown"):
        train(tiny(), tmp_path / "run", device="cpu", trackers=["wndb"])
