"""A small capture and its oracle: maps summed term by term in float64."""

import functools
from pathlib import Path

import numpy as np

from ssmlens.store import CaptureHeader, CaptureWriter
from ssmlens.store.schema import has_prompts

LENGTHS = (9, 5, 7, 1)
LAYERS = (0, 2)
CHANNELS = (1, 4)
HEADS, STATES, GROUPS = 6, 3, 2


def brute_force_maps(delta, A, B, C):
    """M[h,i,j] = Σ_n C[i,n] exp(A (S_i − S_j)) B[j,n] Δ[j], and the mask, one term at a time."""
    tokens, heads = delta.shape
    delta, A, B, C = (np.asarray(a, np.float64) for a in (delta, A, B, C))
    A = np.broadcast_to(A.reshape(heads, -1), (heads, B.shape[2]))
    maps, masks = np.zeros((2, heads, tokens, tokens))
    for h in range(heads):
        group = h // (heads // B.shape[1])
        for i in range(tokens):
            for j in range(i + 1):
                decay = np.exp(A[h] * delta[j + 1 : i + 1, h].sum())
                maps[h, i, j] = (C[i, group] * decay * B[j, group]).sum() * delta[j, h]
                masks[h, i, j] = decay.mean()
    return maps, masks


def layer_arrays(seed=0, lengths=LENGTHS, mamba2=False, channels=CHANNELS):
    """One layer's arrays as a recorder hands them over: float32, zero beyond each prompt's length."""
    rng = np.random.default_rng(seed)
    prompts, tokens = len(lengths), max(lengths)
    real = (np.arange(tokens) < np.array(lengths)[:, None])[..., None]
    arrays = {
        "delta": rng.uniform(0.01, 0.5, (prompts, tokens, HEADS)) * real,
        "B": rng.standard_normal((prompts, tokens, GROUPS, STATES)) * real[..., None],
        "C": rng.standard_normal((prompts, tokens, GROUPS, STATES)) * real[..., None],
        "A": -rng.uniform(0.1, 2, (HEADS,) if mamba2 else (HEADS, STATES)),
        "D": rng.standard_normal(HEADS),
        "W_B": rng.standard_normal((GROUPS, STATES, 11)),
        "dt_bias": rng.standard_normal(HEADS),
        "closure_error": rng.uniform(1e-8, 1e-6, prompts),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    square = (prompts, tokens, tokens)
    arrays["attention_map"], arrays["attention_mask"] = np.zeros((2, *square), np.float32)
    arrays["channel_map"] = np.zeros((prompts, len(channels), tokens, tokens), np.float32)
    arrays["channel"] = np.array(channels)
    for p, n in enumerate(lengths):
        operands = (arrays["delta"][p, :n], arrays["A"], arrays["B"][p, :n], arrays["C"][p, :n])
        maps, masks = brute_force_maps(*operands)
        arrays["attention_map"][p, :n, :n] = maps.mean(0)
        arrays["attention_mask"][p, :n, :n] = masks.mean(0)
        arrays["channel_map"][p, :, :n, :n] = maps[list(channels)]
    return arrays


def header(lengths=LENGTHS, layers=LAYERS, **changes):
    rng = np.random.default_rng(7)
    prompts, tokens = len(lengths), max(lengths)
    real = np.arange(tokens) < np.array(lengths)[:, None]
    ids = np.where(real, rng.integers(1, 30, (prompts, tokens)), 0)
    said = {
        "model": "tiny",
        "n_layer": 4,
        "dtype": "float32",
        "closure_tolerance": 1e-4,
        "command": "ssmlens capture",
        "fingerprint": "f00d",
    }
    fields = {
        "tokens": ids,
        "length": np.array(lengths),
        "layers": layers,
        "attributes": said | changes.pop("attributes", {}),
        "target": np.where(real, np.arange(tokens) - 1, -1),
        "token_strings": [["é·"[i % 2] + str(i) for i in range(n)] for n in lengths],
        "prompt_texts": [f"prompt {p} “quoted”\n\0 end" for p in range(prompts)],
        "prompt_kinds": ["copy", "text"] * (prompts // 2) + ["tokens"] * (prompts % 2),
    }
    return CaptureHeader(**(fields | changes))


_arrays_of_layer = functools.cache(layer_arrays)


def samples(layers=LAYERS, lengths=LENGTHS):
    """Arrays by block index; the second layer is Mamba-2's shape. Replace arrays, don't change them."""
    return {i: dict(_arrays_of_layer(i, lengths, mamba2=i % 4 == 2)) for i in layers}


def batch_of(arrays, prompts):
    """The arrays of a contiguous range of prompts."""
    cut = slice(prompts.start, prompts.stop)
    return {name: a[cut] if has_prompts(name) else a for name, a in arrays.items()}


def attributes(layer):
    mixer = "Mamba2" if layer == 2 else "Mamba"
    return {"kind": "mamba", "mixer": mixer, "finite": "yes", "d_conv": 4}


def write_missing(writer, arrays):
    """Write what is not done yet; how many shards that was."""
    written = 0
    for batch in range(writer.batches):
        for layer in writer.layers:
            if not writer.done(layer, batch):
                part = batch_of(arrays[layer], writer.prompts(batch))
                writer.write(layer, batch, part, attributes(layer))
                written += 1
    return written


def write_capture(out: Path, batches=1, asked=None, arrays=None, **options):
    """A whole capture; its path."""
    asked = asked or header()
    lengths = tuple(asked.length.tolist())
    arrays = arrays or samples(asked.layers, lengths)
    writer = CaptureWriter(out, asked, layers=asked.layers, batches=batches, **options)
    write_missing(writer, arrays)
    return writer.finish()
