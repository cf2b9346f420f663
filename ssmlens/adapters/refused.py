"""Known mixers that cannot be read, each with the reason. Every message that refuses such a model quotes it."""

from torch import nn

_REASONS = {
    "fla.layers.rwkv7.RWKV7Attention": (
        "RWKV-7 erases with another key than it writes with, and before the state decays; the delta rule here has one "
        "key for both, and decays first"
    ),
}


def why_refused(module: nn.Module) -> str | None:
    """Return why this module, or a mixer inside it, cannot be read; None if no reason is known."""
    for part in module.modules():
        for cls in type(part).__mro__:
            reason = _REASONS.get(f"{cls.__module__}.{cls.__qualname__}")
            if reason is not None:
                return f"{cls.__qualname__} is refused: {reason}"
    return None
