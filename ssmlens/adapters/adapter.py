"""The interface of an adapter, and the registry of adapters."""

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

# Names of mixers' arguments: the starts of packed sequences, and the cache.
_PACKING_ARGUMENTS = (
    "seqlen",
    "seq_idx",
    "cu_seqlens",
    "cu_seq_lens",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
)
_CACHE_ARGUMENTS = ("inference_params", "cache_params", "past_key_values", "past_key_value")


@dataclasses.dataclass(frozen=True)
class MixerInput:
    """The input of a mixer's call, with the same field names for every library.

    Attributes:
        hidden: The mixer's input, after the block's norm.
        token_mask: 1 at real tokens and 0 at padding, or None.
        weights: The softmax weights, if attention returned them.
        positions: Position of each token in its prompt, for families that reset their state at 0. None: in order.
    """

    hidden: Float[Tensor, "batch token d_model"]
    token_mask: Tensor | None = None
    weights: Float[Tensor, "batch head query key"] | None = None
    positions: Int[Tensor, "batch token"] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "MixerInput":
        """Return a copy with `function` applied to every tensor."""
        optional = (self.token_mask, self.weights, self.positions)
        return MixerInput(
            function(self.hidden),
            *(None if tensor is None else function(tensor) for tensor in optional),
        )


class CallRefusedError(Exception):
    """A module's output cannot be recorded; the message says why."""


