r"""Which tokens of a prompt are separators: one rule for all scores.

A token is a separator if its string, without the blanks around it, is

- punctuation alone: every character is of a Unicode category P… (`.` `,` `:` `?` `"` `(` `—` …), or is `|`;
- empty, with a line break among the blanks (`\n`, `\r\n`, ` \n`);
- a special token that begins, ends or separates texts: `<s>`, `</s>`, `<|…|>`, or bos, eos, sep, cls in angle or square
  brackets, in either case; and `<0a>` and `<0d>`, the line breaks of a byte model.

A word with punctuation in it (`don't`, `e.g`) is not a separator; neither is a blank. In a task's prompt, every token
is one character or a mark (`names.TASK_MARKS`), and the marks `|`, `end` and `begin` are separators. A prompt of
repeated random tokens (`names.REPEAT`) has no separators, since its tokens were drawn at random. A prompt whose tokens
are stored without text has none either.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from ssmlens.names import REPEAT, TASK_MARKS

_SPECIAL = re.compile(
    r"</?s>|<\|.+\|>|<\uff5c.+\uff5c>|[<\[](bos|eos|sep|cls|0a|0d)[>\]]", re.IGNORECASE
)


def separators(strings: Sequence[str], kind: str = "text") -> Bool[np.ndarray, " token"]:
    """Which tokens of a prompt are separators.

    Args:
        strings: Each token as text (`Capture.token_strings`).
        kind: The prompt's kind (`Capture.prompt_kinds`).
    """
    if kind == REPEAT:
        return np.zeros(len(strings), dtype=bool)
    is_task = all(len(string) == 1 or string in TASK_MARKS for string in strings)
    return np.array([is_separator(s) or (is_task and s in TASK_MARKS) for s in strings], dtype=bool)


def is_separator(string: str) -> bool:
    """Whether a token of text is a separator, by its string."""
    bare = string.strip()
    if not bare:
        return "".join(string.splitlines()) != string
    if _SPECIAL.fullmatch(bare):
        return True
    return all(c == "|" or unicodedata.category(c).startswith("P") for c in bare)
