"""The view as an address: page, capture, layer, prompt, ... to a URL and back.

The URL is the only state of the dashboard: controls write it, pages read it. To add a field, add one line to `Address`
with a function that reads it and raises ValueError on an invalid value.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode

from ssmlens.plot.scales import SCALES, Scale
from ssmlens.plot.selection import HEAD_ORDERS, KINDS, HeadOrder, Kind, Region
from ssmlens.runs.measures import DEFAULT, LOSS

Limits = Literal["shared", "own"]
LIMITS: tuple[Limits, ...] = ("shared", "own")
ThemeName = Literal["light", "dark"]
LONGEST = 4096
"""Most characters of a query string that are read."""

_ID = re.compile(r"[0-9a-f]{10}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RATE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,18})?(e-?[0-9]{1,2})?")


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer of a capture on one prompt, one side of a comparison: "0123456789.3.0"."""

    capture: str
    layer: int
    prompt: int

    def __str__(self) -> str:
        return f"{self.capture}.{self.layer}.{self.prompt}"


def _matching(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match


def _identifier(text: str) -> str:
    return _matching(_ID, text)[0]


def _identifiers(text: str) -> tuple[str, ...]:
    return tuple(map(_identifier, text.split("~")))


def _number(text: str) -> int:
    return int(_matching(_NUMBER, text)[0])


def _rate(text: str) -> float:
    return float(_matching(_RATE, text)[0])


def _name(text: str) -> str:
    return _matching(_NAME, text)[0]


def _measure(text: str) -> str:
    if text == LOSS:  # it has its own figure
        raise ValueError(text)
    return _name(text)


def can_be_named(name: str) -> bool:
    """Whether an address can carry this name of a measure or a score."""
    return _NAME.fullmatch(name) is not None


def _places(text: str) -> tuple[Place, ...]:
    places = []
    for part in text.split("~"):
        capture, layer, prompt = part.split(".")
        places.append(Place(_identifier(capture), _number(layer), _number(prompt)))
    return tuple(places)


def _one_of(*values: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in values:
            raise ValueError(text)
        return text

    return read


@dataclasses.dataclass(frozen=True)
class Address:
    """The state of the view. Each field has the name of its query parameter.

    Attributes:
        page: A page's name, the URL's path.
        capture: Id of a capture (`library`); None: the first one.
        layer: Number of the layer; None: the first captured.
        prompt: Number of a prompt.
        view: The matrix drawn: "map", "mask", "erase", "channel" (one head's M), "softmax".
        channel: The head to draw M of.
        scale: Colour scale.
        zoom: The rectangle drawn; None: all.
        query: The token whose row colours the text; None: the last.
        sort: Order of the heads on Signals: by number, mean step or median half-life.
        group: The group shown on Weights (its W_B and W_C).
        by: The score that orders the layers; None: the default order.
        against: The places that Compare shows beside the first.
        limits: Colour limits on Compare: "shared" by all panels, or each panel's "own".
        runs: Ids of training runs or of their folders; empty: the folder last written to.
        measure: The measure that Runs shows beside the loss, such as the share of correct strings.
        length: The evaluation length that Runs compares at; None: the longest trained on.
        rate: The learning rate of the curves on Runs; None: the best rate of each arm.
        attribution: Id of an attribution (`library`); None: the first one.
        theme: "light" or "dark".
    """

    page: str = "layers"
    capture: str | None = field(default=None, metadata={"read": _identifier})
    layer: int | None = field(default=None, metadata={"read": _number})
    prompt: int = field(default=0, metadata={"read": _number})
    view: Kind = field(default="map", metadata={"read": _one_of(*KINDS)})
    channel: int = field(default=0, metadata={"read": _number})
    scale: Scale = field(default="linear", metadata={"read": _one_of(*SCALES)})
    zoom: Region | None = field(default=None, metadata={"read": Region.parse})
    query: int | None = field(default=None, metadata={"read": _number})
    sort: HeadOrder = field(default="index", metadata={"read": _one_of(*HEAD_ORDERS)})
    group: int = field(default=0, metadata={"read": _number})
    by: str | None = field(default=None, metadata={"read": _name})
    against: tuple[Place, ...] = field(default=(), metadata={"read": _places})
    limits: Limits = field(default="shared", metadata={"read": _one_of(*LIMITS)})
    runs: tuple[str, ...] = field(default=(), metadata={"read": _identifiers})
    measure: str = field(default=DEFAULT, metadata={"read": _measure})
    length: int | None = field(default=None, metadata={"read": _number})
    rate: float | None = field(default=None, metadata={"read": _rate})
    attribution: str | None = field(default=None, metadata={"read": _identifier})
    theme: ThemeName = field(default="light", metadata={"read": _one_of("light", "dark")})

    def replace(self, **changes: Any) -> "Address":
        """Return this address with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def search(self) -> str:
        """The query string, "?capture=…&layer=3" or "": only the fields that differ from the defaults."""
        written = {
            name: _written(getattr(self, name))
            for name, parameter in _PARAMETERS.items()
            if getattr(self, name) != parameter.default
        }
        return f"?{urlencode(written, safe='~,', quote_via=quote)}" if written else ""

    @property
    def href(self) -> str:
        """The address as a link within the dashboard."""
        return f"/{self.page}{self.search}"


_PARAMETERS = {f.name: f for f in dataclasses.fields(Address) if "read" in f.metadata}


def defaults() -> dict[str, str | None]:
    """The default of each parameter, as text; None where it depends on the capture."""
    values = {name: parameter.default for name, parameter in _PARAMETERS.items()}
    return {
        name: None if value in (None, ()) else _written(value) for name, value in values.items()
    }


def parse(
    pathname: str | None, search: str | None, pages: tuple[str, ...]
) -> tuple[Address, tuple[str, ...]]:
    """Read the address from a URL. An invalid value falls back to its default.

    Args:
        pathname: The URL's path; its first part is a page's name.
        search: The URL's query string, with or without "?".
        pages: Names of all pages; the first is the default.

    Returns:
        The address, and one line for each part that was ignored.
    """
    notes = []
    page = (pathname or "").strip("/") or pages[0]
    if page not in pages:
        notes.append(f"there is no page of that name; the pages are {', '.join(pages)}")
        page = pages[0]
    if len((search or "").removeprefix("?")) > LONGEST:
        notes.append(f"the address is longer than {LONGEST} characters and was not read")
    fields: dict[str, Any] = {}
    for name, value in _parameters(search):
        try:
            fields[name] = _PARAMETERS[name].metadata["read"](value)
        except ValueError:
            notes.append(f"the address's {name} is invalid; the default is shown")
    return Address(page=page, **fields), tuple(notes)


def substitutes(search: str | None, shown: Address) -> dict[str, dict[str, str]]:
    """Map each parameter to the value in the URL and the one shown for it: {"layer": {"99": "0"}}."""
    values = ((name, value, getattr(shown, name)) for name, value in _parameters(search))
    return {
        name: {value: _written(actual)}
        for name, value, actual in values
        if actual is not None and _written(actual) != value
    }


def _parameters(search: str | None) -> list[tuple[str, str]]:
    """The known parameters of a query string, with their values as text."""
    text = (search or "").removeprefix("?")
    pairs = parse_qsl(text, errors="replace", max_num_fields=None) if len(text) <= LONGEST else []
    return [(name, value) for name, value in pairs if name in _PARAMETERS]


def _written(value: object) -> str:
    return (
        "~".join(map(str, value))
        if isinstance(value, tuple) and not isinstance(value, Region)
        else str(value)
    )
