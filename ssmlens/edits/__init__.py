"""Edits: what a layer computes, changed. `ssmlens.editing` carries them out; a kind of edit is one file."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssmlens.edits.ablate import Ablate as Ablate
    from ssmlens.edits.add import Add as Add
    from ssmlens.edits.apply import Apply as Apply
    from ssmlens.edits.knock_out import KnockOut as KnockOut
    from ssmlens.edits.scale import Scale as Scale
    from ssmlens.edits.set import Set as Set
    from ssmlens.edits.swap import Swap as Swap

__all__ = ["Ablate", "Add", "Apply", "KnockOut", "Scale", "Set", "Swap"]

_KINDS = {
    "Ablate": "ablate",
    "Add": "add",
    "Apply": "apply",
    "KnockOut": "knock_out",
    "Scale": "scale",
    "Set": "set",
    "Swap": "swap",
}


def __getattr__(name: str) -> object:
    if name not in _KINDS:
        raise AttributeError(f"module 'ssmlens.edits' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ssmlens.edits.{_KINDS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_KINDS})
