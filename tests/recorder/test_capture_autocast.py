"""A capture of a model that runs under autocast: closure is held to bfloat16, maps are the operands' all the same."""

import numpy as np
import pytest
import torch
from oracles import maps_by_definition, relative

import ssmlens
from ssmlens.store import verify

IDS = [[3, 9, 4, 9, 17, 22, 5], [8, 8, 2]]


@pytest.mark.parametrize("family", ["ssmlens Mamba", "ssmlens Mamba2", "transformers Mamba2Mixer"])
def test_maps_are_those_of_the_operands(tiny_model, tmp_path, family):
    model = tiny_model(family)
    with torch.autocast("cpu", torch.bfloat16):
        captured = ssmlens.capture(model, IDS, tmp_path / "run.h5")
    with captured:
        assert captured.attributes["closure_tolerance"] == 0.05
        for index in captured.layers:
            layer = captured.layer(index)
            for prompt, ids in enumerate(IDS):
                operands = (layer.read(name, prompt) for name in ("delta", "A", "B", "C"))
                whole, mask = maps_by_definition(*operands)
                assert whole.shape[1] == len(ids)
                assert relative(layer.read("attention_map", prompt), whole.mean(0)) < 1e-5
                assert relative(layer.read("attention_mask", prompt), mask) < 1e-5
            assert np.all(layer.read("map_error") < 1e-5)
    assert verify(tmp_path / "run.h5") == []


def test_without_autocast_closure_is_held_to_float32(tiny_model, tmp_path):
    with ssmlens.capture(tiny_model("ssmlens Mamba"), IDS, tmp_path / "run.h5") as captured:
        assert captured.attributes["closure_tolerance"] == 1e-4
