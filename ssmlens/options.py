"""Options: fields of a dataclass that a training config has too, and what else there is to say of them.

A task, an init or a part of the config declares its options where it is defined, and nobody else lists them: the
config, the command line, names of arms and checks of bounds read them from here. What an option is for stands in the
`Attributes` of its class.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

_KEY = "option"


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field says of itself beside its type and default.

    Attributes:
        name: What a config calls it; None: as the field.
        kind: Its type in a config; None: the field's.
        offered: Whether a config has it at all.
        least: The least value that it may have.
        in_arm: What the name of an arm says of its value ("c=4"); None: nothing.
        was: What files of runs called it before it was renamed: they are read, and their folders found; None: this.
    """

    name: str | None = None
    kind: Any = None
    offered: bool = True
    least: float | int | None = None
    in_arm: Callable[[str, Any], str] | None = None
    was: str | None = None


def named_value(name: str, value: Any) -> str:
    """ "c=4": what an arm's name says of an option unless it says otherwise."""
    return f"{name}={value:g}" if isinstance(value, int | float) else f"{name}={value}"


def option(
    default: Any = dataclasses.MISSING,
    *,
    name: str | None = None,
    kind: Any = None,
    offered: bool = True,
    least: float | int | None = None,
    in_arm: Callable[[str, Any], str] | None = named_value,
    was: str | None = None,
) -> Any:
    """A dataclass field with what `Option` says; a field without is an option that says nothing more."""
    told = Option(name, kind, offered, least, in_arm, was)
    return dataclasses.field(default=default, metadata={_KEY: told})


def option_of(field: dataclasses.Field[Any]) -> Option:
    """What a field says of itself."""
    return field.metadata.get(_KEY, Option(in_arm=named_value))


def flag(name: str) -> str:
    """The option of the command line that sets a field of a config."""
    return f"--{name.replace('_', '-')}"