class Adapter(ABC):
    """How one family's mixer computes: hidden states → operands → scan output → mixer output.

    `project` and `finish` must compute what the mixer computes, from its own weights. Closure (`recorder/closure.py`)
    and the contract tests (`tests/contracts`) check this.

    Attributes:
        family: Library and class, for messages: "transformers MambaMixer".
        mixers: Module path and class name of every mixer it reads. A bare class name could match another library.
        block_kind: Kind of a block with this mixer (`names.BLOCK_KINDS`).
        masks_padding: Whether it hides padding on the left from later tokens, if the model gets a mask.
        tf32_kernels: Whether the family's CUDA kernels multiply float32 in TF32. Their closure is less exact.
        fresh_A_log: Range from which the library draws A_log. None: it is log n, as in Mamba-1.
        fresh_norms: Initial values of the library's norm weights.
        looks_ahead: Whether its mixers read later tokens. Padding must then be masked: its models take
            `attention_mask`, 1 at real tokens.
        cache_argument: Name of the mixer's argument for the state of earlier tokens, which its model's `generate`
            passes. None: its models run without a cache.
        model_type: The `model_type` in config.json of the models that `load` builds. None: it builds none.
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
        """Build the model in a folder whose config.json has this `model_type`; `model(input_ids)` returns its logits.

        If the model has no `tokenizer`, `load_model` reads the folder's.

        Args:
            folder: Contains config.json and the other files of the family. Code in it must not be run.
            config: Content of config.json.
        """
        raise NotImplementedError(f"{type(self).__name__} has a model_type and no `load`")

    def read_input(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> MixerInput:
        """Read the mixer's input from the arguments of its call."""
        given = arguments(mixer, args, kwargs)
        hidden = given[next(iter(given))]
        return MixerInput(hidden, given.get("attention_mask"))

    def refusal(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
        """Return why this call cannot be recorded (a cached step, packed sequences), or None.

        A mixer that starts from a state computes more than M x of this call's tokens.
        """
        given = arguments(mixer, args, kwargs)
        for name in _PACKING_ARGUMENTS:
            if given.get(name) is not None:
                return f"packed sequences ({name}) are not recorded; pass one sequence per row"
        name = self.cached_by(mixer, given)
        return name and f"a cached step ({name}) is not recorded; record the prefill"

    def cached_by(self, mixer: nn.Module, given: Mapping[str, Any]) -> str | None:
        """Return the argument, of the mixer's call or its model's, that makes it a cached step; None if it is none."""
        return cache_with_state(mixer, given, self.cache_argument)

    def read_output(
        self, mixer: nn.Module, given: MixerInput, output: Any
    ) -> tuple[MixerInput, Tensor]:
        """Return the input, completed from the output (softmax weights), and the output's tensor.

        Raises:
            CallRefusedError: The output shows that this call cannot be recorded.
        """
        return given, output[0] if isinstance(output, tuple) else output

    def unreadable(self, mixer: nn.Module) -> str | None:
        """Describe the mixer if the model's settings hide its operands ("softmax attention, whose …"), else None."""
        return None

    def unclosable(self, mixer: nn.Module) -> str | None:
        """Return why the mixer's output cannot be recomputed from its operands, or None."""
        return None

    def needs_weights(self, mixer: nn.Module) -> bool:
        """Whether `project` uses the mixer's weights."""
        return True

    @abstractmethod
    def project(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """Compute the operands of the mixer's scan for this input, with x, D and gate."""

    def project_fast(self, mixer: nn.Module, given: MixerInput) -> Operator:
        """Compute the same operands, up to rounding, as fast as possible: for edits. Default: `project`.

        Recordings use `project`, and so do edits that insert recorded values. A subclass that overrides one of the
        two must override the other.
        """
        return self.project(mixer, given)

    @abstractmethod
    def finish(
        self,
        mixer: nn.Module,
        y: Float[Tensor, "batch token head headdim"],
        operands: Operator,
    ) -> Float[Tensor, "batch token d_model"]:
        """Compute the mixer's output from its scan's output `y` (with D x added): gate, norm, out_proj."""

    def out_projection(self, mixer: Any) -> Any:
        """Return the mixer's last layer, or None if there is none. Its last columns multiply y's channels."""
        return getattr(mixer, "out_proj", getattr(mixer, "o_proj", None))

    @abstractmethod
    def weights(self, mixer: nn.Module) -> WeightViews:
        """Return named views of the mixer's weights; they share its memory."""

    @abstractmethod
    def tiny_model(self) -> nn.Module:
        """Build a small random model for the contract tests: `model(input_ids)`, ids 0..31, at least 2 blocks."""

    def settings(self, mixer: nn.Module) -> dict[str, Any]:
        """Return the settings that change what the weights mean; a transplant needs equal ones. Default: {}."""
        return {}

    def slow_decay(
        self, mixer: nn.Module, c: Number, w_delta_scale: Number
    ) -> dict[str, list[tuple[Tensor, Tensor]]] | None:
        """Return the weights that `mimetic_` sets for "A" and "delta", each with its value. None: as in Mamba."""
        return None


adapters: Registry[Adapter] = Registry("adapter", "ssmlens.adapters")


def register(adapter_class: type[Adapter]) -> type[Adapter]:
    """Class decorator: register an adapter under the path of every mixer it reads."""
    adapter = adapter_class()
    for path in adapter.mixers:
        adapters.register(path)(adapter)
    return adapter_class


def own_forward(mixer: nn.Module) -> Callable[..., Any]:
    """Return the mixer's forward without decorators, also without one that hides it (transformers 5.14 has one)."""
    return _undecorated(type(mixer).forward)


@functools.lru_cache(maxsize=256)  # bounded, since classes may be created at run time
def _undecorated(decorated: Callable[..., Any]) -> Callable[..., Any]:
    forward = inspect.unwrap(decorated)
    captured = [cell.cell_contents for cell in forward.__closure__ or ()]
    wrapped = [f for f in captured if inspect.isfunction(f) and f.__name__ == "forward"]
    return wrapped[0] if wrapped else forward


@functools.lru_cache(maxsize=256)
def _signature(forward: Callable[..., Any]) -> tuple[inspect.Signature, tuple[str, ...]]:
    """Return a forward's signature and the names of its positional parameters, `self` first."""
    signature = inspect.signature(forward)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in signature.parameters.items() if p.kind in by_position]
    return signature, tuple(names)


def arguments(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a module's call by the parameter names of its own forward, in their order."""
    signature, names = _signature(own_forward(module))
    if args and not kwargs and len(args) < len(names):  # most calls; binding is slower
        return dict(zip(names[1:], args, strict=False))
    bound = signature.bind(module, *args, **kwargs)
    _, *names = bound.arguments
    given = {name: bound.arguments[name] for name in names}
    return given | given.pop("kwargs", {})


def cache_with_state(
    mixer: nn.Module, given: Mapping[str, Any], own_name: str | None = None
) -> str | None:
    """Return the argument that has the state of this mixer's earlier tokens; None if this is no cached step.

    Args:
        mixer: The mixer.
        given: The arguments of its call.
        own_name: The family's own name for a cache, beside the usual ones.
    """
    for name, value in given.items():
        is_cache = name in _CACHE_ARGUMENTS or name == own_name
        if is_cache and value is not None and _has_state(value, mixer):
            return name
    return None


def _has_state(cache: Any, mixer: nn.Module) -> bool:
    if hasattr(cache, "seqlen_offset"):  # mamba_ssm's InferenceParams
        return cache.seqlen_offset > 0
    # Older caches answer for all layers at once, or lack the method.
    for attributes in (("layer_idx",), ()):
        try:
            return bool(cache.has_previous_state(*(getattr(mixer, name) for name in attributes)))
        except (TypeError, ValueError, AttributeError):
            continue
    length = getattr(cache, "get_seq_length", None)
    return length is None or length() > 0  # a cache of unknown content counts as full
