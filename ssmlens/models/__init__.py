"""Models: their mixers, their projections, and finding and loading them.

`build_mixer` is imported on first use, so that listing the shipped models needs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssmlens.models.mixers import build_mixer

__all__ = ["build_mixer"]


def __getattr__(name: str) -> object:
    if name != "build_mixer":
        raise AttributeError(f"module 'ssmlens.models' has no attribute {name!r}")
    from ssmlens.models.mixers import build_mixer

    return build_mixer
