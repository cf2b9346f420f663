"""Output to a terminal: text without control characters, on streams that may be closed or full."""

import contextlib
import io
import os
import re
import sys

# Control characters except tab and line end, and characters that change the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LONGEST_LINE = 4000


def escaped(text: str) -> str:
    r"""Escape control characters, as \x1b: text from a file then moves no cursor and sets no title."""
    return _CONTROLS.sub(lambda match: _escape(match[0]), text)


def one_line(text: str) -> str:
    """Return a message as one escaped line of at most 4000 characters."""
    line = " ".join(text.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]} … ({len(line)} characters)"
    return escaped(line)


def say(text: str) -> None:
    """Print all of the text to stdout; raise OSError if it cannot be written."""
    print(escaped(text))
    sys.stdout.flush()


def complain(message: str) -> None:
    """Print one line to stderr, if it can be written."""
    with contextlib.suppress(OSError):
        print(f"ssmlens: {one_line(message)}", file=sys.stderr, flush=True)


def open_streams() -> None:
    """Make stdin, stdout and stderr usable, even if the shell closed them.

    The next file opened would get the number of a closed stream, and output would go into that file. A stream that
    cannot encode a character shows its code.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_nowhere(number)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        if name != "stdin" and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Discard the remaining output: its reader has closed it, or its disk is full."""
    with contextlib.suppress(OSError, ValueError):
        _open_nowhere(sys.stdout.fileno())
        sys.stdout.flush()


def _open_nowhere(number: int) -> None:
    handle = os.open(os.devnull, os.O_RDWR)
    if handle != number:
        os.dup2(handle, number)
        os.close(handle)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
