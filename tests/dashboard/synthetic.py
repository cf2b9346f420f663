"""A capture of any shape, cheap to make: maps drawn, not computed, with operands of a few heads."""

import numpy as np

from ssmlens.store import CaptureHeader, CaptureWriter


def write_capture(
    path,
    layers=4,
    tokens=64,
    heads=6,
    state=4,
    seed=0,
    closure=(),
    map_closure=(),
    broken=(),
    block_kinds=None,
    **strings,
):
    """Write a capture of one prompt whose layer i has a diagonal at lag tokens·(i+1)/(layers+1); returns `path`.

    Args:
        path: Where.
        layers: How many, or their block indices.
        tokens: Of the prompt.
        heads: Of each layer.
        state: Of each head.
        seed: Of the noise.
        closure: The closure error of each layer, 1e-6 for those it does not reach.
        map_closure: The same, beside what the map contributes, of each layer that has one.
        broken: Block indices of layers with weights that are not finite.
        block_kinds: What each block of the model is.
        strings: `model`, `token_strings`, `prompt_texts`, `prompt_kinds`, `reason`: hostile ones in some tests.
    """
    rng = np.random.default_rng(seed)
    indices = list(range(layers)) if isinstance(layers, int) else list(layers)
    words = strings.get("token_strings") or [f"w{i % 97}" for i in range(tokens)]
    asked = CaptureHeader(
        tokens=np.arange(tokens)[None] % 97,
        length=np.array([tokens]),
        layers=indices,
        attributes={
            "model": strings.get("model", "synthetic"),
            "dtype": "float32",
            "backend": "torch",
        },
        token_strings=[words],
        prompt_texts=[strings.get("prompt_text", " ".join(words)[:200])],
        prompt_kinds=[strings.get("prompt_kind", "text")],
        block_kinds=block_kinds,
    )
    writer = CaptureWriter(path, asked, layers=indices, overwrite=True)
    query, key = np.ogrid[:tokens, :tokens]
    decay = np.tril(np.exp2(-(query - key) / 40.0)).astype(np.float32)
    noise = (np.tril(rng.standard_normal((tokens, tokens))) / 20).astype(np.float32)
    for place, index in enumerate(indices):
        drawn = decay * np.float32(0.1 + 0.01 * place) + noise
        lag = max(1, tokens * (place + 1) // (len(indices) + 1))
        drawn[np.arange(lag, tokens), np.arange(tokens - lag)] += 1
        mask = decay * np.float32(1 - 0.01 * place)
        held = arrays(drawn, mask, tokens, heads, state, rng)
        held["closure_error"] = np.array([closure[place] if place < len(closure) else 1e-6])
        if place < len(map_closure):
            held["map_closure"] = np.array([map_closure[place]])
            held["map_rounding"] = np.array([1e-7])
        told = {"finite": "yes", "mixer": strings.get("mixer", "Mamba"), "d_conv": 4}
        if index in broken:
            held["attention_map"] = held["attention_mask"] = held["attention_map"] * np.nan
            held["closure_error"] = np.array([np.nan])
            told |= {"finite": "weights", "reason": strings.get("reason", "W_B has NaN")}
        writer.write(index, 0, held, told)
    return writer.finish()


def arrays(attention_map, attention_mask, tokens, heads, state, rng):
    """What a layer of a capture holds."""
    return {
        "delta": rng.uniform(0.01, 0.1, (1, tokens, heads)).astype(np.float32),
        "A": -rng.uniform(0.1, 4, (heads, state)).astype(np.float32),
        "B": rng.standard_normal((1, tokens, 1, state)).astype(np.float32),
        "C": rng.standard_normal((1, tokens, 1, state)).astype(np.float32),
        "D": np.ones((heads, 1), np.float32),
        "attention_map": attention_map[None],
        "attention_mask": attention_mask[None],
        "closure_error": np.array([1e-6]),
        "closure_worst_token": np.array([1]),
        "map_error": np.array([1e-7]),
        "mask_error": np.array([1e-7]),
        "channel_agreement": np.array([0.5]),
        "A_log": rng.standard_normal((heads, state)).astype(np.float32),
        "W_B": rng.standard_normal((1, state, 16)).astype(np.float32),
        "W_C": rng.standard_normal((1, state, 16)).astype(np.float32),
        "conv": rng.standard_normal((heads, 4)).astype(np.float32),
    }
