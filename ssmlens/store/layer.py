"""One layer of a stored capture: its arrays, and on demand what follows from them."""

import difflib
from pathlib import Path

import h5py
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from ssmlens.errors import UsageError
from ssmlens.scan import hidden_attention
from ssmlens.scan.operands import ScanOperands
from ssmlens.store import hdf5
from ssmlens.store.guard import damage_told
from ssmlens.store.hdf5 import stored_array
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import array_names, damages
from ssmlens.store.lazy import A_bar, B_bar, lazy_dataset
from ssmlens.store.schema import (
    OWN_LAYER_ATTRIBUTES,
    TOKEN_AXES,
    Attribute,
    has_prompts,
    layer_axes,
)


class Layer:
    """The arrays of one block, read when asked for. Get one from `Capture.layer`.

    Attributes:
        index: Block index in the model.
        attributes: `mixer`, `adapter`, `finite`, `reason`, ...
        digest: SHA-256 of everything the layer says.
    """

    def __init__(self, group: h5py.Group, index: int, header: CaptureHeader, path: Path):
        self.index = index
        self._group = group
        self._header = header
        self._path = path
        with damage_told(path, f"layer {index}"):
            told = hdf5.read_attributes(group)
        self.digest = str(told["digest"])
        self.attributes: dict[str, Attribute] = {
            name: value for name, value in told.items() if name not in OWN_LAYER_ATTRIBUTES
        }
        self.names: tuple[str, ...] = tuple(array_names(group))

    @property
    def finite(self) -> str:
        """ "yes", or where numbers stopped being finite: "weights", "input", "output" (`names.FINITE` ...)."""
        return str(self.attributes["finite"])

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __repr__(self) -> str:
        mixer = self.attributes.get("mixer", "")
        return f"<Layer {self.index} {mixer} finite={self.finite}: {', '.join(self.names)}>"

    def dims(self, name: str) -> tuple[str, ...]:
        """The axes of a stored array. Raises UsageError where the layer has none of that name."""
        return layer_axes(name, self._dataset(name).ndim)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a stored array, over all prompts with their padding."""
        return self._dataset(name).shape

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        """A stored array; with `prompt`, that prompt's, its token, query and key axes cut to its real length.

        Args:
            name: A name in `names.LAYER_ARRAYS` that the layer has (see `names`).
            prompt: Number of a prompt. Arrays without prompts (weights, A) are the same for all of them.

        Raises:
            UsageError: No such array or prompt; the message says which there are.
            CaptureFileError: The bytes are damaged.
        """
        dataset, at = self._dataset(name), (...,)
        if prompt is not None and has_prompts(name):
            length = self._length(prompt)
            cut = [slice(length if axis in TOKEN_AXES else None) for axis in self.dims(name)[1:]]
            at = (prompt, *cut)
        return self._values(dataset, at)

    @property
    def A_bar(self) -> xr.DataArray:
        """Ā = exp(ΔA), [prompt token head state] (Mamba-2: without state); only the part you look at is computed."""
        if "A_bar" in self:
            return self.lazy("A_bar")
        return A_bar(self._dataset("delta"), self._dataset("A"), self._values)

    @property
    def B_bar(self) -> xr.DataArray:
        """B̄ = ΔB (Euler, as both code bases), [prompt token head state]; only the part you look at is computed."""
        if "B_bar" in self:
            return self.lazy("B_bar")
        return B_bar(self._dataset("delta"), self._dataset("B"), self._values)

    def lazy(self, name: str) -> xr.DataArray:
        """A stored array with named dimensions, read where it is looked at."""
        return lazy_dataset(name, self._dataset(name), self.dims(name), self._values)

    def operands(self, prompt: int = 0, dtype: torch.dtype = torch.float32) -> ScanOperands:
        """The operands of one prompt, a batch of one cut to its real length; `x` and `gate` are not stored."""
        values = {name: self.read(name, prompt)[None] for name in ("delta", "B", "C")}
        values["A"] = _column(self.read("A"))
        if "D" in self:
            values["D"] = _column(self.read("D"))
        return ScanOperands(**{name: torch.from_numpy(v).to(dtype) for name, v in values.items()})

    def channel_map(self, channel: int, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """M of one head, computed from the stored operands: row i says how much each earlier x enters y at token i.

        Reads that head's Δ and its group's B and C only (paper eq. 8).

        Args:
            channel: A head: in Mamba-1 a channel of d_inner, in Mamba-2 a head, whose channels share M.
            prompt: Number of a prompt.

        Raises:
            UsageError: No such channel or prompt.
        """
        length, delta = self._length(prompt), self._dataset("delta")
        heads, groups = delta.shape[2], self._dataset("B").shape[2]
        if not 0 <= channel < heads:
            raise UsageError(
                f"layer {self.index}: channel {channel} is out of range: 0..{heads - 1}"
            )
        group = channel // (heads // groups)
        head_delta = self._values(delta, (prompt, slice(length), slice(channel, channel + 1)))
        shared = (prompt, slice(length), slice(group, group + 1))
        B, C = (self._values(self._dataset(name), shared) for name in ("B", "C"))
        A = _column(self._values(self._dataset("A"), (slice(channel, channel + 1),)))
        named = {"delta": head_delta[None], "A": A, "B": B[None], "C": C[None]}
        operands = ScanOperands(**{name: torch.from_numpy(value) for name, value in named.items()})
        return hidden_attention.channel_maps(operands)[0, 0].numpy()

    def attention_map(self, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """Mean of M over heads: stored, or else computed from the stored operands."""
        if "attention_map" in self:
            return self.read("attention_map", prompt)
        return hidden_attention.attention_map(self.operands(prompt))[0].numpy()

    def attention_mask(self, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """Mean of the decay over heads and states: stored, or else computed from the stored operands."""
        if "attention_mask" in self:
            return self.read("attention_mask", prompt)
        return hidden_attention.attention_mask(self.operands(prompt))[0].numpy()

    def damages(self) -> list[str]:
        """What of the layer no longer is what was written, by its digests; empty when all is."""
        with damage_told(self._path, f"layer {self.index}"):
            return damages(self._group, self.index)

    def _dataset(self, name: str) -> h5py.Dataset:
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.names)}"
            raise UsageError(f"layer {self.index} has no array {name!r}; {hint}")
        return stored_array(self._group, name)

    def _length(self, prompt: int) -> int:
        if not 0 <= prompt < self._header.prompts:
            raise UsageError(f"prompt {prompt} is out of range: 0..{self._header.prompts - 1}")
        return int(self._header.length[prompt])

    def _values(self, dataset: h5py.Dataset, at: tuple) -> np.ndarray:
        name = str(dataset.name).rsplit("/", 1)[-1]
        with damage_told(self._path, f"layer {self.index}: {name}"):
            return np.asarray(dataset[at])


def _column(array: np.ndarray) -> np.ndarray:
    """A and D with their last axis, which Mamba-2's files drop."""
    return array if array.ndim == 2 else array[:, None]
