"""The fields of a training config as options of a command, a group of the help page for each part of the config.

A page lists what every task and init has, the options of those that are chosen, and those of others by name:
`ssmlens train --task ngram --init mimetic --help` says what theirs are for.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from ssmlens.options import flag
from ssmlens.training.config import PARTS, TrainConfig


def config_of(command: Any) -> TrainConfig:
    """The config that a command's options make."""
    values = {
        field.name: getattr(getattr(command, part), field.name)
        for part in PARTS
        for field in dataclasses.fields(getattr(command, part))
    }
    return TrainConfig(**values)


def help_page(command: type, words: Sequence[str]) -> type:
    """The command as its help page shows it: options of tasks and inits that are not chosen by name alone."""
    chosen = {name: _after(flag(name), words) for name in _registries()}
    parts = {name: _part(name, chosen) for name in PARTS}
    fields = [(name, part, _made_by(part)) for name, part in parts.items()]
    page = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    page.__doc__ = command.__doc__
    return page


def _registries() -> Mapping[str, Any]:
    from ssmlens.inits.init import inits
    from ssmlens.tasks.task import tasks

    return {"task": tasks, "init": inits}


def _after(option: str, words: Sequence[str]) -> str | None:
    """The value of an option in the words; None where it is not given."""
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return value
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def _part(name: str, chosen: Mapping[str, str | None]) -> type:
    """A part of the config with the options that the page shows."""
    from ssmlens.training.gather import attribute_docs

    docs, others = dict(attribute_docs(PARTS[name])), ""
    fields = {field.name: field for field in dataclasses.fields(PARTS[name])}
    if name in chosen:
        registry = _registries()[name]
        entry = chosen[name] if chosen[name] in registry else fields[name].default
        own, elsewhere = _split(registry, entry)
        hidden = {option for options in elsewhere.values() for option in options}
        fields = {option: field for option, field in fields.items() if option not in hidden}
        docs = own | docs | {name: f"{docs[name].rstrip('.')}: {', '.join(registry)}."}
        lists = [f"{it}: {' '.join(map(flag, options))}" for it, options in elsewhere.items()]
        others = f"\n\nOptions of others, see {flag(name)} NAME --help. {'; '.join(lists)}"
    made = dataclasses.make_dataclass(
        f"{name.capitalize()}Options",
        [_field(f, docs[f.name]) for f in fields.values()],
        frozen=True,
    )
    made.__doc__ = PARTS[name].__doc__.splitlines()[0] + others
    return made


def _split(registry: Any, entry: Any) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What an entry says of its options, and the options that only others have, by entry."""
    from ssmlens.training.gather import option_docs

    docs = {it: option_docs(registry[it]) for it in registry}
    elsewhere = {it: [option for option in docs[it] if option not in docs[entry]] for it in docs}
    return docs[entry], {it: options for it, options in elsewhere.items() if options}


def _field(field: dataclasses.Field[Any], told: str) -> tuple[str, Any, Any]:
    empty = any(field.default is value for value in (None, (), "", False))
    about: dict[str, Any] = {"help": _for_the_page(told)}
    about["help_behavior_hint"] = "" if empty else f"(default: {field.default})"
    if (metavar := _metavar(field.type)) is not None:
        about["metavar"] = metavar
    default = dataclasses.field(default=field.default)
    return field.name, Annotated[field.type, tyro.conf.arg(**about)], default


def _for_the_page(told: str) -> str:
    """What a docstring says of an option, in the words of the command line."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}

    def named(found: re.Match[str]) -> str:
        return flag(found[1]) if found[1] in fields else found[0]

    words = told.replace("; None:", "; left out:").replace("None:", "Left out:")
    return re.sub(r"`(\w+)`", named, words)


def _metavar(kind: Any) -> str | None:
    """What the page shows for a value of this type; None: as tyro has it."""
    kinds = [part for part in get_args(kind) if part is not type(None)]
    if kind is bool or bool in kinds or get_origin(kind) is Literal:
        return None
    if get_origin(kind) is tuple:
        return (
            f"{_metavar(kinds[0])} ..."
            if kinds[-1] is ...
            else " ".join(map(str, map(_metavar, kinds)))
        )
    if float in kinds:
        return "NUMBER"
    if len(kinds) == 1:
        return _metavar(kinds[0])
    return {int: "INT", str: "NAME", float: "NUMBER"}.get(kind)


def _made_by(part: type) -> Any:
    return dataclasses.field(default_factory=part)


ConfigCommand: Any = dataclasses.make_dataclass(
    "ConfigCommand",
    [(name, part, _made_by(part)) for name, part in PARTS.items()],
    namespace={"help_page": classmethod(help_page)},
    frozen=True,
)
"""A command with an option for every field of a training config: derive from it, and see `config_of`."""
