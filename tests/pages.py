"""Pages of Markdown as tests read them: their blocks, the commands in them, and whether an output is the one shown."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?")
_SPARKLINE = re.compile(r"[▁▂▃▄▅▆▇█]+")


def read(name):
    """A page of the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text, language):
    """The fenced blocks of a language, "" for those that name none."""
    return [block for name, block in _FENCED.findall(text) if name == language]


def unfenced(text):
    """A page without its fenced blocks."""
    return _FENCED.sub("", text)


def section(text, title):
    """What stands below a title of the second level."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(text):
    """The first table, as its lines."""
    return re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].rstrip()


def transcript(block):
    """[(words of a command, what it printed)] of a block in which a command follows "$ "."""
    parts = re.split(r"^\$ ssmlens ", block, flags=re.MULTILINE)
    assert parts[0] == ""
    pairs = [part.partition("\n")[::2] for part in parts[1:]]
    return [(shlex.split(words), output) for words, output in pairs]


def command_lines(text):
    """The words of each line `ssmlens COMMAND ...` in blocks without a language, comments left out."""
    lines = [line for block in blocks(text, "") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ssmlens ")]


def assert_same(shown, printed, *, numbers=True):
    """Fail where the words differ, or a number by more than one in its last digit.

    Args:
        shown: What the page shows.
        printed: What was printed.
        numbers: Whether numbers, and the bars of a curve, are compared at all; "none" may then stand for one.
    """
    if not numbers:
        shown, printed = (re.sub(r"\bnone\b", "0", text) for text in (shown, printed))
    assert _words(shown) == _words(printed)
    if numbers:
        for one, other in zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True):
            assert abs(float(one) - float(other)) <= 1.001 * _last_digit(one), (one, other)


def _words(text):
    """The text with a 0 for each number and each curve, and single spaces."""
    return _SPARKLINE.sub("0", _NUMBER.sub("0", text)).split()


def _last_digit(number):
    mantissa, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
