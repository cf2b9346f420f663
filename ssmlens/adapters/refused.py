"""Mixers that are known here and cannot be read, with the reason: told wherever such a model or block is refused."""

from torch import nn

_REASONS = {
    "fla.layers.rwkv7.RWKV7Attention": (
        "RWKV-7 takes back by one key what it wrote by another, and takes it from the state before its decay; a delta "
        "rule here has one key for both, and decays first"
    ),
}


def why_refused(module: nn.Module) -> str | None:
    """Why a mixer inside this module, or the module itself, cannot be read; None: there is none that is known."""
    for inside in module.modules():
        for cls in type(inside).__mro__:
            reason = _REASONS.get(f"{cls.__module__}.{cls.__qualname__}")
            if reason is not None:
                return f"{cls.__qualname__} is refused: {reason}"
    return None
