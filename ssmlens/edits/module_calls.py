"""Calls of modules, whatever their signatures: the first argument is the hidden state, and so is the first output."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ssmlens.adapters.adapter import arguments, own_forward


def first_input(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> tuple[str, Tensor]:
    """The name and the value of a module's first argument."""
    given = arguments(module, args, kwargs)
    name = next(iter(given))
    return name, given[name]


def with_first_input(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], new: Tensor
) -> tuple[tuple, dict[str, Any]]:
    """The same call with another first argument."""
    name, _ = first_input(module, args, kwargs)
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, name: new})


def first_output(output: Any) -> Tensor:
    """The hidden state that a module puts out."""
    return output[0] if isinstance(output, tuple) else output


def with_first_output(output: Any, new: Tensor) -> Any:
    """The same output with another hidden state."""
    if not isinstance(output, tuple):
        return new
    rest = (new, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else rest


def hands_on_residual(block: nn.Module) -> bool:
    """Whether a block hands on the residual stream beside what it adds, as mamba_ssm's does."""
    return "residual" in own_forward(block).__code__.co_varnames[:4]
