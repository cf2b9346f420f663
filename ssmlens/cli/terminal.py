"""What reaches a terminal: text without control characters, on streams that may be closed or full."""

import contextlib
import io
import os
import re
import sys

# Control characters but for tab and line end, and those that turn the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LONGEST_LINE = 4000


def escaped(text: str) -> str:
    r"""The text with control characters spelt out, as \x1b: what a file says moves no cursor and sets no title."""
    return _CONTROLS.sub(lambda found: _spelt(found[0]), text)


def one_line(text: str) -> str:
    """A message as one line of no more than 4000 characters, escaped."""
    line = " ".join(text.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[:_LONGEST_LINE]} … ({len(line)} characters)"
    return escaped(line)


def say(text: str) -> None:
    """Print to stdout, all of it: raises OSError where it cannot be written."""
    print(escaped(text))
    sys.stdout.flush()


def complain(message: str) -> None:
    """Print one line to stderr, where there is one that takes it."""
    with contextlib.suppress(OSError):
        print(f"ssmlens: {one_line(message)}", file=sys.stderr, flush=True)


def open_streams() -> None:
    """Make stdin, stdout and stderr usable, whatever the shell made of them.

    Where one is closed the next file that is opened would get its number, and what is printed would go into it. A
    stream that cannot show a character shows its code.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_nowhere(number)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
        if name != "stdin" and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Let what is still to be printed go nowhere: its reader has gone, or its disk is full."""
    with contextlib.suppress(OSError, ValueError):
        _open_nowhere(sys.stdout.fileno())
        sys.stdout.flush()


def _open_nowhere(number: int) -> None:
    handle = os.open(os.devnull, os.O_RDWR)
    if handle != number:
        os.dup2(handle, number)
        os.close(handle)


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
