"""The initialisations of mamba_ssm and transformers, for a model of any library."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.adapters.delta_shared import DeltaAdapter
from ssmlens.adapters.find import count_blocks
from ssmlens.errors import UsageError
from ssmlens.inits.init import Init, choose_mixers, generator, inits, is_norm, mark
from ssmlens.models.parameters import Number, draw_dt_bias

# From a parameter's shape, its fan-in and random numbers to its value.
Draw = Callable[[torch.Size, int, torch.Generator], Tensor]
# Weights that write into the residual stream.
_RESIDUAL = ("out_proj.weight", "fc2.weight")


def _constant(value: float) -> Draw:
    return lambda shape, fan_in, numbers: torch.full(shape, value)


def _normal(std: Number) -> Draw:
    return lambda shape, fan_in, numbers: std * torch.randn(shape, generator=numbers)


def _uniform(shape: torch.Size, fan_in: int, numbers: torch.Generator) -> Tensor:
    """Draw U(±1/√fan_in): torch's default for linear layers and convolutions, kaiming_uniform with a = √5."""
    return (2 * torch.rand(shape, generator=numbers) - 1) * fan_in**-0.5


def _dt_bias(shape: torch.Size, fan_in: int, numbers: torch.Generator) -> Tensor:
    """softplus⁻¹ of log-uniform steps in [.001, .1]."""
    return draw_dt_bias(shape[0], 1e-3, 0.1, 1e-4, {"generator": numbers})


def _log_n(shape: torch.Size, fan_in: int, numbers: torch.Generator) -> Tensor:
    """log n for n = 1 .. states in each row (Mamba-1), or n = 1 .. heads (transformers' Mamba-2)."""
    return torch.arange(1, shape[-1] + 1).log().expand(shape)


def _log_uniform_16(shape: torch.Size, fan_in: int, numbers: torch.Generator) -> Tensor:
    return (1 + 15 * torch.rand(shape, generator=numbers)).log()


class _Redraw(Init):
    """An init that draws every parameter of a model again, in the order of their names."""

    def apply_(self, model: nn.Module, seed: int = 0) -> None:
        """See `Init.apply_`. Raises UsageError, naming the parameter, if the library has no draw for it."""
        numbers = generator(seed)
        sites = choose_mixers(model)
        for site in sites:
            if isinstance(site.adapter, DeltaAdapter):
                raise UsageError(
                    f"layer {site.layer} is {site.adapter.family}, which cannot be drawn: inits know "
                    "the mixers of Mamba-1 and Mamba-2; build a new model with its own library"
                )
        mixers = [site.module for site in sites]
        draws = self.draws(math.sqrt(count_blocks(model, sites)))
        draws_of: list[tuple[Tensor, Draw, int]] = []
        for name, parameter in model.named_parameters():
            owner = model.get_submodule(name.rpartition(".")[0])
            kind = _kind(name, parameter, owner, owner in mixers)
            if kind not in draws:
                raise UsageError(
                    f"{name} (in {type(owner).__name__}) cannot be drawn: inits know embeddings, "
                    "linear layers, convolutions, norms and the mixers of Mamba-1 and Mamba-2"
                )
            fan_in = getattr(owner, "weight", parameter)[0].numel()
            draws_of.append((parameter, draws[kind], fan_in))
        with torch.no_grad():
            for parameter, draw, fan_in in draws_of:
                parameter.copy_(draw(parameter.shape, fan_in, numbers))
        for site in sites:
            mark(site, None)

    @abstractmethod
    def draws(self, depth: float) -> dict[str, Draw]:
        """Return a draw for each kind of parameter; `depth` is the square root of the number of residual branches."""


@inits.register("mamba-ssm")
@dataclasses.dataclass(frozen=True)
class MambaSsm(_Redraw):
    """The initialisation of mamba_ssm's language model, with its mixers' default arguments.

    Linear weights and convolutions (bias included) U(±1/√fan_in), embeddings N(0, .02), A_log = log n in Mamba-1 and
    log U(1, 16) in Mamba-2, softplus(dt_bias) log-uniform in [.001, .1], dt_proj U(±1/√dt_rank), D and norms 1, other
    biases 0; out_proj and fc2 divided by √(residual branches). A new `MambaLM` has this initialisation.
    """

    @classmethod
    def arm(cls, name: str, values: Mapping[str, Any]) -> str:
        """See `Init.arm`: "default", the arm that others are compared with."""
        return "default"

    def draws(self, depth: float) -> dict[str, Draw]:
        """See `_Redraw.draws`."""
        return _COMMON | {
            "embedding": _normal(0.02),
            "linear": _uniform,
            "residual": lambda *arguments: _uniform(*arguments) / depth,
            "conv bias": _uniform,
            "A_log of Mamba-2": _log_uniform_16,
        }


@inits.register("transformers")
@dataclasses.dataclass(frozen=True)
class Transformers(_Redraw):
    """The initialisation of transformers' MambaForCausalLM and Mamba2ForCausalLM.

    Like mamba_ssm's, but linear weights and embeddings N(0, std), convolution biases 0, A_log = log(1 .. heads) in
    Mamba-2, and out_proj not scaled down with depth.

    Attributes:
        std: Standard deviation, the configuration's `initializer_range`.
    """

    std: Number = 0.1

    def draws(self, depth: float) -> dict[str, Draw]:
        """See `_Redraw.draws`."""
        return _COMMON | {
            "embedding": _normal(self.std),
            "linear": _normal(self.std),
            "residual": _uniform,
            "conv bias": _constant(0.0),
            "A_log of Mamba-2": _log_n,
        }


_COMMON: dict[str, Draw] = {
    "one": _constant(1.0),
    "zero": _constant(0.0),
    "conv": _uniform,
    "dt_proj": _uniform,
    "dt bias": _dt_bias,
    "A_log of Mamba-1": _log_n,
}


def _kind(name: str, parameter: Tensor, owner: nn.Module, is_mixer: bool) -> str | None:
    """Return the kind of a parameter, a key of `draws`; None for an unknown kind."""
    leaf = name.rpartition(".")[2]
    if is_mixer:
        kinds = {"A_log": f"A_log of Mamba-{3 - parameter.ndim}", "D": "one", "dt_bias": "dt bias"}
        return kinds.get(leaf)
    if isinstance(owner, nn.Embedding):
        return "embedding"
    if is_norm(owner):
        return "one" if leaf == "weight" else "zero"
    if isinstance(owner, nn.Conv1d):
        return "conv" if leaf == "weight" else "conv bias"
    if not isinstance(owner, nn.Linear):
        return None
    if name.endswith(("dt_proj.weight", "dt_proj.bias")):
        return "dt_proj" if leaf == "weight" else "dt bias"
    if leaf == "bias":
        return "zero"
    return "residual" if name.endswith(_RESIDUAL) else "linear"
