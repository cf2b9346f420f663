"""Captures on disk: schema, writer, reader, integrity. Named arrays in and out; it knows no model.

Writing needs neither torch nor xarray, so the names of `__init__.pyi` are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
