"""The measures of a run that have a description. Any other number in metrics.jsonl is a measure under its own name."""

LOSS = "loss"
BITS = "bits"
DEFAULT = "char"
"""The default measure for comparing arms, in every command and on every page."""

WORDS: dict[str, str] = {
    LOSS: "loss",
    "char": "characters right",
    "string": "strings right",
    "char_free": "characters right, running freely",
    "string_free": "strings right, running freely",
    BITS: "bits a byte of held-out text",
}
"""Descriptions of known measures. A free-running model reads its own answers."""

SHARES = tuple(name for name in WORDS if name not in (LOSS, BITS))
"""The measures that are shares in 0..1: higher is better."""


def in_words(measure: str) -> str:
    """Return the description of a measure; its own name if it has none."""
    return WORDS.get(measure, measure)
