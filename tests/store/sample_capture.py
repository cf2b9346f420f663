"""A small capture and its oracle: maps by definition, in float64."""

import functools
from pathlib import Path

import numpy as np
from oracles import blocks_by_definition, maps_by_definition

from ssmlens.store import CaptureHeader, CaptureWriter
from ssmlens.store.schema import has_prompts

LENGTHS = (9, 5, 7, 1)
LAYERS = (0, 2)
CHANNELS = (1, 4)
HEADS, STATES, GROUPS = 6, 3, 2
OPERANDS = ("delta", "A", "B", "C", "log_decay", "write", "write_now")


def layer_arrays(seed=0, lengths=LENGTHS, mamba2=False, channels=CHANNELS, mamba3=False):
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
    if mamba3:
        del arrays["A"]
        arrays["log_decay"] = -arrays["delta"] * rng.uniform(0.1, 2, HEADS).astype(np.float32)
        for name in ("write", "write_now"):
            arrays[name] = (rng.uniform(0.1, 1, (prompts, tokens, HEADS)) * real).astype(np.float32)
    return arrays | maps_of(arrays, lengths, channels)


def maps_of(arrays, lengths, channels):
    """Map, mask and the maps of some channels that the operands give, zero beyond each prompt's length."""
    prompts, tokens = len(lengths), max(lengths)
    square = (prompts, tokens, tokens)
    attention_map, attention_mask = np.zeros((2, *square), np.float32)
    channel_map = np.zeros((prompts, len(channels), tokens, tokens), np.float32)
    for p, n in enumerate(lengths):
        operands = {k: arrays[k] for k in OPERANDS if k in arrays}
        cut = {k: a if k == "A" else a[p, :n] for k, a in operands.items()}
        maps, mask = maps_by_definition(**{"A": None, **cut})
        attention_map[p, :n, :n] = maps.mean(0)
        attention_mask[p, :n, :n] = mask
        channel_map[p, :, :n, :n] = maps[list(channels)]
    return {
        "attention_map": attention_map,
        "attention_mask": attention_mask,
        "channel_map": channel_map,
        "channel": np.array(channels),
    }


SEPARATORS = (0, 3, 6)  # the prompts' tokens that are commas


def reduced(arrays, lengths, block, target):
    """The arrays with map and mask in blocks of tokens and their statistics, one entry at a time."""
    kept = {n: a for n, a in arrays.items() if n not in ("attention_map", "attention_mask")}
    prompts, tokens = len(lengths), max(lengths)
    blocks = -(-tokens // block)
    for name in ("attention_map", "attention_mask"):
        if name not in arrays:
            continue
        mean, largest = np.zeros((2, prompts, blocks, blocks), np.float32)
        for p, n in enumerate(lengths):
            own = -(-n // block)
            mean[p, :own, :own], largest[p, :own, :own] = blocks_by_definition(
                arrays[name][p, :n, :n], block
            )
        kept |= {f"{name}_mean": mean, f"{name}_max": largest}
    energy, magnitude, hit, held = np.zeros((4, prompts, tokens), np.float32)
    for p, n in enumerate(lengths):
        whole = arrays["attention_map"][p, :n, :n].astype(np.float64)
        for lag in range(n):
            energy[p, lag] = np.mean([whole[i, i - lag] ** 2 for i in range(lag, n)])
        magnitude[p, :n] = np.abs(whole).sum(1)
        hit[p, :n] = [abs(whole[i, t]) if t >= 0 else 0 for i, t in enumerate(target[p, :n])]
        if "attention_mask" in arrays:
            held[p, :n] = arrays["attention_mask"][p, :n, :n].astype(np.float64).sum(1)
    kept |= {"lag_energy": energy, "row_magnitude": magnitude, "target_magnitude": hit}
    kept |= {"mask_row_sum": held} if "attention_mask" in arrays else {}
    return kept | looks(arrays["attention_map"], lengths)


def looks(maps, lengths):
    """What each row gives the first token, the one before and commas; and how far back late rows look."""
    names = ("first_magnitude", "previous_magnitude", "separator_magnitude", "reach")
    found = {name: np.zeros(maps.shape[:2], np.float32) for name in names}
    for p, n in enumerate(lengths):
        for i in range(n):
            row = [abs(float(entry)) for entry in maps[p, i, : i + 1]]
            late = i >= n - -(-n // 4)
            nearest = next(k for k in range(i + 1) if sum(row[i - k :]) >= sum(row) / 2)
            values = (
                row[0],
                row[i - 1] if i else 0,
                sum(row[j] for j in range(1, i) if j in SEPARATORS),
                nearest if late and any(row) else -1,
            )
            for name, value in zip(names, values, strict=True):
                found[name][p, i] = value
    return found


def attention_arrays(seed=0, lengths=LENGTHS):
    """A layer of softmax attention: shares of the tokens so far, zero beyond each prompt's length."""
    rng = np.random.default_rng(seed)
    tokens = max(lengths)
    shares = np.zeros((len(lengths), tokens, tokens), np.float32)
    for p, n in enumerate(lengths):
        weights = np.tril(rng.uniform(0.1, 1, (n, n)))
        shares[p, :n, :n] = weights / weights.sum(1, keepdims=True)
    return {"attention_map": shares}


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
        "token_strings": [
            ["," if i in SEPARATORS else "é·"[i % 2] + str(i) for i in range(n)] for n in lengths
        ],
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
