"""A capture with a layer of every kind, two groups and prompts of 9, 5 and 1 tokens."""

import runpy
from pathlib import Path

import numpy as np

from ssmlens.store import CaptureWriter

SAMPLE = runpy.run_path(str(Path(__file__).parents[1] / "store" / "sample_capture.py"))
LENGTHS = (9, 5, 1)
MAMBA1, MAMBA2, MAMBA3, ATTENTION, BROKEN, BARE = range(6)
INPUTS = 11


def layers():
    """Arrays by block index."""
    rng = np.random.default_rng(3)
    float32 = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    one, two, three = (
        SAMPLE["layer_arrays"](seed, LENGTHS, **generation)
        for seed, generation in enumerate(({}, {"mamba2": True}, {"mamba3": True}))
    )
    groups, states = one["W_B"].shape[:2]
    for arrays in (one, two, three):
        arrays["W_C"] = arrays["W_B"] * 0.5 + float32(*arrays["W_B"].shape)
    one["conv"] = float32(6, 4)
    two |= {"conv": float32(6 + 2 * groups * states, 3)}
    two |= {name: float32(groups, states, 3) for name in ("conv_B", "conv_C")}
    broken = {name: array.copy() for name, array in one.items()}
    broken["delta"][:, 2:] = np.nan
    broken["W_B"][0, 0, 0] = np.nan
    bare = {name: array for name, array in one.items() if not name.startswith(("W_", "conv"))}
    return {
        MAMBA1: one,
        MAMBA2: two,
        MAMBA3: three,
        ATTENTION: SAMPLE["attention_arrays"](4, LENGTHS),
        BROKEN: broken,
        BARE: bare,
    }


def write_mixed(path, header=None):
    """Write it; returns the path."""
    arrays = layers()
    asked = SAMPLE["header"](LENGTHS, tuple(arrays), attributes={"n_layer": 6} | (header or {}))
    writer = CaptureWriter(path, asked, layers=asked.layers, overwrite=True)
    for index, held in arrays.items():
        told = {"kind": "attention" if index == ATTENTION else "mamba", "mixer": "m", "d_conv": 4}
        bad = (
            {"finite": "weights", "reason": "W_B holds NaN"}
            if index == BROKEN
            else {"finite": "yes"}
        )
        writer.write(index, 0, held, told | bad)
    return writer.finish()
