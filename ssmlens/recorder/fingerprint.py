"""Have a module's weights changed since? Cheap enough for every layer of every forward."""

import torch
from torch import Tensor, nn

# Values of each weight that are kept along each axis: at least so many.
_VALUES = 8


class Fingerprint:
    """How a module's weights are recognised: where they lie, how often autograd saw a write, and a few values.

    Autograd does not count a write through `.data` (an average of weights, a hand-written optimiser). It shows in the
    values, unless it changes none of those that are kept.
    """

    def __init__(self, module: nn.Module):
        self._versions = _versions(module)
        self._values = [_some(p).clone() for p in module.parameters()]

    def matches(self, module: nn.Module) -> bool:
        """Whether the module's weights are the same as then."""
        return self._versions == _versions(module) and all(
            _same(_some(p), values)
            for p, values in zip(module.parameters(), self._values, strict=True)
        )


def _versions(module: nn.Module) -> list[tuple[int, int]]:
    return [(p.data_ptr(), -1 if p.is_inference() else p._version) for p in module.parameters()]


def _some(weight: Tensor) -> Tensor:
    """A grid of a weight's values: every n-th along each axis, `_VALUES` or more where there are."""
    steps = [slice(None, None, max(1, size // _VALUES)) for size in weight.shape]
    return weight.detach()[tuple(steps)]


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
