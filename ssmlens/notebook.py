"""What a notebook shows of a layer, a record or a capture: a card, which `ssmlens.plot.cards` draws when asked."""

from collections.abc import Callable
from typing import Any

from ssmlens.errors import MissingExtraError
from ssmlens.registry import Registry

CARDS: Registry[Callable[[Any], str]] = Registry("card", "ssmlens.plot.cards")
"""A function from a thing to HTML, by the name of the thing's class: figures may know files, not files figures."""


class ShownInNotebooks:
    """A class whose objects a notebook shows as their card."""

    def _repr_html_(self) -> str | None:
        try:
            return CARDS[type(self).__name__](self)
        except MissingExtraError:
            return None  # the notebook prints its repr
