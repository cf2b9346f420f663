"""Which submodules of a mixer are called, and of which only the weights are read: one rule for every family.

For a plain layer it is enough to multiply by its weight. A layer that carries hooks or is not a plain module (a peft
adapter, a quantised layer) is called, or its extra computation would be lost. But a fused forward reads some weights
and never calls their modules; a hook there has no effect in the model either. `note_call` records whether a forward
called a submodule.
"""

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_PLAIN_FORWARDS = {c.forward for c in (nn.Linear, nn.Conv1d)}

# Submodules that the last forward of their mixer did not call.
_never_called: WeakSet[nn.Module] = WeakSet()


def has_hooks(module: nn.Module) -> bool:
    """Whether calling this module runs somebody's hooks (torch's global ones too), or a forward set on the instance."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        or torch_module._has_any_global_hook()
    )


def is_plain(module: nn.Module) -> bool:
    """Whether calling this layer computes the same as its weights alone.

    Linear layers and convolutions must have torch's own forward. Of norms, which every library has its own of, and of
    flash-linear-attention's convolution only hooks and wrappers count.
    """
    if has_hooks(module) or "base_layer" in module._modules:  # peft's wrappers have one
        return False
    if type(module).forward in _PLAIN_FORWARDS:
        return True
    name = type(module).__name__
    return isinstance(module, nn.Identity) or "Norm" in name or name == "ShortConvolution"


def called(mixer: Any, **names: str) -> dict[str, Callable[..., Any]]:
    """The submodules that must be called, by the keywords of their names.

        called(mixer, out_proj="out_proj", norm="o_norm")

    Names may be dotted ("forget_gate.f_proj"); names without a submodule are skipped.
    """
    found = {}
    for word, name in names.items():
        module = mixer
        for part in name.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.Module) and not is_plain(module) and module not in _never_called:
            found[word] = module
    return found


def hooked_layers(mixer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every layer inside a mixer that has a weight and is not plain, with its name; do not descend into it."""
    for name, child in mixer.named_children():
        if not hasattr(child, "weight"):
            inside = hooked_layers(child)
            yield from ((f"{name}.{deeper}", module) for deeper, module in inside)
        elif not is_plain(child):
            yield name, child


def note_call(module: nn.Module, was_called: bool) -> None:
    """Record whether a forward of its mixer called this submodule. The last record counts."""
    (_never_called.discard if was_called else _never_called.add)(module)


def linear(
    x: Float[Tensor, "*axes input"],
    weight: Float[Tensor, "output input"],
    bias: Float[Tensor, "output"] | None = None,
    call: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "*axes output"]:
    """Apply a linear layer: by its weight, or by `call` if it must be called."""
    return F.linear(x, weight, bias) if call is None else call(x)
