"""Operator: the linear map that mixes a layer's tokens, by one protocol for every family.

A layer projects its input, mixes its tokens, then applies skip, gate, norm and out_proj. The operator is the middle
part. Each head h has a matrix M_h over tokens, and the layer computes

    y[i, h] = Σ_j M_h[i, j] x[j, h]  (+ D x[i, h])

by a recurrence. M is lower triangular, unless tokens look ahead (`is_causal`). Code outside this folder (closure, maps,
files, scores, figures) uses this protocol and does not depend on the family. An operator is a frozen dataclass in a
file of `ssmlens.scan.operators`. Its own fields define M. Its inherited fields hold what surrounds M in the mixer.
"""

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import GROUP, HEAD, HEADDIM, KEY, PROMPT, QUERY, TOKEN
from ssmlens.registry import Registry
from ssmlens.scan.finite import finite_flag
from ssmlens.scan.kept import kept
from ssmlens.scan.surroundings import Signals, Surroundings

# beartype, which checks these files in tests, does not support typing.Self.
Self = TypeVar("Self", bound="Operator")

Span = tuple[int, int]
"""A range of tokens: the first one, and the one after the last."""

_BESIDE = {
    "x": (PROMPT, TOKEN, HEAD, HEADDIM),
    "D": (HEAD, HEADDIM),
    "gate": (PROMPT, TOKEN, "d_inner"),
}


