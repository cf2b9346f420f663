"""Tokens as axis labels: unique, visible, and never markup."""

import html
import unicodedata
from collections.abc import Sequence

_VISIBLE = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}
_GLYPH = 6.8  # width of a character of theme.LABEL in pixels
_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


def visible(token: str, longest: int = 24) -> str:
    """Make spaces, line ends and invisible characters visible, and cut to `longest` characters.

    A space becomes `·`, a line end `↵`. Control characters, zero-width and text-direction marks become their code
    point, so that no token can hide or reorder its neighbours.
    """
    text = "".join(
        _VISIBLE.get(c) or (f"\\u{ord(c):04x}" if unicodedata.category(c) in _INVISIBLE else c)
        for c in token
    )
    return text if len(text) <= longest else text[: longest - 1] + "…"


def literal(text: str) -> str:
    """Escape text for plotly, which parses some HTML: text from files is plain."""
    return html.escape(text, quote=False)


def token_labels(tokens: Sequence[str], first: int = 0) -> list[str]:
    """Label each token by its position, which keeps labels unique, and its text: "17 c".

    Args:
        tokens: Token strings in order.
        first: Position of the first one in the prompt.
    """
    return [literal(f"{first + i} {visible(token)}") for i, token in enumerate(tokens)]


def block_labels(
    tokens: Sequence[str], block: int, first: int = 0, end: int | None = None
) -> list[str]:
    """Label each run of `block` tokens: "16–19 the·cat·sat·on". With a block of 1: `token_labels`.

    Args:
        tokens: All tokens of the prompt.
        block: Tokens per label.
        first: The first token.
        end: One past the last token; None: the end of the prompt.
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
    """Estimate the pixels of the longest tick label in the font `theme.LABEL`, with some space.

    Args:
        labels: The labels, escaped for plotly (`literal`).
    """
    widths = (sum(map(_cells, html.unescape(label))) for label in labels)
    return int(max(widths, default=0) * _GLYPH) + 12


def _cells(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
