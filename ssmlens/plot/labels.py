"""Tokens as axis labels: unique, visible, and never markup."""

import html
import unicodedata
from collections.abc import Sequence

_VISIBLE = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}
_GLYPH = 6.8  # pixels of a character of theme.LABEL
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


def visible(token: str, longest: int = 24) -> str:
    """The token with spaces, line ends and invisible characters made visible, cut to `longest` characters.

    A space is `·`, a line end `↵`; control characters, zero-width and text-direction marks become
    their code point, so that no token can hide or reorder its neighbours.
    """
    shown = "".join(
        _VISIBLE.get(c) or (f"\\u{ord(c):04x}" if unicodedata.category(c) in _UNSEEN else c)
        for c in token
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def literal(text: str) -> str:
    """Text for plotly to draw as it stands: plotly reads a little HTML, and text from files is none."""
    return html.escape(text, quote=False)


def token_labels(tokens: Sequence[str], first: int = 0) -> list[str]:
    """One label a token, "17 c": its position, which keeps labels unique, and its text.

    Args:
        tokens: Token strings, in order.
        first: Position of the first of them in its prompt.
    """
    return [literal(f"{first + i} {visible(token)}") for i, token in enumerate(tokens)]


def block_labels(
    tokens: Sequence[str], block: int, first: int = 0, end: int | None = None
) -> list[str]:
    """One label for each run of `block` tokens, "16–19 the·cat·sat·on"; for 1, `token_labels`.

    Args:
        tokens: All tokens of the prompt.
        block: How many share a label.
        first: The first token labelled.
        end: The one after the last; None: the prompt's end.
    """
    end = len(tokens) if end is None else end
    if block == 1:
        return token_labels(tokens[first:end], first)
    labels = []
    for start in range(first, end, block):
        run = tokens[start : min(start + block, end)]
        text = visible("".join(run), longest=12)
        labels.append(literal(f"{start}–{start + len(run) - 1} {text}"))
    return labels


def label_pixels(labels: Sequence[str]) -> int:
    """About the pixels that the longest of some tick labels takes along an axis of tokens, with room around it.

    Args:
        labels: As plotly draws them (`literal`), in the font of `theme.LABEL`.
    """
    widths = (sum(map(_cells, html.unescape(label))) for label in labels)
    return int(max(widths, default=0) * _GLYPH) + 12


def _cells(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
