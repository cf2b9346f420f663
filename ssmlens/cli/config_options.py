"""The fields of a training config as options of a command.

The help has a group for each part of the config, and two pages. `--help` shows the options of a first run, and those
of the selected task and init: `ssmlens train --task ngram --init mimetic --help`. `--help-all` shows every option; it
lists those of other tasks and inits by name.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from ssmlens.cli.command import HELP_ALL
from ssmlens.options import flag
from ssmlens.training.config import PARTS, TrainConfig

FIRST_PAGE = ("task", "length", "mixer", "d_model", "n_layer", "init", "learning_rate", "steps")
"""Options of a config on the first page of help: those that a first run needs."""

_HINT = "--task NAME and --init NAME add options here. --help-all shows every option."


def config_of(command: Any) -> TrainConfig:
    """Build the config from a command's options."""
    values = {
        field.name: getattr(getattr(command, part), field.name)
        for part in PARTS
        for field in dataclasses.fields(getattr(command, part))
    }
    return TrainConfig(**values)


def help_page(command: Any, words: Sequence[str]) -> type:
    """Return the command for its help page: with every option for `--help-all`, else with those of a first run."""
    everything = HELP_ALL in words
    selected = {name: _after(flag(name), words) for name in _registries()}
    of_entries = {name: _options_of_entries(name, selected[name]) for name in selected}
    of_command = [field for field in dataclasses.fields(command) if field.name not in PARTS]

    def is_shown(name: str) -> bool:
        if name in command.first_page:
            return True
        if everything:
            return not any(name in options.others for options in of_entries.values())
        return any(
            selected[part] and name in options.selected for part, options in of_entries.items()
        )

    parts = {name: _part(name, of_entries.get(name), is_shown) for name in PARTS}
    if everything:
        for name, options in of_entries.items():
            parts[name].__doc__ = f"{parts[name].__doc__}\n\n{options.list_of_others(name)}"
    else:
        for part in parts.values():
            part.__doc__ = None
    fields = [
        *((name, part, _default_of(part)) for name, part in parts.items()),
        *(_field(field, None, visible=everything or is_shown(field.name)) for field in of_command),
    ]
    page = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    page.__doc__ = (
        command.__doc__ if everything else f"{cleandoc(command.__doc__).strip()}\n\n{_HINT}"
    )
    return page


def _registries() -> Mapping[str, Any]:
    from ssmlens.inits.init import inits
    from ssmlens.tasks.task import tasks

    return {"task": tasks, "init": inits}


def _after(option: str, words: Sequence[str]) -> str | None:
    """Return the value of an option in the words; None if it is absent."""
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return value
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


@dataclasses.dataclass(frozen=True)
class _EntryOptions:
    """The options of the tasks, or of the inits.

    Attributes:
        entries: Names of all tasks, or inits.
        selected: The options of the selected one.
        elsewhere: The options that only others have, by entry.
        docs: Help of each option; if several entries have it, the selected one's help.
    """

    entries: tuple[str, ...]
    selected: Collection[str]
    elsewhere: Mapping[str, Sequence[str]]
    docs: Mapping[str, str]

    @property
    def others(self) -> set[str]:
        """The options that only others have."""
        return {option for options in self.elsewhere.values() for option in options}

    def list_of_others(self, name: str) -> str:
        """Return a sentence that lists them, for the group of `name` ("task")."""
        lists = [
            f"{entry}: {' '.join(map(flag, options))}" for entry, options in self.elsewhere.items()
        ]
        return f"Options of others, see {flag(name)} NAME --help. {'; '.join(lists)}"


def _options_of_entries(name: str, selected: str | None) -> _EntryOptions:
    from ssmlens.training.gather import option_docs

    registry = _registries()[name]
    entry = selected if selected in registry else getattr(TrainConfig, name)
    docs = {other: option_docs(registry[other]) for other in registry}
    elsewhere = {
        other: [option for option in docs[other] if option not in docs[entry]] for other in docs
    }
    elsewhere = {other: options for other, options in elsewhere.items() if options}
    merged = {option: text for key in [*registry, entry] for option, text in docs[key].items()}
    return _EntryOptions(tuple(registry), tuple(docs[entry]), elsewhere, merged)


def _part(name: str, of_entries: _EntryOptions | None, is_shown: Callable[[str], bool]) -> type:
    """Return a part of the config with the options that the page shows."""
    from ssmlens.training.gather import attribute_docs

    docs = dict(attribute_docs(PARTS[name]))
    if of_entries is not None:
        docs[name] = f"{docs[name].rstrip('.')}: {', '.join(of_entries.entries)}."
        docs = {**of_entries.docs, **docs}
    fields = dataclasses.fields(PARTS[name])
    part = dataclasses.make_dataclass(
        f"{name.capitalize()}Options",
        [_field(f, docs[f.name], visible=is_shown(f.name)) for f in fields],
        frozen=True,
    )
    part.__doc__ = PARTS[name].__doc__.splitlines()[0]
    return part


def _field(
    field: dataclasses.Field[Any], doc: str | None, *, visible: bool
) -> tuple[str, Any, Any]:
    """Return a field of a page with the help `doc`; None: with the help that tyro finds in the command's source."""
    default = dataclasses.field(default=field.default)
    if not visible:
        return field.name, Annotated[field.type, tyro.conf.Suppress], default
    empty = any(field.default is value for value in (None, (), "", False))
    about: dict[str, Any] = {
        "help_behavior_hint": "" if empty else f"(default: {_plain(field.default)})"
    }
    if doc is not None:
        about["help"] = _for_the_page(doc)
    if (metavar := _metavar(field.type)) is not None:
        about["metavar"] = metavar
    return field.name, Annotated[field.type, tyro.conf.arg(**about)], default


def _plain(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _for_the_page(doc: str) -> str:
    """Rewrite an option's docstring for the command line: flags for fields, "left out" for None."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}

    def as_flag(match: re.Match[str]) -> str:
        return flag(match[1]) if match[1] in fields else match[0]

    words = doc.replace("; None:", "; left out:").replace("None:", "Left out:")
    return re.sub(r"`(\w+)`", as_flag, words)


def _metavar(kind: Any) -> str | None:
    """Return the page's placeholder for a value of this type; None: keep tyro's."""
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
    return {int: "INT", str: "NAME", float: "NUMBER", Path: "PATH"}.get(kind)


def _default_of(part: type) -> Any:
    return dataclasses.field(default_factory=part)


ConfigCommand: Any = dataclasses.make_dataclass(
    "ConfigCommand",
    [(name, part, _default_of(part)) for name, part in PARTS.items()],
    namespace={"help_page": classmethod(help_page), "first_page": FIRST_PAGE},
    frozen=True,
)
"""A command with an option for every field of a training config. Derive from it; `config_of` builds the config.

`first_page` names the options on the first page of help."""
