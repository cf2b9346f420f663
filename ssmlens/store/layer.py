"""One layer of a stored capture: its arrays, and values computed from them on demand."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import CaptureFileError, UsageError
from ssmlens.names import (
    FINITE,
    GROUP,
    HEAD,
    LARGEST_WHOLE_MAP,
    MAMBA,
    MAP,
    MAP_ARRAYS,
    MASK,
    PROMPT,
    QUERY_BLOCK,
    TOKEN,
)
from ssmlens.notebook import ShownInNotebooks
from ssmlens.scan.operator import Operator
from ssmlens.scan.spans import check_spans
from ssmlens.scan.tiles import map_tile
from ssmlens.store import hdf5
from ssmlens.store.guard import reporting_damage
from ssmlens.store.hdf5 import stored_array
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import array_names, damages
from ssmlens.store.lazy import A_bar, B_bar, decay, lazy_dataset
from ssmlens.store.schema import (
    BLOCK_TOKENS,
    OPERATORS,
    OWN_LAYER_ATTRIBUTES,
    TOKEN_AXES,
    Attribute,
    axis_of_size,
    operator_name,
)
from ssmlens.store.verdict import Verdict, judge


class Layer(ShownInNotebooks):
    """The arrays of one block, read on demand. Get one from `Capture.layer`.

    Attributes:
        index: Block index in the model.
        attributes: `mixer`, `adapter`, `finite`, `reason`, ...
        digest: SHA-256 of the layer's arrays and attributes.
    """

    def __init__(self, group: h5py.Group, index: int, header: CaptureHeader, path: Path):
        self.index = index
        self._group = group
        self._header = header
        self._path = path
        self._verdict: Verdict | None = None
        with reporting_damage(path, f"layer {index}"):
            attributes = hdf5.read_attributes(group)
        self.digest = str(attributes["digest"])
        self.attributes: dict[str, Attribute] = {
            name: value for name, value in attributes.items() if name not in OWN_LAYER_ATTRIBUTES
        }
        self.names: tuple[str, ...] = tuple(array_names(group))

    @property
    def kind(self) -> str:
        """The block's kind, one of `names.BLOCK_KINDS`."""
        return str(self.attributes.get("kind", MAMBA))

    @property
    def operator(self) -> str:
        """Name of the operator that mixes tokens: "decay scan", "softmax", ... (`ssmlens.scan.operators`)."""
        return operator_name(self.attributes)

    @property
    def has_operands(self) -> bool:
        """Whether the operands are stored, so that maps can be recomputed. Softmax attention stores only its maps."""
        operator = OPERATORS.get(self.operator)
        return operator is not None and operator.stored

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that the layer has, of `names.MAPS`, whole or reduced."""
        if self.has_operands:
            return OPERATORS[self.operator].maps
        stored = [{name, f"{name}_mean"} & {*self.names} for name in MAP_ARRAYS.values()]
        return tuple(kind for kind, arrays in zip(MAP_ARRAYS, stored, strict=True) if arrays)

    @property
    def heads(self) -> int:
        """Number of heads; 0 where operands are not stored."""
        if not self.has_operands:
            return 0
        axes = OPERATORS[self.operator].axes
        name = next(name for name in self.names if HEAD in axes.get(name, ()))
        return self.shape(name)[axes[name].index(HEAD)]

    @property
    def state(self) -> str:
        """ "yes", or where numbers stopped being finite: "weights", "input", "output" (`names.FINITE` ...)."""
        return str(self.attributes["finite"])

    @property
    def finite(self) -> bool:
        """Whether weights, input and output were all finite."""
        return self.state == FINITE

    @property
    def verdict(self) -> Verdict:
        """Whether the maps are right: yes, no or not resolved, with the reason and the errors."""
        if self._verdict is None:
            self._verdict = judge(self, self._header.closure_tolerance)
        return self._verdict

    def token_strings(self, prompt: int = 0) -> list[str]:
        """The real tokens of one prompt as text. Raises UsageError if there is no such prompt."""
        self.length(prompt)
        return self._header.strings(prompt)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __repr__(self) -> str:
        mixer = self.attributes.get("mixer", "")
        return f"<Layer {self.index} {mixer} finite={self.state}: {', '.join(self.names)}>"

    def dims(self, name: str) -> tuple[str, ...]:
        """The axes of a stored array. Raises UsageError if the layer has no such array."""
        return hdf5.axes_of(self._dataset(name))

    @property
    def prompts_and_tokens(self) -> tuple[int, int]:
        """Number of prompts, and of tokens with their padding."""
        for name in self.names:
            first, *others = self.dims(name)
            if first == PROMPT and {*others[:1]} & {*TOKEN_AXES}:
                prompts, tokens = self.shape(name)[:2]
                return prompts, tokens
        raise CaptureFileError(f"{self._path}: layer {self.index} has no array with tokens")

    def length(self, prompt: int) -> int:
        """Number of real tokens of a prompt. Raises UsageError if there is no such prompt."""
        if not 0 <= prompt < self._header.prompts:
            raise UsageError(f"prompt {prompt} is out of range: 0..{self._header.prompts - 1}")
        return int(self._header.length[prompt])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a stored array, over all prompts with their padding."""
        return self._dataset(name).shape

    def read(self, name: str, prompt: int | None = None) -> np.ndarray:
        """Read a stored array; with `prompt`, that prompt's part, cut to its real tokens (or blocks of them).

        Args:
            name: A name in `store.schema.LAYER_ARRAYS` that the layer has (see `names`).
            prompt: Number of a prompt. Arrays without prompts (weights, A) are the same for all of them.

        Raises:
            UsageError: No such array or prompt; the message says which there are.
            CaptureFileError: The bytes are damaged.
        """
        dataset, at = self._dataset(name), (...,)
        if prompt is not None and self.dims(name)[0] == PROMPT:
            length = self.length(prompt)
            real = {axis_of_size(TOKEN): length}
            if BLOCK_TOKENS in self.attributes:
                real[axis_of_size(QUERY_BLOCK)] = -(-length // int(self.attributes[BLOCK_TOKENS]))
            at = (prompt, *(slice(real.get(axis_of_size(a))) for a in self.dims(name)[1:]))
        return self._values(dataset, at)

    @property
    def A_bar(self) -> xr.DataArray:
        """Ā, the decay, [prompt token head state] (without state in Mamba-2 and -3); computed lazily.

        exp(ΔA), or the exponential of the stored `log_decay`.

        Raises:
            UsageError: The layer has none: it is not a decay scan.
        """
        if "A_bar" in self:
            return self.lazy("A_bar")
        self._require_scan("Ā")
        if "log_decay" in self:
            return decay(self._dataset("log_decay"), self._values)
        return A_bar(self._dataset("delta"), self._dataset("A"), self._values)

    @property
    def B_bar(self) -> xr.DataArray:
        """B̄, the weight of a token's write to the state, [prompt token head state]; computed lazily.

        ΔB (Euler, as in the code of Mamba-1 and -2), or the stored `write` times B.

        Raises:
            UsageError: The layer has none: it is not a decay scan.
        """
        if "B_bar" in self:
            return self.lazy("B_bar")
        self._require_scan("B̄")
        weight = "write" if "write" in self else "delta"
        return B_bar(self._dataset(weight), self._dataset("B"), self._values)

    def lazy(self, name: str) -> xr.DataArray:
        """A stored array with named dimensions, read lazily."""
        return lazy_dataset(name, self._dataset(name), self.dims(name), self._values)

    def operands(self, prompt: int = 0, dtype: torch.dtype = torch.float32) -> Operator:
        """The operands of one prompt, a batch of one cut to its real length; `x` and `gate` are not stored.

        Raises:
            UsageError: No such prompt, or a layer of softmax attention (its operands are not stored).
        """
        return self._operands(prompt).map(lambda tensor: tensor.to(dtype))

    def tile(
        self, queries: tuple[int, int], keys: tuple[int, int], prompt: int = 0
    ) -> tuple[Float[np.ndarray, "query key"], Float[np.ndarray, "query key"]]:
        """A rectangle of attention map and mask, exact, from the stored operands; no array of size T² is allocated.

        Args:
            queries: First query and the one after the last.
            keys: First key and the one after the last.
            prompt: Number of a prompt.

        Raises:
            UsageError: No such prompt or tokens, or a layer without operands, or without a mask.
        """
        both = self.map_tile((MAP, MASK), queries, keys, prompt)
        return both[0], both[1]

    def map_tile(
        self,
        kinds: Sequence[str],
        queries: tuple[int, int],
        keys: tuple[int, int],
        prompt: int = 0,
    ) -> Float[np.ndarray, "kind query key"]:
        """A rectangle of some of the layer's `maps`, exact, from the stored operands.

        Args:
            kinds: Some of `maps`.
            queries: First query and the one after the last.
            keys: First key and the one after the last.
            prompt: Number of a prompt.

        Raises:
            UsageError: No such map, prompt or tokens, or a layer without operands.
        """
        return map_tile(self._operands(prompt), kinds, queries, keys)[0].numpy()

    def channel_map(
        self,
        channel: int,
        prompt: int = 0,
        queries: tuple[int, int] | None = None,
        keys: tuple[int, int] | None = None,
    ) -> Float[np.ndarray, "query key"]:
        """M of one head, computed from the stored operands: M[i, j] is the weight of x at token j in y at token i.

        Reads only that head's operands and its group's B and C (paper eq. 8).

        Args:
            channel: Number of a head: in Mamba-1 a channel of d_inner, in Mamba-2 a head (its channels share M).
            prompt: Number of a prompt.
            queries: First query and the one after the last. None: all.
            keys: First key and the one after the last. None: all.

        Raises:
            UsageError: No such channel, prompt or tokens; softmax attention; or a whole map of too long a prompt.
        """
        if queries is None and keys is None:
            self._check_map_fits(
                prompt, f".channel_map({channel}, queries=(0, 1024), keys=(0, 1024))"
            )
        tokens = 0, self.length(prompt)
        operands = self._operands(prompt, channel)
        check_spans(operands.tokens, queries or tokens, keys or tokens)
        return operands.matrix([0], queries or tokens, keys or tokens)[0, 0].numpy()

    def attention_map(self, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """Mean of M over heads: `whole_map("map", prompt)`."""
        return self.whole_map(MAP, prompt)

    def attention_mask(self, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """Mean of the decay over heads and states: `whole_map("mask", prompt)`."""
        return self.whole_map(MASK, prompt)

    def whole_map(self, kind: str, prompt: int = 0) -> Float[np.ndarray, "query key"]:
        """One of the layer's `maps`, as stored or computed from the stored operands.

        Raises:
            UsageError: No such map or prompt, or a prompt too long for a whole map.
        """
        name = MAP_ARRAYS[kind]
        if name in self:
            return self.read(name, prompt)
        self._check_map_fits(prompt, f'.map_tile(["{kind}"], queries, keys) or .read("{name}_max")')
        tokens = 0, self.length(prompt)
        return self.map_tile((kind,), tokens, tokens, prompt)[0]

    def damages(self) -> list[str]:
        """List the parts of the layer that have changed since they were written, by their digests."""
        with reporting_damage(self._path, f"layer {self.index}"):
            return damages(self._group, self.index)

    def _dataset(self, name: str) -> h5py.Dataset:
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.names)}"
            raise UsageError(f"layer {self.index} has no array {name!r}; {hint}")
        return stored_array(self._group, name)

    def _operands(self, prompt: int, head: int | None = None) -> Operator:
        """One prompt's operands: those of all heads, or of one head and its group."""
        self._require_operands()
        operator = OPERATORS[self.operator]
        part: dict[str, slice | int] = {TOKEN: slice(self.length(prompt)), PROMPT: prompt}
        if head is not None:
            if not 0 <= head < self.heads:
                raise UsageError(
                    f"layer {self.index}: channel {head} is out of range: 0..{self.heads - 1}"
                )
            group = head // (self.heads // self._groups(operator))
            part |= {HEAD: slice(head, head + 1), GROUP: slice(group, group + 1)}
        arrays: dict[str, Tensor | None] = {}
        for name in filter(self.__contains__, (*operator.axes, "D")):
            dims = self.dims(name)
            at = tuple(part.get(axis, slice(None)) for axis in dims)
            array = self._values(self._dataset(name), at)
            arrays[name] = torch.from_numpy(array[None] if dims[0] == PROMPT else array)
        return operator.from_arrays(arrays)

    def _groups(self, operator: type[Operator]) -> int:
        """Number of groups of heads that share arrays."""
        shared = [name for name in self.names if GROUP in operator.axes.get(name, ())]
        return self.shape(shared[0])[self.dims(shared[0]).index(GROUP)] if shared else self.heads

    def _require_operands(self) -> None:
        if self.operator not in OPERATORS:
            known = ", ".join(OPERATORS)
            raise UsageError(
                f"layer {self.index}: its operator {self.operator!r} is unknown (known: {known}); "
                "only its stored maps can be read"
            )
        if not self.has_operands:
            raise UsageError(
                f"layer {self.index} is {self.operator} attention: its maps are stored, not its operands"
            )

    def _require_scan(self, array: str) -> None:
        self._require_operands()
        if "delta" not in self:
            raise UsageError(f"layer {self.index} is a {self.operator}: it has no {array}")

    def _check_map_fits(self, prompt: int, alternative: str) -> None:
        """Refuse a whole map of a prompt that is too long."""
        self._require_operands()
        if self.length(prompt) > LARGEST_WHOLE_MAP:
            raise UsageError(
                f"prompt {prompt} has {self.length(prompt)} tokens, too many for a whole map "
                f"(at most {LARGEST_WHOLE_MAP}); ask for {alternative}"
            )

    def _values(self, dataset: h5py.Dataset, at: tuple) -> np.ndarray:
        name = str(dataset.name).rsplit("/", 1)[-1]
        with reporting_damage(self._path, f"layer {self.index}: {name}"):
            return np.asarray(dataset[at])