def scan_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which a scan of `tensor` computes: float32, as in the reference kernels, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Operator(ABC):
    """The operands of a layer's token mixing, for a batch of sequences.

    A head owns one matrix M. If an array has groups, heads are split evenly and in order over them: head h reads group
    h // (heads // groups).

    Attributes:
        x: Input of the mixing. None if only maps are needed, as in a file.
        D: Skip weights. None if the layer has no skip.
        gate: Input of the gate's activation. None if the layer has no gate.
        surroundings: Convolution and norm around the mixing, for `channel_maps(fold=...)`. None in a file.
        kind: The operator's name, which a file stores.
        maps: The maps it has, of `names.MAPS`: "map" is the mean of M over heads.
        axes: The axes of each of its own arrays.
        may_drop_the_last_axis: Arrays that a file stores without their last axis if it has one entry.
        stored: Whether a file stores these arrays, so that everything can be computed from it again.
        recordable: Whether a CUDA graph can record its scan, `means`, `probe` and `agreement`: their launches depend on
            shapes alone, and they copy nothing from the host once they have run with these shapes.
    """

    x: Float[Tensor, "batch token head headdim"] | None = None
    D: Float[Tensor, "head #headdim"] | None = None
    gate: Float[Tensor, "batch token d_inner"] | None = None
    surroundings: Surroundings | None = None

    kind: ClassVar[str]
    maps: ClassVar[tuple[str, ...]]
    axes: ClassVar[Mapping[str, tuple[str, ...]]]
    stored: ClassVar[bool] = True
    recordable: ClassVar[bool] = False
    may_drop_the_last_axis: ClassVar[tuple[str, ...]] = ()

    # What every operator defines.

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """One of its tensors. Results have its device, and the dtype `scan_dtype` of it."""

    @property
    def is_causal(self) -> bool:
        """Whether M is lower triangular: no token reads one after it."""
        return True

    @abstractmethod
    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """M x for every head, by the recurrence, without D. Closure, probes and edits run it. Differentiable.

        It shares no code with `matrix` and `means`, so that each can check the other.
        """

    @abstractmethod
    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """M of some heads on a rectangle of queries and keys. Uses memory of the rectangle's size."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """The weight of each token for itself, M[i, i], by a formula that shares no code with `matrix`."""

    @abstractmethod
    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """Some of `maps` on a rectangle: means over heads (a mask: over states too). Uses memory of its size."""

    @abstractmethod
    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """The product of each of `maps` with a vector, by recurrence and without the map. It checks stored maps."""

    @abstractmethod
    def agreement(self, kind: str = "map", sample: int = 64) -> Float[Tensor, " batch"]:
        """The share of the heads' energy that a map keeps: ‖mean over heads‖² / mean ‖head‖², in [0, 1].

        Args:
            kind: One of the signed `maps`.
            sample: Heads to sample, evenly spaced in each group; all if there are fewer.
        """

    @property
    def offset(self) -> Float[Tensor, "batch token head #headdim"] | None:
        """A term of the layer's y beside M x and D x that does not depend on x. None: there is none."""
        return None

    # What edits use.

    def entries(
        self, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
    ) -> Float[Tensor, "batch pair head"] | None:
        """M[i, j] of every head for some pairs j < i; also j > i if M is not causal.

        None if computing one pair costs as much as a rectangle.
        """
        return None

    def state_after(
        self, x: Float[Tensor, "batch token head headdim"], token: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """The state after the write of a token.

        Raises:
            UsageError: This operator has no state (softmax).
        """
        raise UsageError(f"a {self.kind} has no state")

    def state_left(
        self, state: Float[Tensor, "batch head headdim state"], since: int, until: int
    ) -> Float[Tensor, "batch head headdim state"]:
        """What is left, after the write of token `until`, of a given state after the write of token `since`."""
        raise UsageError(f"a {self.kind} has no state")

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """What every token reads of a given state after token `since`; 0 for tokens before it.

        −1 is the initial state. Tokens read it as they read the layer's own state, but write nothing.
        """
        raise UsageError(f"a {self.kind} has no state")

    def quantity(self, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """A value that can be edited before the mixing, with its axes.

        Raises:
            UsageError: It has no such value; the message lists those it has.
        """
        if name not in self.quantities:
            raise UsageError(f"has no {name!r}; it has: {', '.join(self.quantities)}")
        if self._signals is not None:
            return self._signals.quantity(name)
        return getattr(self, name), {**self.axes, **_BESIDE}[name]

    def with_quantity(self: Self, name: str, value: Tensor) -> Self:
        """The operator with another value of this quantity, and of everything derived from it."""
        if self._signals is not None:
            return self._signals.with_quantity(name, value)
        changed: dict[str, Any] = {name: value}
        return dataclasses.replace(self, **changed)

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names that `quantity` accepts."""
        if self._signals is not None:
            return self._signals.quantities
        return tuple(n for n in (*self.axes, *_BESIDE) if getattr(self, n) is not None)

    @property
    def _signals(self) -> Signals | None:
        return None if self.surroundings is None else self.surroundings.signals

    # What follows from `axes`.

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self._size(PROMPT)

    @property
    def tokens(self) -> int:
        """Length of the sequences."""
        return self._size(TOKEN, QUERY)

    @property
    def heads(self) -> int:
        """Number of heads, each with its own matrix M."""
        return self._size(HEAD)

    @property
    def groups(self) -> int:
        """Number of groups of heads that share arrays; as many as heads if they share nothing."""
        return self._size(GROUP, HEAD)

    def arrays(self) -> dict[str, Tensor]:
        """Its own arrays by name, with the axes that `axes` gives."""
        arrays = {name: getattr(self, name) for name in self.axes}
        return {name: value for name, value in arrays.items() if value is not None}

    @classmethod
    def from_arrays(cls: type[Self], arrays: Mapping[str, Tensor | None]) -> Self:
        """Make the operator from its arrays, as a file stores them, and from D.

        Raises:
            ValueError: Their shapes do not fit together.
        """
        axes = {**cls.axes, "D": _BESIDE["D"]}
        fields: dict[str, Any] = {
            name: array.unsqueeze(-1)
            if array is not None and array.ndim < len(axes[name])
            else array
            for name, array in arrays.items()
        }
        return cls(**fields)

    @classmethod
    def missing(cls, present: Collection[str], *, first: bool = True) -> list[str]:
        """Names of required arrays that are not in `present`.

        Args:
            present: Names of the stored arrays.
            first: Whether they belong to the first prompts: arrays without a prompt axis are stored with these only.
        """
        required = {
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING and field.name in cls.axes
        }
        needed = {n for n in required if first or PROMPT in cls.axes[n]}
        return [name for name in cls.axes if name in needed and name not in present]

    def discretized(self) -> dict[str, Tensor]:
        """Ā and B̄, if it has them: what `capture(store_discretized=True)` stores."""
        return {}

    def map(self: Self, function: Callable[[Tensor], Tensor]) -> Self:
        """The operator with `function` applied to every tensor, such as `lambda t: t.double()`."""
        tensors: dict[str, Any] = {
            field.name: function(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        around = None if self.surroundings is None else self.surroundings.map(function)
        return dataclasses.replace(self, **tensors, surroundings=around)

    def sequence(self: Self, index: int, length: int | None = None) -> Self:
        """One sequence of the batch (a batch of one), cut to its first `length` tokens."""
        around = None if self.surroundings is None else self.surroundings.sequence(index, length)
        real = slice(length)
        cut = {PROMPT: slice(index, index + 1), TOKEN: real, QUERY: real, KEY: real}
        return dataclasses.replace(self._cut(cut), surroundings=around)

    def between(self: Self, first: int, end: int) -> Self:
        """Only tokens first ≤ t < end, as if the sequence began at `first`; without surroundings."""
        return dataclasses.replace(self._cut({TOKEN: slice(first, end)}), surroundings=None)

    def rows(self: Self, sequences: Sequence[int], first: int, end: int) -> Self:
        """Only these sequences, and only their tokens first ≤ t < end; without surroundings."""
        if list(sequences) == list(range(self.batch)) and (first, end) == (0, self.tokens):
            return dataclasses.replace(self, surroundings=None)
        cut = self._cut({PROMPT: list(sequences)})
        return cut.between(first, end)

    def where(self: Self, tokens: Bool[Tensor, "batch token"], other: Self) -> Self:
        """The operator with the values of `other` at these tokens."""
        changed = {}
        for name, old, new in self._with_tokens(other):
            chosen = tokens.to(old.device).reshape(*tokens.shape, *[1] * (old.ndim - 2))
            changed[name] = torch.where(chosen, new, old)
        return dataclasses.replace(self, **changed)

    def with_rows(self: Self, sequences: Sequence[int], first: int, other: Self) -> Self:
        """The operator with the tokens of `other` in place of some sequences' tokens from `first` on."""
        changed = {}
        for name, old, new in self._with_tokens(other):
            changed[name] = old.clone()
            changed[name][list(sequences), first : first + new.shape[1]] = new
        return dataclasses.replace(self, **changed)

    def _with_tokens(self: Self, other: Self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each array with a token axis: its name, its value here and its value in `other`."""
        for name, axes in {**self.axes, **_BESIDE}.items():
            value = getattr(self, name)
            if value is not None and axes[:2] == (PROMPT, TOKEN):
                yield name, value, getattr(other, name)

    def beside(self: Self, other: Self) -> Self | None:
        """Both in one batch, the sequences of `other` last; without x, D, gate and surroundings.

        None if they differ in an array that all sequences share, such as A.
        """
        joined = {}
        for name, axes in self.axes.items():
            a, b = getattr(self, name), getattr(other, name)
            if a is None or b is None or axes[0] != PROMPT:
                if a is not b:
                    return None
                continue
            if a.shape[1:] != b.shape[1:]:
                return None
            joined[name] = torch.cat([a, b])
        dropped = dict.fromkeys(("x", "D", "gate", "surroundings"))
        return dataclasses.replace(self, **joined, **dropped)

    def over_heads(self: Self) -> Self:
        """The operator where every head has its own copy of its group's arrays (groups = heads)."""
        if self.groups == self.heads:
            return self
        alone = self.select_heads(range(self.heads))
        return dataclasses.replace(alone, gate=self.gate, surroundings=self.surroundings)

    def select_heads(self: Self, heads: Sequence[int]) -> Self:
        """Only these heads, in this order, each with its own copy of its group's arrays (groups = heads).

        Without gate and surroundings, whose channels are not split by heads.
        """
        alone = dataclasses.replace(self, gate=None, surroundings=None)
        group = [head // (self.heads // self.groups) for head in heads]
        device = self.like.device
        return alone._cut({HEAD: places(heads, device), GROUP: places(group, device)})

    def bare(self: Self) -> Self:
        """The mixing alone, without x, D, gate and surroundings, in `scan_dtype`."""
        dtype = scan_dtype(self.like)
        alone = dataclasses.replace(self, x=None, D=None, gate=None, surroundings=None)
        return alone.map(lambda tensor: tensor.to(dtype))

    def require(self, kinds: Sequence[str]) -> None:
        """Raise UsageError unless it has all of these maps."""
        for kind in kinds:
            if kind not in self.maps:
                known = ", ".join(self.maps)
                raise UsageError(f"a {self.kind} has no {kind!r}; its maps: {known}")

    @property
    def finite(self) -> Bool[Tensor, ""]:
        """Whether all of its own arrays are finite, as a tensor on their device."""
        return finite_flag(*self.arrays().values())

    def __repr__(self) -> str:
        arrays = {name: getattr(self, name) for name in (*self.axes, *_BESIDE)}
        shapes = [f"{n} {list(v.shape)}" for n, v in arrays.items() if v is not None]
        return f"<{type(self).__name__} of {self.heads} heads: {', '.join(shapes)}>"

    def _size(self, *names: str) -> int:
        """The length of the first of these axes that any of its arrays has."""
        for axis in names:
            for name, axes in self.axes.items():
                if axis in axes and (array := getattr(self, name)) is not None:
                    return array.shape[axes.index(axis)]
        raise ValueError(f"a {self.kind} has no array with an axis {' or '.join(names)}")

    def _evenly_spaced_heads(self, sample: int) -> list[int]:
        """About `sample` heads, the same number from every group."""
        groups = max(1, self.groups)
        wide = self.heads // groups
        count = min(wide, max(1, sample // groups))
        return [g * wide + h * wide // count for g in range(groups) for h in range(count)]

    def _cut(self: Self, at: Mapping[str, Any]) -> Self:
        """The operator with every array indexed along the axes that `at` names."""
        cut = {}
        for name, axes in {**self.axes, **_BESIDE}.items():
            value = getattr(self, name)
            index = tuple(at.get(axis, slice(None)) for axis in axes)
            if value is not None and any(axis in at for axis in axes):
                cut[name] = value[index]
        return dataclasses.replace(self, **cut)


def places(numbers: Sequence[int], device: torch.device) -> list[int] | Int[Tensor, " place"]:
    """Numbers to index with. On a GPU they are a tensor, which is copied there once."""
    if device.type != "cuda":
        return list(numbers)
    return kept(_places_on_device(tuple(numbers), device))


@functools.lru_cache(maxsize=64)
def _places_on_device(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, " place"]:
    with torch.inference_mode(False):  # autograd may save it
        return torch.tensor(numbers, dtype=torch.long, device=device)


operators: Registry[type[Operator]] = Registry("operator", "ssmlens.scan.operators")


Registered = TypeVar("Registered", bound=type[Operator])


def register(operator: Registered) -> Registered:
    """Class decorator: register an operator under its kind."""
    return operators.register(operator.kind)(operator)
