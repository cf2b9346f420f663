"""Edits change what a layer computes. `ssmlens.editing` applies them. Each kind of edit is one file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
