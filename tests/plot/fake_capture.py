"""A capture in memory with what the report reads of `ssmlens.store`, and maps of known structure."""

import dataclasses

import numpy as np

from ssmlens.store.verdict import judge

TARGET_LAG = 7


@dataclasses.dataclass
class FakeLayer:
    index: int
    arrays: dict[str, list | np.ndarray]
    state: str = "yes"
    attributes: dict = dataclasses.field(default_factory=lambda: {"d_conv": 4})
    of_capture: dict = dataclasses.field(default_factory=dict)  # the capture's attributes

    @property
    def finite(self):
        return self.state == "yes"

    @property
    def maps(self):
        return ("map",) if self.attributes.get("kind") == "attention" else ("map", "mask")

    @property
    def verdict(self):
        return judge(self, self.of_capture.get("closure_tolerance"))

    def __contains__(self, name):
        return name in self.arrays

    def read(self, name, prompt=None):
        array = self.arrays[name]
        return np.asarray(array) if prompt is None else np.asarray(array[prompt])


@dataclasses.dataclass
class FakeCapture:
    fakes: dict[int, FakeLayer]
    tokens: list[list[str]]
    attributes: dict
    prompt_texts: list[str]
    prompt_kinds: list[str]
    digest: str = "0123456789abcdef" * 4
    block_kinds: list[str] = dataclasses.field(default_factory=list)
    schema_version: int = 2

    @property
    def closure_tolerance(self):
        return self.attributes["closure_tolerance"]

    @property
    def layers(self):
        return tuple(self.fakes)

    @property
    def length(self):
        return np.array([len(t) for t in self.tokens])

    @property
    def target(self):
        width = max(map(len, self.tokens))
        target = np.full((len(self.tokens), width), -1)
        for row, tokens in zip(target, self.tokens, strict=True):
            for query in range(TARGET_LAG, len(tokens)):
                row[query] = query - TARGET_LAG
        return target

    def layer(self, index):
        layer = self.fakes[index]
        layer.of_capture = self.attributes
        return layer

    def token_strings(self, prompt):
        return self.tokens[prompt]


def copying_map(tokens, lag=TARGET_LAG, seed=0):
    """Noise, and one strong sub-diagonal at `lag`."""
    noise = np.random.default_rng(seed).normal(0, 0.05, (tokens, tokens))
    return np.tril(noise + np.eye(tokens, k=-lag)).astype(np.float32)


def recency_map(tokens, seed=0):
    """Decay from the diagonal, with signs."""
    query, key = np.ogrid[:tokens, :tokens]
    sign = np.random.default_rng(seed).choice([1.0, -0.4], (tokens, tokens))
    return np.tril(sign * np.exp(-(query - key) / 3.0)).astype(np.float32)


def decay_mask(tokens, half_life):
    query, key = np.ogrid[:tokens, :tokens]
    return np.tril(0.5 ** np.clip((query - key) / half_life, 0, None)).astype(np.float32)


def make_layer(index, lengths, kind, channels=2, closure=3e-7, seed=0):
    """kind: "copying", "recency" or "broken" (its weights are NaN)."""
    draw = {"copying": copying_map, "recency": recency_map, "broken": recency_map}[kind]
    maps = [draw(n, seed=seed + index * 31 + p) for p, n in enumerate(lengths)]
    if kind == "broken":
        maps = [m * np.nan for m in maps]
        closure = np.nan
    rng = np.random.default_rng(seed + index)
    shared = rng.normal(size=(1, 8, 16))
    spread = 0.3 if kind == "copying" else 3.0
    arrays = {
        "attention_map": maps,
        "attention_mask": [decay_mask(n, 200.0 if kind == "copying" else 3.0) for n in lengths],
        "closure_error": np.full(len(lengths), closure),
        "closure_worst_token": np.arange(len(lengths)),
        "map_error": np.full(len(lengths), 2e-7),
        "mask_error": np.full(len(lengths), 1e-7),
        "channel_agreement": np.full(len(lengths), 0.4),
        "W_B": shared + spread * rng.normal(size=shared.shape),
        "W_C": shared + spread * rng.normal(size=shared.shape),
    }
    if channels:
        arrays["channel"] = np.arange(channels) * 5
        arrays["channel_map"] = [np.stack([(c + 1) * m for c in range(channels)]) for m in maps]
    finite = "weights" if kind == "broken" else "yes"
    return FakeLayer(index, arrays, finite)


def make_capture(
    kinds=("recency", "copying", "broken", "recency"),
    lengths=(23, 15),
    channels=2,
    tokens=None,
    texts=None,
    attributes=None,
):
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    tokens = tokens or [
        [alphabet[(7 * i + p) % 26] for i in range(n)] for p, n in enumerate(lengths)
    ]
    return FakeCapture(
        fakes={i: make_layer(i, lengths, kind, channels) for i, kind in enumerate(kinds)},
        tokens=tokens,
        attributes={
            "model": "fake-mamba",
            "revision": "main",
            "model_digest": "ab" * 32,
            "backend": "torch",
            "dtype": "float32",
            "closure_tolerance": 1e-4,
            "ssmlens_version": "0.1.0",
            "torch_version": "2.13.0",
            **(attributes or {}),
        },
        prompt_texts=texts or ["".join(t) for t in tokens],
        prompt_kinds=["copy"] * len(lengths),
    )
