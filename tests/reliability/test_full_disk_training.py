"""A disk that fills up while a model is trained: one line, nothing left behind, and with room the run goes on."""

import re

import pytest

from ssmlens.errors import SsmlensError
from ssmlens.runs.run import open_run
from ssmlens.training import checkpoints
from ssmlens.training.config import TrainConfig
from ssmlens.training.loop import train

CONFIG = TrainConfig(
    **{"length": 4, "min_length": 2, "letters": 5, "d_model": 16, "n_layer": 1, "d_state": 8},
    **{"headdim": 8, "steps": 12, "batch": 8, "warmup": 5, "eval_every": 4, "eval_count": 16},
)
ONE_LINE = r"cannot write \S+: no space left on the disk; needs [\d.]+ \w+, [\d.]+ \w+ free"


@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288, 20480, 40960, 65536])
def test_the_disk_fills_up_while_a_model_is_trained(small_disk, tmp_path, fill, leave):
    whole = train(CONFIG, tmp_path / "whole", device="cpu", checkpoint_every=4)
    out = small_disk / "run"
    ballast = fill(small_disk, leave)
    with pytest.raises(SsmlensError) as error:
        train(CONFIG, out, device="cpu", checkpoint_every=4)
    assert re.fullmatch(ONE_LINE, str(error.value)), str(error.value)
    assert error.value.exit_code == 1
    assert list(small_disk.rglob("*.partial")) == []
    if (out / "metrics.jsonl").exists():
        assert open_run(out).status.state in ("failed", "stopped")
    ballast.unlink()
    again = train(CONFIG, out, device="cpu", resume=True, checkpoint_every=4)
    assert again.status.state == "done"
    assert (out / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["last", "step-000012"]


def test_the_disk_is_full_at_a_later_checkpoint(small_disk, tmp_path, fill, monkeypatch):
    """The run keeps the checkpoint that it has, says why it ended, and goes on from there."""
    whole = train(CONFIG, tmp_path / "whole", device="cpu", checkpoint_every=4)
    out, save, ballast = small_disk / "run", checkpoints.save, []

    def fill_before(folder, trainee, *args, **options):
        if trainee.step == 8:
            ballast.append(fill(small_disk, 8192))
        return save(folder, trainee, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", fill_before)
        with pytest.raises(SsmlensError, match=ONE_LINE):
            train(CONFIG, out, device="cpu", checkpoint_every=4)
    run = open_run(out)
    assert (run.status.state, run.status.step) == ("failed", 8)
    assert "no space left on the disk" in run.status.error
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["last", "step-000004"]
    ballast[0].unlink()
    assert train(CONFIG, out, device="cpu", resume=True).status.state == "done"
    assert (out / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
