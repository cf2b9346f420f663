"""Models to look into: their mixers, their projections, and how they are found and loaded.

`build_mixer` is imported when it is asked for, so that listing the shipped models needs no torch.
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
