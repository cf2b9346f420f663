"""Scores of a capture in a real file are those of the same arrays in memory."""

import numpy as np
import pytest
import xarray as xr

from ssmlens.scores import compute, rank_layers
from ssmlens.store import CaptureHeader, CaptureWriter, open_capture

LENGTHS, STRING = (9, 21), (4, 10)
"""Two copy prompts `a b c | a b c end`, padded to the longer."""


@pytest.fixture
def arrays():
    """Layers 2 and 5; the map of layer 5 copies."""
    rng = np.random.default_rng(0)
    layers = {}
    for index in (2, 5):
        maps = rng.standard_normal((2, 21, 21)) * np.tri(21)
        for prompt, (length, string) in enumerate(zip(LENGTHS, STRING, strict=True)):
            if index == 5:
                maps[prompt] += 20 * np.eye(21, k=-string)
            maps[prompt, length:] = 0
        masks = rng.uniform(0, 1, (2, 21, 21)) * np.tri(21)
        layers[index] = {
            "attention_map": maps,
            "attention_mask": masks,
            "delta": rng.uniform(0, 1, (2, 21, 3)),
            "B": rng.standard_normal((2, 21, 1, 4)),
            "C": rng.standard_normal((2, 21, 1, 4)),
            "A": -rng.uniform(0, 1, (3, 4)),
            "W_B": rng.standard_normal((1, 4, 6)),
            "W_C": rng.standard_normal((1, 4, 6)),
            "conv": rng.standard_normal((3, 4)),
            "closure_error": np.array([1e-7, 3e-7]),
        }
    return {i: {k: v.astype(np.float32) for k, v in a.items()} for i, a in layers.items()}


@pytest.fixture
def target():
    positions = np.full((2, 21), -1)
    for prompt, string in enumerate(STRING):
        positions[prompt, string : 2 * string] = np.arange(string)
    return positions


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_a_file_scores_as_its_arrays(arrays, target, make_capture, tmp_path, out):
    header = CaptureHeader(
        tokens=np.ones((2, 21), int),
        length=np.array(LENGTHS),
        layers=[2, 5],
        attributes={"n_layer": 6},
        target=target,
        prompt_kinds=["copy", "copy"],
    )
    writer = CaptureWriter(tmp_path / out, header, layers=[2, 5])
    for index, held in arrays.items():
        writer.write(index, 0, held, {"finite": "yes"})
    writer.finish()
    memory = make_capture(
        [{**held, "index": index} for index, held in arrays.items()],
        kinds=["copy", "copy"],
        length=LENGTHS,
        target=target,
    )
    with open_capture(tmp_path / out) as capture:
        xr.testing.assert_identical(compute(capture), compute(memory))
        ranking = rank_layers(capture)
    assert ranking.to_dict() == rank_layers(memory).to_dict()
    assert ranking.by == ("copy_score",)
    assert ranking[0].layer == 5
    assert ranking[0].scores["copy_score"] > 0.6
