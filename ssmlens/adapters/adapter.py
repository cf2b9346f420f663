"""What an adapter must be able to do, and the registry of adapters."""

import dataclasses
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.parameters import Number
from ssmlens.registry import Registry
from ssmlens.scan.operator import Operator

# What mixers call the places where packed sequences begin, and what they call their cache.
_PACKED = ("seqlen", "seq_idx", "cu_seqlens", "cu_seq_lens", "cu_seq_lens_q", "cu_seq_lens_k")
_CACHES = ("inference_params", "cache_params", "past_key_values", "past_key_value")


@dataclasses.dataclass(frozen=True)
class MixerInput:
    """What a mixer was called with, under one name for every library.

    Attributes:
        hidden: The mixer's input, after the block's norm.
        token_mask: 1 at real tokens and 0 at padding, or None.
        weights: The softmax weights that attention put out, where it did.
        positions: Where each token stands in its prompt, for families that forget everything at 0. None: in order.
    """

    hidden: Float[Tensor, "batch token d_model"]
    token_mask: Tensor | None = None
    weights: Float[Tensor, "batch head query key"] | None = None
    positions: Int[Tensor, "batch token"] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "MixerInput":
        """The same with `function` applied to every tensor."""
        rest = (self.token_mask, self.weights, self.positions)
        return MixerInput(
            function(self.hidden), *(None if one is None else function(one) for one in rest)
        )


class CallRefusedError(Exception):
    """What a module put out cannot be recorded, and why."""


