"""Parts of a config that follow a registry: one field for every option that a task or an init declares."""

import dataclasses
import types
from collections.abc import Collection, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse

from ssmlens.options import option, option_of


def with_options(base: type, entries: Mapping[str, type], elsewhere: Collection[str] = ()) -> Any:
    """Extend the part `base` by a field for every option of the entries (tasks or inits) that it lacks.

    Options named in `elsewhere` are fields of another part.

    A field that a config leaves out takes the entry's default. To allow that, the field's type includes None and its
    default is None; a tuple of any length has the default (), and a bool has the entry's default.
    """
    fields: dict[str, tuple[str, Any, Any]] = {}
    present = {field.name for field in dataclasses.fields(base)} | set(elsewhere)
    for entry in entries.values():
        kinds = get_type_hints(entry)
        declared = {field.name: field for field in dataclasses.fields(entry)}
        for field_name, name in options_of(entry).items():
            field = declared[field_name]
            kind = option_of(field).kind or kinds[field_name]
            if name not in fields and name not in present:
                fields[name] = (name, *_left_open(kind, field.default, option_of(field).was))
    part = dataclasses.make_dataclass(
        base.__name__, fields.values(), bases=(base,), frozen=True, kw_only=True
    )
    part.__doc__, part.__module__ = base.__doc__, base.__module__
    return part


def options_of(entry: type) -> dict[str, str]:
    """Return an entry's fields that a config sets, each with its name in the config."""
    options = {field.name: option_of(field) for field in dataclasses.fields(entry)}
    return {name: option.name or name for name, option in options.items() if option.offered}


def attribute_docs(described: type) -> Mapping[str, str]:
    """Return the documentation of a class's fields, from its `Attributes` and those of its bases, each as one line."""
    docs: dict[str, str] = {}
    for base in reversed(described.__mro__):
        for parameter in parse(base.__doc__ or "").params:
            docs[parameter.arg_name] = " ".join((parameter.description or "").split())
    return docs


def option_docs(entry: type) -> dict[str, str]:
    """Return the documentation of an entry's options, by their names in a config."""
    docs = attribute_docs(entry)
    return {name: docs.get(field, "") for field, name in options_of(entry).items()}


def _left_open(kind: Any, default: Any, was: str | None) -> tuple[Any, Any]:
    """Return the type and default of an option that a config may leave out."""
    if kind is bool:
        return bool, option(default, was=was)
    union = get_origin(kind) in (Union, types.UnionType)
    kinds = [part for part in get_args(kind) if part is not type(None)] if union else [kind]
    if len(kinds) == 1 and get_origin(kinds[0]) is tuple and get_args(kinds[0])[-1] is ...:
        return kinds[0], option((), was=was)
    return kind | None, option(None, was=was)
