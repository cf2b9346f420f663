"""The header of a capture: which prompts, of which model, which layers."""

import dataclasses
from collections.abc import Mapping, Sequence

import h5py
import numpy as np
from jaxtyping import Bool, Integer

from ssmlens.errors import UsageError
from ssmlens.names import BLOCK_KINDS
from ssmlens.store import digest, hdf5
from ssmlens.store.schema import (
    OWN_ROOT_ATTRIBUTES,
    ROOT_ARRAYS,
    TEXT_ARRAYS,
    Attribute,
    axis_sizes,
    is_volatile,
)
from ssmlens.store.separators import separators
from ssmlens.store.verdict import CLOSURE_TOLERANCE


@dataclasses.dataclass(frozen=True, eq=False)
class CaptureHeader:
    """The request of a capture: the prompts, the layers, the model. It is stored in the root.

    Attributes:
        tokens: Token ids, padded on the right with `pad` (a causal model's real tokens do not read the padding).
        length: Number of real tokens of each prompt, at least 1.
        layers: Block indices of the complete capture, ascending; those of other machines too.
        attributes: Model, revision, model_digest, dtype, backend, n_layer, closure_tolerance, fingerprint, command,
            created, torch_version, ...: scalars and strings. The digest leaves out the volatile ones
            (`schema.is_volatile`).
        target: Position that each query must copy from, -1 for none. None where no prompt has any.
        token_strings: Each token as text, one list per prompt. None: the tokens have no text.
        prompt_texts: Each prompt as text. None: empty.
        prompt_kinds: Kind of each prompt: "copy", "repeat", "text", "tokens". None: all "tokens".
        pad: The id of padding.
        block_kinds: Kind of each block of the model, one of `names.BLOCK_KINDS`. None: not known.
    """

    tokens: Integer[np.ndarray, "prompt token"]
    length: Integer[np.ndarray, " prompt"]
    layers: Sequence[int]
    attributes: Mapping[str, Attribute]
    target: Integer[np.ndarray, "prompt token"] | None = None
    token_strings: Sequence[Sequence[str]] | None = None
    prompt_texts: Sequence[str] | None = None
    prompt_kinds: Sequence[str] | None = None
    pad: int = 0
    block_kinds: Sequence[str] | None = None

    def __post_init__(self):
        prompts, tokens = self.tokens.shape
        if not prompts or not tokens:
            raise UsageError("a capture needs at least one prompt of at least one token")
        if self.length.min() < 1 or self.length.max() != tokens:
            raise ValueError(f"length must lie in 1..{tokens} and reach it, got {self.length}")
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(
                f"layers must be distinct, ascending and not negative, got {self.layers}"
            )
        for name in ("token_strings", "prompt_texts", "prompt_kinds"):
            values = getattr(self, name)
            if values is not None and len(values) != prompts:
                raise ValueError(f"{name} has {len(values)} entries for {prompts} prompts")
        if self.block_kinds is not None:
            unknown = sorted(set(self.block_kinds) - {*BLOCK_KINDS})
            if unknown or self.layers[-1] >= len(self.block_kinds):
                raise ValueError(
                    f"block_kinds must be of {BLOCK_KINDS}, one per block, up to block {self.layers[-1]} at least"
                )
        reserved = sorted(set(self.attributes) & {*OWN_ROOT_ATTRIBUTES})
        if reserved:
            raise ValueError(f"these attributes are reserved for the store: {', '.join(reserved)}")

    def strings(self, prompt: int) -> list[str]:
        """The real tokens of one prompt as text; their ids if the header has no text."""
        if self.token_strings is not None:
            return list(self.token_strings[prompt])
        return [str(token) for token in self.tokens[prompt, : self.length[prompt]]]

    @property
    def closure_tolerance(self) -> float:
        """The largest acceptable closure error: it depends on dtype and kernels."""
        return float(self.attributes.get("closure_tolerance", CLOSURE_TOLERANCE))

    def separator(self) -> Bool[np.ndarray, "prompt token"]:
        """Which tokens are separators (`ssmlens.store.separators`); padding is not."""
        mask = np.zeros(self.tokens.shape, dtype=bool)
        kinds = self.prompt_kinds or [""] * self.prompts
        for prompt, kind in enumerate(kinds):
            mask[prompt, : self.length[prompt]] = separators(self.strings(prompt), kind)
        return mask

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return self.tokens.shape[0]

    def arrays(self) -> dict[str, np.ndarray]:
        """The root's arrays as they are stored: int64, and UTF-8 strings of fixed length."""
        arrays = {"tokens": self.tokens, "length": self.length, "target": self.target}
        stored = {k: v.astype(np.int64) for k, v in arrays.items() if v is not None}
        if self.token_strings is not None:
            stored["token_strings"] = _text_table(self.token_strings, self.tokens.shape[1])
        stored["prompt_texts"] = _text_array(self.prompt_texts or [""] * self.prompts)
        stored["prompt_kinds"] = _text_array(self.prompt_kinds or ["tokens"] * self.prompts)
        if self.block_kinds is not None:
            stored["block_kinds"] = _text_array(self.block_kinds)
        return stored

    def digest(self) -> str:
        """SHA-256 of the request, without time, command, host and versions."""
        stable = {k: v for k, v in self._stored_attributes().items() if not is_volatile(k)}
        return digest.array_digest(
            self.arrays(), {**stable, "layers": str(list(self.layers))}
        ).hex()

    def differences(self, other: "CaptureHeader") -> list[str]:
        """List what two requests disagree on, such as `dtype: float32 and bfloat16`; empty if they agree."""
        differing = []
        if list(self.layers) != list(other.layers):
            differing.append(f"layers: {list(self.layers)} and {list(other.layers)}")
        ours, theirs = self._stored_attributes(), other._stored_attributes()
        for name in sorted({*ours, *theirs} - {"fingerprint"}):
            if ours.get(name) != theirs.get(name) and not is_volatile(name):
                differing.append(f"{name}: {ours.get(name, 'none')} and {theirs.get(name, 'none')}")
        mine, yours = self.arrays(), other.arrays()
        differing += [name for name in ROOT_ARRAYS if not _same(mine.get(name), yours.get(name))]
        if not differing and ours.get("fingerprint") != theirs.get("fingerprint"):
            differing.append("the fingerprint of the request")
        return differing

    def write(self, file: h5py.File) -> None:
        """Write the header into the root of `file`."""
        arrays = self.arrays()
        axis_sizes(arrays, ROOT_ARRAYS)
        for name, array in arrays.items():
            hdf5.write_array(file, name, array, ROOT_ARRAYS[name])
        file.attrs["layers"] = np.array(self.layers, dtype=np.int64)
        hdf5.write_attributes(file, {**self._stored_attributes(), "header_digest": self.digest()})

    @classmethod
    def read(cls, file: h5py.File) -> "CaptureHeader":
        """Read the header from the root of a file that `guard` has accepted."""
        stored = [name for name in ROOT_ARRAYS if name in file]
        arrays = {name: hdf5.stored_array(file, name)[...] for name in stored}
        text = {name: _decode(arrays[name]) for name in TEXT_ARRAYS if name in arrays}
        length = arrays["length"]
        if "token_strings" in text:
            rows = zip(text["token_strings"], length, strict=True)
            text["token_strings"] = [row[:count] for row, count in rows]
        attributes = hdf5.read_attributes(file)
        return cls(
            tokens=arrays["tokens"],
            length=length,
            target=arrays.get("target"),
            **text,
            layers=tuple(np.asarray(file.attrs["layers"]).tolist()),
            attributes={k: v for k, v in attributes.items() if k not in OWN_ROOT_ATTRIBUTES},
            pad=int(attributes["pad"]),
        )

    def _stored_attributes(self) -> dict[str, Attribute]:
        return {**self.attributes, "pad": self.pad}


def _text_array(texts: Sequence[str]) -> np.ndarray:
    array = np.array([hdf5.encode_text(text) for text in texts], dtype=np.bytes_)
    return array if array.dtype.itemsize else array.astype("S1")


def _text_table(rows: Sequence[Sequence[str]], columns: int) -> np.ndarray:
    padded = [[*row, *[""] * (columns - len(row))] for row in rows]
    flat = _text_array([text for row in padded for text in row])
    return flat.reshape(len(rows), columns)


def _decode(array: np.ndarray) -> list:
    return np.char.decode(array, "utf-8").tolist()


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool((a == b).all())