class Adapter(ABC):
    """How one family's mixer computes: hidden states → operands → scan output → mixer output.

    `project` and `finish` must be the mixer's own arithmetic, from its own weights; closure (`recorder/closure.py`)
    and the contract tests (`tests/contracts`) hold them to it.

    Attributes:
        family: Library and class, for people: "transformers MambaMixer".
        mixers: Module path and class name of every mixer it reads: a bare class name can be another library's.
        block_kind: What a block with this mixer is, of `names.BLOCK_KINDS`.
        masks_padding: Whether it hides padding on the left from the tokens after it, where a model is given a mask.
        tf32_kernels: Whether the family's CUDA kernels multiply float32 in TF32, so that closure is coarser there.
        fresh_A_log: The range that the family's library draws A_log from; None: it is log n (Mamba-1).
        fresh_norms: What its library starts the weights of norms at.
        looks_ahead: Whether its mixers read tokens after their own, so that padding must be masked: its models then
            take `attention_mask`, 1 at real tokens.
        cache_argument: What the mixer calls the state of earlier tokens, and its model's `generate` hands it; None:
            its models run without a cache.
        model_type: What config.json calls the models that `load` makes; None: `load_model` reads them without it.
    """

    family: str
    mixers: tuple[str, ...]
    block_kind: str = names.MAMBA
    masks_padding: bool = True
    tf32_kernels: bool = False
    fresh_A_log: tuple[float, float] | None = None
    fresh_norms: tuple[float, ...] = (1.0,)
    looks_ahead: bool = False
    cache_argument: str | None = None
    model_type: str | None = None

    def load(self, folder: Path, config: Mapping[str, Any]) -> nn.Module:
        """The model in a folder whose config.json says `model_type`: `model(input_ids)` puts out its logits.

        Its `tokenizer`, if it has one, is kept; else the folder's is read.

        Args:
            folder: Has config.json, and whatever else the family reads: code in it must not be run.
            config: What config.json says.
        """
        raise NotImplementedError(f"{type(self).__name__} has a model_type and no `load`")

    def read_input(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> MixerInput:
        """The mixer's input, whatever its own signature calls it."""
        given = arguments(mixer, args, kwargs)
        hidden = given[next(iter(given))]
        return MixerInput(hidden, given.get("attention_mask"))

    def refusal(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
        """Why this call cannot be recorded (a cached step, packed sequences), or None.

        What a mixer computes from a state it was handed is not M x of the tokens at hand.
        """
        given = arguments(mixer, args, kwargs)
        for name in _PACKED:
            if given.get(name) is not None:
                return f"packed sequences ({name}) are not recorded; pass them one a row"
        name = self.cached_by(mixer, given)
        return name and f"a cached step ({name}) is not recorded; record the prefill"

    def cached_by(self, mixer: nn.Module, given: Mapping[str, Any]) -> str | None:
        """The argument, of the mixer's call or of its model's, that makes it a cached step; None: it is none."""
        return cache_with_state(mixer, given, self.cache_argument)

    def read_output(
        self, mixer: nn.Module, given: MixerInput, output: Any
    ) -> tuple[MixerInput, Tensor]:
        """The input, with what only the output tells of it, and the mixer's output itself.

        Raises:
            CallRefusedError: The output shows that this call cannot be recorded.
        """
        return given, output[0] if isinstance(output, tuple) else output

    def unreadable(self, mixer: nn.Module) -> str | None:
        """What this mixer is, where its operands cannot be had as the model is set up; else None."""
        return None

    def unclosable(self, mixer: nn.Module) -> str | None:
        """Why the mixer's output cannot be computed again from its operands, or None."""
        return None

    def needs_weights(self, mixer: nn.Module) -> bool:
        """Whether `project` computes with the mixer's own weights."""
        return True

    @abstractmethod
    def project(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """The operands, with x, D and gate, that the mixer's scan gets for this input."""

    def project_fast(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """The same operands, within rounding, as fast as they can be had: for edits. Default: `project`.

        Recordings have those of `project`: so have edits that put in what was recorded. Who overrides the one of a
        family overrides the other.
        """
        return self.project(mixer, given)

    @abstractmethod
    def finish(
        self,
        mixer: nn.Module,
        y: Float[Tensor, "batch token head headdim"],
        operands: Operator,
    ) -> Float[Tensor, "batch token d_model"]:
        """The mixer's output from its scan's output `y` (with D x added): gate, norm, out_proj."""

    def out_projection(self, mixer: Any) -> Any:
        """The mixer's last layer; those of its columns that y's channels pass are the last. None: there is none."""
        return getattr(mixer, "out_proj", getattr(mixer, "o_proj", None))

    @abstractmethod
    def weights(self, mixer: nn.Module) -> WeightViews:
        """Named views of the mixer's weights; they share its memory."""

    @abstractmethod
    def tiny_model(self) -> nn.Module:
        """A small model of random weights that the contract tests run: `model(input_ids)`, ids 0..31, ≥ 2 blocks."""

    def settings(self, mixer: nn.Module) -> dict[str, Any]:
        """What decides what the mixer's weights mean, beside their shapes: a transplant needs the same. Default: {}."""
        return {}

    def slow_decay(
        self, mixer: nn.Module, c: Number, w_delta_scale: Number
    ) -> dict[str, list[tuple[Tensor, Tensor]]] | None:
        """What `mimetic_` sets in its components "A" and "delta": weights, each with its value. None: as in Mamba."""
        return None


adapters: Registry[Adapter] = Registry("adapter", "ssmlens.adapters")


def register(adapter_class: type[Adapter]) -> type[Adapter]:
    """Class decorator: enter an adapter under the path of every mixer it reads."""
    adapter = adapter_class()
    for path in adapter.mixers:
        adapters.register(path)(adapter)
    return adapter_class


def own_forward(mixer: nn.Module) -> Callable[..., Any]:
    """The mixer's forward under its decorators, also under one that hides it (transformers 5.14 has such)."""
    return _undecorated(type(mixer).forward)


@functools.lru_cache(maxsize=256)  # of classes made on the way, too
def _undecorated(decorated: Callable[..., Any]) -> Callable[..., Any]:
    forward = inspect.unwrap(decorated)
    inside = [cell.cell_contents for cell in forward.__closure__ or ()]
    hidden = [f for f in inside if inspect.isfunction(f) and f.__name__ == "forward"]
    return hidden[0] if hidden else forward


@functools.lru_cache(maxsize=256)
def _signature(forward: Callable[..., Any]) -> tuple[inspect.Signature, tuple[str, ...]]:
    """A forward's signature, and the names of what it takes by position, itself first."""
    signature = inspect.signature(forward)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in signature.parameters.items() if p.kind in by_position]
    return signature, tuple(names)


def arguments(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a module is called with, by the names of its own forward, in their order."""
    signature, names = _signature(own_forward(module))
    if args and not kwargs and len(args) < len(names):  # most calls; binding takes longer
        return dict(zip(names[1:], args, strict=False))
    bound = signature.bind(module, *args, **kwargs)
    _, *names = bound.arguments
    given = {name: bound.arguments[name] for name in names}
    return given | given.pop("kwargs", {})


def cache_with_state(
    mixer: nn.Module, given: Mapping[str, Any], own_name: str | None = None
) -> str | None:
    """The argument that holds the state of earlier tokens of this mixer, or None: this is no cached step.

    Args:
        mixer: The mixer.
        given: The arguments of its call.
        own_name: What its family calls a cache, where that is no usual name.
    """
    for name in (*_CACHES, own_name):
        if name is not None and given.get(name) is not None and _holds_state(given[name], mixer):
            return name
    return None


def _holds_state(cache: Any, mixer: nn.Module) -> bool:
    if hasattr(cache, "seqlen_offset"):  # mamba_ssm's InferenceParams
        return cache.seqlen_offset > 0
    for of_layer in (
        ("layer_idx",),
        (),
    ):  # older caches are asked as a whole, or have no such question
        try:
            return bool(cache.has_previous_state(*(getattr(mixer, name) for name in of_layer)))
        except (TypeError, ValueError, AttributeError):
            continue
    length = getattr(cache, "get_seq_length", None)
    return length is None or length() > 0  # a cache that cannot say what it holds counts as full
