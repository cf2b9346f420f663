"""Cards for notebooks: the HTML of a layer, a record or a capture, which `ssmlens.plot.cards` draws on demand."""

from collections.abc import Callable
from typing import Any

from ssmlens.errors import MissingExtraError
from ssmlens.registry import Registry

CARDS: Registry[Callable[[Any], str]] = Registry("card", "ssmlens.plot.cards")
"""Functions from an object to HTML, by class name. So figures may import files, but files do not import figures."""


class ShownInNotebooks:
    """Base class of objects that a notebook shows as a card."""

    def _repr_html_(self) -> str | None:
        try:
            return CARDS[type(self).__name__](self)
        except MissingExtraError:
            return None  # the notebook prints its repr
