"""Options: dataclass fields that are also fields of a training config, with their metadata.

A task, an init or a part of the config declares its options in its own class. The config, the command line, names of
arms and checks of bounds read them from there. The `Attributes` section of the class describes each option.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

_KEY = "option"


@dataclasses.dataclass(frozen=True)
class Option:
    """The metadata of an option, beside its field's type and default.

    Attributes:
        name: Its name in a config; None: the field's name.
        kind: Its type in a config; None: the field's type.
        offered: Whether a config has it.
        least: Its smallest allowed value.
        in_arm: Formats its value in an arm's name ("c=4"); None: it is left out.
        was: Its name in files of runs before it was renamed, so that they can still be read; None: not renamed.
    """

    name: str | None = None
    kind: Any = None
    offered: bool = True
    least: float | int | None = None
    in_arm: Callable[[str, Any], str] | None = None
    was: str | None = None


def named_value(name: str, value: Any) -> str:
    """Format an option's value for an arm's name, such as "c=4": the default of `Option.in_arm`."""
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
    """A dataclass field with the metadata of `Option`. A plain field is an option with default metadata."""
    metadata = {_KEY: Option(name, kind, offered, least, in_arm, was)}
    return dataclasses.field(default=default, metadata=metadata)


def option_of(field: dataclasses.Field[Any]) -> Option:
    """The metadata of a field."""
    return field.metadata.get(_KEY, Option(in_arm=named_value))


def flag(name: str) -> str:
    """The command-line flag of a config's field."""
    return f"--{name.replace('_', '-')}"
