"""The measures of a run that have words. Any other number of metrics.jsonl is a measure too, under its own name."""

LOSS = "loss"
BITS = "bits"
DEFAULT = "char"
"""What arms are compared by, in every command and on every page, where nobody asks for another."""

WORDS: dict[str, str] = {
    LOSS: "loss",
    "char": "characters right",
    "string": "strings right",
    "char_free": "characters right, running freely",
    "string_free": "strings right, running freely",
    BITS: "bits a byte of held-out text",
}
"""Known measures in words. A model that runs freely reads its own answers."""

SHARES = tuple(name for name in WORDS if name not in (LOSS, BITS))
"""Those that are shares in 0..1 of what was asked: the higher the better."""


def in_words(measure: str) -> str:
    """What a measure is; its own name where it has no words."""
    return WORDS.get(measure, measure)
