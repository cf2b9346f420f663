"""The fields of a training config as options of a command.

Its help has a group for each part of the config, and two pages. `--help` shows the options that a first run needs,
and those of the task and init that are chosen: `ssmlens train --task ngram --init mimetic --help` says what theirs
are for. `--help-all` shows every option, those of other tasks and inits by name.
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
"""Options of a config that a first run needs: the first page of help shows them."""

_MORE = "--task NAME and --init NAME add their options here. Every option: --help-all."


def config_of(command: Any) -> TrainConfig:
    """The config that a command's options make."""
    values = {
        field.name: getattr(getattr(command, part), field.name)
        for part in PARTS
        for field in dataclasses.fields(getattr(command, part))
    }
    return TrainConfig(**values)


def help_page(command: Any, words: Sequence[str]) -> type:
    """The command as its help page shows it: every option for `--help-all`, else those of a first run."""
    everything = HELP_ALL in words
    chosen = {name: _after(flag(name), words) for name in _registries()}
    of_entries = {name: _options_of_entries(name, chosen[name]) for name in chosen}
    own = [field for field in dataclasses.fields(command) if field.name not in PARTS]

    def shown(name: str) -> bool:
        if name in command.first_page:
            return True
        if everything:
            return not any(name in options.others for options in of_entries.values())
        return any(chosen[it] and name in options.own for it, options in of_entries.items())

    parts = {name: _part(name, of_entries.get(name), shown) for name in PARTS}
    if everything:
        for name, options in of_entries.items():
            parts[name].__doc__ = f"{parts[name].__doc__}\n\n{options.list_of_others(name)}"
    else:
        for part in parts.values():
            part.__doc__ = None
    fields = [
        *((name, part, _made_by(part)) for name, part in parts.items()),
        *(_field(field, None, shown=everything or shown(field.name)) for field in own),
    ]
    page = dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True)
    page.__doc__ = (
        command.__doc__ if everything else f"{cleandoc(command.__doc__).strip()}\n\n{_MORE}"
    )
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


@dataclasses.dataclass(frozen=True)
class _EntryOptions:
    """The options of the tasks, or of the inits.

    Attributes:
        entries: Names of them all.
        own: The options of the chosen one.
        elsewhere: The options that only others have, by entry.
        docs: What each option is for; where several have it, in the chosen one's words.
    """

    entries: tuple[str, ...]
    own: Collection[str]
    elsewhere: Mapping[str, Sequence[str]]
    docs: Mapping[str, str]

    @property
    def others(self) -> set[str]:
        """The options that only others have."""
        return {option for options in self.elsewhere.values() for option in options}

    def list_of_others(self, name: str) -> str:
        """Those in words, for the group of `name` ("task")."""
        lists = [f"{it}: {' '.join(map(flag, options))}" for it, options in self.elsewhere.items()]
        return f"Options of others, see {flag(name)} NAME --help. {'; '.join(lists)}"


def _options_of_entries(name: str, chosen: str | None) -> _EntryOptions:
    from ssmlens.training.gather import option_docs

    registry = _registries()[name]
    entry = chosen if chosen in registry else getattr(TrainConfig, name)
    docs = {it: option_docs(registry[it]) for it in registry}
    elsewhere = {it: [option for option in docs[it] if option not in docs[entry]] for it in docs}
    elsewhere = {it: options for it, options in elsewhere.items() if options}
    said = {option: text for it in [*registry, entry] for option, text in docs[it].items()}
    return _EntryOptions(tuple(registry), tuple(docs[entry]), elsewhere, said)


def _part(name: str, of_entries: _EntryOptions | None, shown: Callable[[str], bool]) -> type:
    """A part of the config with the options that the page shows."""
    from ssmlens.training.gather import attribute_docs

    docs = dict(attribute_docs(PARTS[name]))
    if of_entries is not None:
        docs[name] = f"{docs[name].rstrip('.')}: {', '.join(of_entries.entries)}."
        docs = {**of_entries.docs, **docs}
    made = dataclasses.make_dataclass(
        f"{name.capitalize()}Options",
        [_field(f, docs[f.name], shown=shown(f.name)) for f in dataclasses.fields(PARTS[name])],
        frozen=True,
    )
    made.__doc__ = PARTS[name].__doc__.splitlines()[0]
    return made


def _field(field: dataclasses.Field[Any], told: str | None, *, shown: bool) -> tuple[str, Any, Any]:
    """A field of a page; its help is `told`, or for None what tyro finds in the command's source."""
    default = dataclasses.field(default=field.default)
    if not shown:
        return field.name, Annotated[field.type, tyro.conf.Suppress], default
    empty = any(field.default is value for value in (None, (), "", False))
    about: dict[str, Any] = {
        "help_behavior_hint": "" if empty else f"(default: {_plain(field.default)})"
    }
    if told is not None:
        about["help"] = _for_the_page(told)
    if (metavar := _metavar(field.type)) is not None:
        about["metavar"] = metavar
    return field.name, Annotated[field.type, tyro.conf.arg(**about)], default


def _plain(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


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
    return {int: "INT", str: "NAME", float: "NUMBER", Path: "PATH"}.get(kind)


def _made_by(part: type) -> Any:
    return dataclasses.field(default_factory=part)


ConfigCommand: Any = dataclasses.make_dataclass(
    "ConfigCommand",
    [(name, part, _made_by(part)) for name, part in PARTS.items()],
    namespace={"help_page": classmethod(help_page), "first_page": FIRST_PAGE},
    frozen=True,
)
"""A command with an option for every field of a training config: derive from it, and see `config_of`.

`first_page` names the options that its first page of help shows."""
