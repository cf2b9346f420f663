"""Captures on disk: schema, writer, reader, integrity. Named arrays in and out; it knows no model.

Writing needs neither torch nor xarray, so the names below are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssmlens.store.header import CaptureHeader
    from ssmlens.store.integrity import verify
    from ssmlens.store.layer import Layer
    from ssmlens.store.packing import pack
    from ssmlens.store.reader import Capture, open_capture
    from ssmlens.store.writer import CaptureWriter

__all__ = [
    "Capture",
    "CaptureHeader",
    "CaptureWriter",
    "Layer",
    "open_capture",
    "pack",
    "verify",
]

_HOMES = {
    "Capture": "reader",
    "CaptureHeader": "header",
    "CaptureWriter": "writer",
    "Layer": "layer",
    "open_capture": "reader",
    "pack": "packing",
    "verify": "integrity",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
