"""A capture without a name: as any other, and gone with the last reference to it."""

import gc

import numpy as np
import pytest
import torch

import ssmlens
from ssmlens.errors import UsageError

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


def test_it_is_what_a_named_one_is_and_can_be_made_again(tiny_model, tmp_path):
    model = tiny_model("ssmlens Mamba2")
    with ssmlens.capture(model, IDS, tmp_path / "run.h5") as named:
        first, second = (ssmlens.capture(model, IDS, None) for _ in range(2))
        assert first.digest == second.digest == named.digest
        assert first.path != second.path
        maps = [capture.layer(1).attention_map(0) for capture in (first, named)]
        np.testing.assert_array_equal(*maps)
        assert str(ssmlens.rank_layers(first)) == str(ssmlens.rank_layers(named))


def test_its_file_is_gone_with_it(tiny_model):
    captured = ssmlens.capture(tiny_model("ssmlens Mamba"), IDS, None)
    folder = captured.path.parent
    assert folder.exists()
    captured.close()
    del captured
    gc.collect()
    assert not folder.exists()


def test_nothing_is_left_where_it_fails(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UsageError, match="out of range"):
        ssmlens.capture(tiny_model("ssmlens Mamba"), IDS, None, layers=[9])
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("option", [{"shard": (1, 2)}, {"resume": True}])
def test_it_has_no_name_for_others_to_find(tiny_model, option):
    with pytest.raises(UsageError, match="need `out`"):
        ssmlens.capture(tiny_model("ssmlens Mamba"), IDS, None, **option)
