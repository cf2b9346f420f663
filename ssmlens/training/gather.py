"""Parts of a config that grow with a registry: a field for every option that a task or an init declares."""

import dataclasses
import types
from collections.abc import Collection, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse

from ssmlens.options import option, option_of


def with_options(own: type, entries: Mapping[str, type], elsewhere: Collection[str] = ()) -> Any:
    """The part `own` with one more field for every option of some tasks or inits that it has not.

    Options named in `elsewhere` are fields of another part.

    An option that a config leaves open is the entry's own default: the field's type has None, and its default is None;
    () for a tuple of any length, and the entry's own default for a bool.
    """
    fields: dict[str, tuple[str, Any, Any]] = {}
    there = {field.name for field in dataclasses.fields(own)} | set(elsewhere)
    for entry in entries.values():
        kinds = get_type_hints(entry)
        declared = {field.name: field for field in dataclasses.fields(entry)}
        for field_name, name in options_of(entry).items():
            field = declared[field_name]
            kind = option_of(field).kind or kinds[field_name]
            if name not in fields and name not in there:
                fields[name] = (name, *_left_open(kind, field.default, option_of(field).was))
    part = dataclasses.make_dataclass(
        own.__name__, fields.values(), bases=(own,), frozen=True, kw_only=True
    )
    part.__doc__, part.__module__ = own.__doc__, own.__module__
    return part


def options_of(entry: type) -> dict[str, str]:
    """An entry's fields that a config sets, and what the config calls each."""
    told = {field.name: option_of(field) for field in dataclasses.fields(entry)}
    return {name: option.name or name for name, option in told.items() if option.offered}


def attribute_docs(described: type) -> Mapping[str, str]:
    """What the `Attributes` of a class and of those it derives from say of its fields, each in one line."""
    docs: dict[str, str] = {}
    for base in reversed(described.__mro__):
        for told in parse(base.__doc__ or "").params:
            docs[told.arg_name] = " ".join((told.description or "").split())
    return docs


def option_docs(entry: type) -> dict[str, str]:
    """What an entry says of its options, by their names in a config."""
    docs = attribute_docs(entry)
    return {name: docs.get(field, "") for field, name in options_of(entry).items()}


def _left_open(kind: Any, default: Any, was: str | None) -> tuple[Any, Any]:
    """The type and default of an option that a config may leave to the entry."""
    if kind is bool:
        return bool, option(default, was=was)
    union = get_origin(kind) in (Union, types.UnionType)
    given = [part for part in get_args(kind) if part is not type(None)] if union else [kind]
    if len(given) == 1 and get_origin(given[0]) is tuple and get_args(given[0])[-1] is ...:
        return given[0], option((), was=was)
    return kind | None, option(None, was=was)
