"""What mixes a layer's tokens: one protocol for every family.

A layer projects its input, mixes its tokens, and finishes. The operator is the middle: per head h a matrix M_h over
tokens, of which the layer computes

    y[i, h] = Σ_j M_h[i, j] x[j, h]  (+ D x[i, h])

by some recurrence. M is lower triangular, unless tokens look ahead too (`is_causal`). Everything beyond this folder
(closure, maps, files, scores, figures) asks the operator and does not know which one it has. An operator is a frozen
dataclass in a file of `ssmlens.scan.operators`: its own fields are what M is made of, its inherited ones what the mixer
puts around it.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import GROUP, HEAD, HEADDIM, KEY, PROMPT, QUERY, TOKEN
from ssmlens.registry import Registry
from ssmlens.scan.finite import all_finite
from ssmlens.scan.surroundings import Signals, Surroundings

# typing's own is beyond beartype, which checks these files in tests.
Self = TypeVar("Self", bound="Operator")

Span = tuple[int, int]
"""A range of tokens: the first one, and the one after the last."""

_BESIDE = {
    "x": (PROMPT, TOKEN, HEAD, HEADDIM),
    "D": (HEAD, HEADDIM),
    "gate": (PROMPT, TOKEN, "d_inner"),
}


def scan_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that a scan of `tensor` computes in: float32, as in the reference kernels; float64 stays."""
    return torch.promote_types(tensor.dtype, torch.float32)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Operator(ABC):
    """The operands of what mixes the tokens of one layer, for a batch of sequences.

    A head owns one matrix M. Heads are split evenly and in order over groups, where an array has groups: head h reads
    group h // (heads // groups).

    Attributes:
        x: What the mixing is applied to. None where only maps are wanted, as in a file.
        D: Skip weights. None where the layer has no skip.
        gate: The gate's branch before its activation. None where the layer has no gate.
        surroundings: What else surrounds the mixing in its block, for `channel_maps(fold=...)`. None in a file.
        kind: The operator's name: a file stores it.
        maps: The maps it has, of `names.MAPS`: "map" is the mean of M over heads.
        axes: The arrays it is made of (its own fields), with their axes.
        may_drop_the_last_axis: Arrays that a file stores without their last axis where that has one entry.
        stored: Whether a file stores these arrays, so that everything can be computed again from it.
    """

    x: Float[Tensor, "batch token head headdim"] | None = None
    D: Float[Tensor, "head #headdim"] | None = None
    gate: Float[Tensor, "batch token d_inner"] | None = None
    surroundings: Surroundings | None = None

    kind: ClassVar[str]
    maps: ClassVar[tuple[str, ...]]
    axes: ClassVar[Mapping[str, tuple[str, ...]]]
    stored: ClassVar[bool] = True
    may_drop_the_last_axis: ClassVar[tuple[str, ...]] = ()

    # What an operator must say.

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """One of its tensors: results have its device, and `scan_dtype` of it."""

    @property
    def is_causal(self) -> bool:
        """Whether M is lower triangular: no token reads one after it."""
        return True

    @abstractmethod
    def __call__(
        self, x: Float[Tensor, "batch token head headdim"]
    ) -> Float[Tensor, "batch token head headdim"]:
        """M x for every head, by the recurrence, without D: what closure, probes and edits run. Differentiable.

        Shares no code with `matrix` and `means`, so that each can check the other.
        """

    @abstractmethod
    def matrix(
        self, heads: Sequence[int], queries: Span, keys: Span
    ) -> Float[Tensor, "batch head query key"]:
        """M of some heads on a rectangle of queries and keys, in memory of its size."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, "batch token head"]:
        """What each token reads of itself, M[i, i], by a formula of its own."""

    @abstractmethod
    def means(
        self, kinds: Sequence[str], queries: Span, keys: Span
    ) -> Float[Tensor, "batch kind query key"]:
        """Some of `maps` on a rectangle, in memory of its size: means over heads (a mask: over states too)."""

    @abstractmethod
    def probe(
        self, vector: Float[Tensor, "batch token"]
    ) -> dict[str, Float[Tensor, "batch token"]]:
        """What each of `maps` does to a vector, by recurrence and without the map: the check of a stored one."""

    @abstractmethod
    def agreement(self, kind: str = "map", sample: int = 64) -> Float[Tensor, " batch"]:
        """How much of its heads' energy a map keeps: ‖mean over heads‖² / mean ‖head‖², in [0, 1].

        Args:
            kind: A signed one of `maps`.
            sample: Heads to sample, evenly spaced in each group; all where there are fewer.
        """

    @property
    def offset(self) -> Float[Tensor, "batch token head #headdim"] | None:
        """What the layer's y has beside M x and D x, whatever x is. None: nothing."""
        return None

    # What edits ask.

    def entries(
        self, queries: Int[Tensor, " pair"], keys: Int[Tensor, " pair"]
    ) -> Float[Tensor, "batch pair head"] | None:
        """M[i, j] of every head for some pairs j < i, or None: where no pair costs less than a rectangle.

        Where M is not lower triangular also for j > i.
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
        """What is left, after the write of token `until`, of a state that stood after that of token `since`."""
        raise UsageError(f"a {self.kind} has no state")

    def read_state(
        self, state: Float[Tensor, "batch head headdim state"], since: int
    ) -> Float[Tensor, "batch token head headdim"]:
        """What every token reads of a state that stands after token `since` (−1: before the first one).

        0 before that token. The state is read as the layer reads its own; nothing is written.
        """
        raise UsageError(f"a {self.kind} has no state")

    def quantity(self, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """Something that can be edited before the mixing, with its axes.

        Raises:
            UsageError: It has no such thing; says what it has.
        """
        if name not in self.quantities:
            raise UsageError(f"has no {name!r}; it has: {', '.join(self.quantities)}")
        if self._signals is not None:
            return self._signals.quantity(name)
        return getattr(self, name), {**self.axes, **_BESIDE}[name]

    def with_quantity(self: Self, name: str, value: Tensor) -> Self:
        """The same with another value of what `quantity` returns, and with what is derived from it."""
        if self._signals is not None:
            return self._signals.with_quantity(name, value)
        changed: dict[str, Any] = {name: value}
        return dataclasses.replace(self, **changed)

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names that `quantity` takes."""
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
        """Number of heads: of distinct matrices M."""
        return self._size(HEAD)

    @property
    def groups(self) -> int:
        """Number of groups that heads share arrays in; as many as heads where nothing is shared."""
        return self._size(GROUP, HEAD)

    def arrays(self) -> dict[str, Tensor]:
        """What it is made of, by name: the names and axes are those of `axes`."""
        found = {name: getattr(self, name) for name in self.axes}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_arrays(cls: type[Self], arrays: Mapping[str, Tensor | None]) -> Self:
        """The operator made of these arrays, as a file stores them, and of D.

        Raises:
            ValueError: They do not fit together.
        """
        axes = {**cls.axes, "D": _BESIDE["D"]}
        whole: dict[str, Any] = {
            name: array.unsqueeze(-1)
            if array is not None and array.ndim < len(axes[name])
            else array
            for name, array in arrays.items()
        }
        return cls(**whole)

    @classmethod
    def missing(cls, present: Collection[str], *, first: bool = True) -> list[str]:
        """Which arrays it cannot be made without, of those that are not among `present`.

        Args:
            present: Names of the arrays there are.
            first: Whether they are those of the first prompts, with which arrays without prompts are stored.
        """
        required = {
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING and field.name in cls.axes
        }
        needed = {n for n in required if first or PROMPT in cls.axes[n]}
        return [name for name in cls.axes if name in needed and name not in present]

    def discretized(self) -> dict[str, Tensor]:
        """What `capture(store_discretized=True)` stores of it: Ā and B̄ where it has them."""
        return {}

    def map(self: Self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same with `function` applied to every tensor, such as `lambda t: t.double()`."""
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
        """Only tokens first ≤ t < end, as if the sequence began there; without what surrounds the mixing."""
        return dataclasses.replace(self._cut({TOKEN: slice(first, end)}), surroundings=None)

    def rows(self: Self, sequences: Sequence[int], first: int, end: int) -> Self:
        """Some sequences, and of these only tokens first ≤ t < end; without what surrounds the mixing."""
        if list(sequences) == list(range(self.batch)) and (first, end) == (0, self.tokens):
            return dataclasses.replace(self, surroundings=None)
        cut = self._cut({PROMPT: list(sequences)})
        return cut.between(first, end)

    def where(self: Self, tokens: Bool[Tensor, "batch token"], other: Self) -> Self:
        """The same, with what `other` has at some tokens."""
        changed = {}
        for name, mine, its in self._with_tokens(other):
            chosen = tokens.to(mine.device).reshape(*tokens.shape, *[1] * (mine.ndim - 2))
            changed[name] = torch.where(chosen, its, mine)
        return dataclasses.replace(self, **changed)

    def with_rows(self: Self, sequences: Sequence[int], first: int, other: Self) -> Self:
        """The same, with `other` in place of some sequences' tokens from `first` on."""
        changed = {}
        for name, mine, its in self._with_tokens(other):
            changed[name] = mine.clone()
            changed[name][list(sequences), first : first + its.shape[1]] = its
        return dataclasses.replace(self, **changed)

    def _with_tokens(self: Self, other: Self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, axes in {**self.axes, **_BESIDE}.items():
            mine = getattr(self, name)
            if mine is not None and axes[:2] == (PROMPT, TOKEN):
                yield name, mine, getattr(other, name)

    def beside(self: Self, other: Self) -> Self | None:
        """Both in one batch, the sequences of `other` after its own, without what stands around the mixing.

        None where they differ in an array that all sequences share, such as A.
        """
        together = {}
        for name, axes in self.axes.items():
            mine, its = getattr(self, name), getattr(other, name)
            if mine is None or its is None or axes[0] != PROMPT:
                if mine is not its:
                    return None
                continue
            if mine.shape[1:] != its.shape[1:]:
                return None
            together[name] = torch.cat([mine, its])
        nothing = dict.fromkeys(("x", "D", "gate", "surroundings"))
        return dataclasses.replace(self, **together, **nothing)

    def over_heads(self: Self) -> Self:
        """The same where every head has its own copy of what its group shares (groups = heads)."""
        if self.groups == self.heads:
            return self
        alone = self.select_heads(range(self.heads))
        return dataclasses.replace(alone, gate=self.gate, surroundings=self.surroundings)

    def select_heads(self: Self, heads: Sequence[int]) -> Self:
        """Only these heads, in this order, each with its own copy of what its group shares (groups = heads).

        Without gate and surroundings, whose channels are not split by heads.
        """
        alone = dataclasses.replace(self, gate=None, surroundings=None)
        group = [head // (self.heads // self.groups) for head in heads]
        return alone._cut({HEAD: list(heads), GROUP: group})

    def bare(self: Self) -> Self:
        """The mixing alone, in the scan's precision (float64 stays, all else float32): no x, D, gate, surroundings."""
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
    def finite(self) -> bool:
        """Whether all that M is made of is finite."""
        return all_finite(*self.arrays().values())

    def __repr__(self) -> str:
        arrays = {name: getattr(self, name) for name in (*self.axes, *_BESIDE)}
        shapes = [f"{n} {list(v.shape)}" for n, v in arrays.items() if v is not None]
        return f"<{type(self).__name__} of {self.heads} heads: {', '.join(shapes)}>"

    def _size(self, *names: str) -> int:
        """How many entries its arrays have along the first of these axes that any of them has."""
        for axis in names:
            for name, axes in self.axes.items():
                if axis in axes and (array := getattr(self, name)) is not None:
                    return array.shape[axes.index(axis)]
        raise ValueError(f"a {self.kind} has no array with an axis {' or '.join(names)}")

    def _evenly_spaced_heads(self, sample: int) -> list[int]:
        """About `sample` of the heads, as many of every group."""
        groups = max(1, self.groups)
        wide = self.heads // groups
        count = min(wide, max(1, sample // groups))
        return [g * wide + h * wide // count for g in range(groups) for h in range(count)]

    def _cut(self: Self, at: Mapping[str, Any]) -> Self:
        """The same with every array cut along the axes that `at` names."""
        cut = {}
        for name, axes in {**self.axes, **_BESIDE}.items():
            value = getattr(self, name)
            index = tuple(at.get(axis, slice(None)) for axis in axes)
            if value is not None and any(axis in at for axis in axes):
                cut[name] = value[index]
        return dataclasses.replace(self, **cut)


operators: Registry[type[Operator]] = Registry("operator", "ssmlens.scan.operators")


Registered = TypeVar("Registered", bound=type[Operator])


def register(operator: Registered) -> Registered:
    """Class decorator: enter an operator under its kind."""
    return operators.register(operator.kind)(operator)
