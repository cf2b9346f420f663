"""The shared parts of every command: options from a dataclass, results as text or JSON, errors as one line."""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from ssmlens.cli import terminal
from ssmlens.errors import SsmlensError
from ssmlens.options import flag

Options = TypeVar("Options")
# Arguments of the library in a message; and arguments whose options have other names.
_ARGUMENT = re.compile(r"`([a-z_]+)`")
_OPTIONS = {"devices": "device", "trackers": "tracker", "further": "effects"}
HELP_ALL = "--help-all"
"""Option for the page with every option, for commands whose `--help` shows a first page."""
_BOX = re.compile(r"[─│╭╮╰╯═║┌┐└┘]+")


@dataclasses.dataclass(frozen=True)
class Result:
    """The output of a command.

    Attributes:
        data: For `--json`: dicts, lists, strings, numbers; NaN is printed as null.
        text: For people.
        exit_code: 0, or 1 where the command worked but the answer is bad (`verify`).
    """

    data: dict[str, Any]
    text: str
    exit_code: int = 0


@runtime_checkable
class Command(Protocol):
    """A command: a frozen dataclass. Its fields are the options; their docstrings are the help."""

    json: bool

    def run(self) -> Result:
        """Run the command."""
        ...


def run(command_class: Callable[..., Command], name: str, words: Sequence[str]) -> int:
    """Parse the options, run the command, print its output; return the exit code.

    Every error is printed as one line, unexpected ones too unless SSMLENS_DEBUG is set.
    """
    wants_json = "--json" in words
    try:
        command = parse_options(command_class, name, words)
        result = command.run()
        text = _in_json(result.data) if command.json else result.text
        return print_all(text, result.exit_code)
    except SsmlensError as error:
        return _fail(in_flags(str(error)), error.exit_code, wants_json)
    except KeyboardInterrupt:
        return _fail("interrupted", 130, wants_json)
    except MemoryError:
        return _fail("there is not enough memory", 1, wants_json)
    except Exception as error:
        if os.environ.get("SSMLENS_DEBUG"):
            raise
        message = str(error).strip().split("\n")[0]
        return _fail(
            f"{type(error).__name__}: {message or 'no message'} (unexpected error: "
            "SSMLENS_DEBUG=1 shows where; please report it)",
            1,
            wants_json,
        )


def _in_json(data: dict[str, Any]) -> str:
    from ssmlens.files.strict_json import without_nan

    return json.dumps(without_nan(data), indent=1, allow_nan=False)


def print_all(text: str, exit_code: int = 0) -> int:
    """Print to stdout; return `exit_code`, or 1 if stdout cannot be written."""
    try:
        terminal.say(text)
    except OSError as error:
        return _without_stdout(error) or exit_code
    return exit_code


def _flush() -> int:
    try:
        sys.stdout.flush()
    except OSError as error:
        return _without_stdout(error)
    return 0


def _without_stdout(error: OSError) -> int:
    """Give up stdout and return the exit code: 0 if its reader has closed it, as `| head` does."""
    terminal.give_up_stdout()
    if isinstance(error, BrokenPipeError):
        return 0
    terminal.complain(f"cannot write to stdout: {os.strerror(error.errno or 0).lower()}")
    return 1


def parse_options(options: Callable[..., Options], name: str, words: Sequence[str]) -> Options:
    """Parse words into a command, or another dataclass of options; raise _BadOptionsError, one line, for bad ones."""
    import tyro

    help_page = getattr(options, "help_page", None)
    if help_page is not None and not {"-h", "--help", HELP_ALL}.isdisjoint(words):
        options = help_page(words)
        words = ["--help" if word == HELP_ALL else word for word in words]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                options,
                args=list(words),
                prog=f"ssmlens {name}",
                description=inspect.cleandoc(options.__doc__ or ""),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:  # the help was printed
            raise SystemExit(_flush()) from None
        raise _BadOptionsError(f"{_gist(errors.getvalue())} (see ssmlens {name} --help)") from None
    except OSError as error:  # only the help is written there
        raise SystemExit(_without_stdout(error)) from None


def _gist(box: str) -> str:
    """Extract the error, and tyro's suggestion, from the framed paragraphs that tyro writes."""
    lines = [_BOX.sub("", line).strip() for line in box.splitlines() if not line.startswith("╭")]
    wrong, *others = "\n".join(lines).strip().split("\n\n")
    return " ".join([wrong, *(part for part in others if part.startswith("Perhaps"))])


def in_flags(message: str) -> str:
    """What the library says of its arguments (`eval_lengths`), of the options that set them (--eval-lengths)."""
    return _ARGUMENT.sub(lambda found: flag(_OPTIONS.get(found[1], found[1])), message)


class _BadOptionsError(SsmlensError):
    exit_code = 2


def _fail(message: str, exit_code: int, wants_json: bool) -> int:
    terminal.complain(message)
    if wants_json:
        data = {"error": terminal.one_line(message), "exit_code": exit_code}
        return print_all(json.dumps(data), exit_code)
    return exit_code
