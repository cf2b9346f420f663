"""Edit: one change of what a layer computes, at one stage. The registry of all kinds of edit."""

import dataclasses
import enum
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from ssmlens.edits.positions import Positions
from ssmlens.edits.selection import Selection
from ssmlens.errors import UsageError
from ssmlens.registry import Registry

MIXER, ATTENTION = "mixer", "attention"


class Stage(enum.IntEnum):
    """When an edit applies. Edits of one layer apply stage by stage, and within a stage in the order given."""

    RESIDUAL = 0
    """The residual stream before the block."""
    INPUT = 1
    """The mixer's input, after the block's norm."""
    OPERANDS = 2
    STATE = 3
    ENTRIES = 4
    """Entries of M, which is made of the edited operands."""
    SCAN_OUTPUT = 5
    """y = M x + D x, before gate and norm."""
    OUTPUT = 6
    """The mixer's output."""
    MLP = 7
    """The output of the block's MLP."""
    BLOCK = 8
    """What the whole block adds to the residual stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit(ABC):
    """One change of what a layer computes.

    Attributes:
        layer: Index of the block.
        part: The module of the block. "mixer": its mixer, or its attention if it has no mixer. "attention": its
            attention, in a block with both.
        kind: The edit's name on the command line and in JSON.
    """

    layer: int
    part: str = MIXER

    kind: ClassVar[str]

    @property
    @abstractmethod
    def stage(self) -> Stage:
        """When the edit applies."""

    def parts(self) -> "list[Edit]":
        """This edit as a list of edits of one stage each."""
        return [self]

    def check(self) -> None:  # noqa: B027
        """Raise UsageError if a field that only Python can set is missing, such as a recording."""

    @abstractmethod
    def tokens_named(self) -> list[tuple[Selection, str]]:
        """Its selections of tokens, each with a name for messages."""

    def check_tokens(self, positions: Positions) -> None:
        """Raise UsageError if a selected token is past the prompt."""
        for selection, name in self.tokens_named():
            try:
                positions.check(selection, name)
            except UsageError as error:
                raise UsageError(f"{self}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads.

        Raises:
            UsageError: A field is a tensor, a recording or a function.
        """
        data: dict[str, Any] = {"edit": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default if _plain(value) else value is field.default:
                continue
            if not _plain(value) and not isinstance(value, Selection):
                raise UsageError(f"{self}: its {field.name} has no form in JSON")
            data[field.name] = str(value) if isinstance(value, Selection) else value
        return data

    def __str__(self) -> str:
        words = [self.kind]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if _plain(value) and value == field.default:
                continue
            if _plain(value) or isinstance(value, Selection):
                words.append(f"{field.name}={value}")
        return " ".join(words)


edits: Registry[type[Edit]] = Registry("edit", "ssmlens.edits")


Kind = TypeVar("Kind", bound=type[Edit])


def register(edit: Kind) -> Kind:
    """Class decorator: register a kind of edit under its name."""
    return edits.register(edit.kind)(edit)


def from_json(data: Mapping[str, Any]) -> Edit:
    """Make an edit from plain data: `{"edit": "knock-out", "layer": 17, "queries": "64:", "keys": "0:64"}`.

    Raises:
        UsageError: No such edit, or one of its fields is missing, unknown or of the wrong type.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("edit"), str):
        raise UsageError('an edit is an object that names its "edit"')
    kind = edits[data["edit"]]
    given = {name: value for name, value in data.items() if name != "edit"}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in given:
        if name not in fields:
            raise UsageError(f"a {kind.kind} edit has no {name!r}; it has: {', '.join(fields)}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise UsageError(f"a {kind.kind} edit needs {name}=…")
    for name, value in given.items():
        if not _fits(value, fields[name].type) or (name == "layer" and isinstance(value, bool)):
            raise UsageError(f"{name}={value!r} does not fit: see the {name} of {kind.__name__}")
    return kind(**given)


def from_text(text: str) -> Edit:
    """Make an edit from the command line's text: `knock-out layer=17 queries=64: keys=0:64`.

    Raises:
        UsageError: As `from_json`.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}") from None
    if not words:
        raise UsageError("an edit begins with its kind, such as knock-out layer=17")
    kind, *words = words
    data: dict[str, Any] = {"edit": kind}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is no name=value, such as layer=17")
        data[name.replace("-", "_")] = _value(value)
    return from_json(data)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value has the type of its field. True for types that isinstance cannot check."""
    try:
        return isinstance(value, annotation)
    except TypeError:
        return True


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _value(text: str) -> Any:
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
