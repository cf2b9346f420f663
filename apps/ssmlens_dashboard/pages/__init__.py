"""The pages, a file each: whatever module here has a `PAGE` is in the navigation."""

import importlib
import pkgutil

from ssmlens_dashboard.page import Page


def pages() -> list[Page]:
    """All pages, in the order of the navigation."""
    modules = (
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    )
    return sorted((m.PAGE for m in modules if hasattr(m, "PAGE")), key=lambda page: page.order)
