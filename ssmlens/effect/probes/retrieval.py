"""Key–value retrieval: `k1: v1`, `k2: v2`, …, then one of the keys again."""

from collections.abc import Sequence
from typing import Any

from ssmlens.effect.probe import PROBES, Probe, encode_pieces, first_difference
from ssmlens.errors import UsageError
from ssmlens.recorder.prompts import Prompts
from ssmlens.tasks.draws import Draws
from ssmlens.tasks.task import NO_TARGET

# fmt: off
_WORDS = (
    "river", "stone", "green", "table", "winter", "seven",
    "music", "paper", "silver", "garden", "orange", "window",
    "market", "letter", "dragon", "yellow", "island", "copper",
    "forest", "bridge", "candle", "mirror", "desert", "planet",
    "rocket", "violin", "basket", "engine", "castle", "pencil",
)
# fmt: on


@PROBES.register("retrieval")
def retrieval(model: Any, *, count: int, length: int | None = None, seed: int = 0) -> Probe:
    """Lines of a key and a value, then one of the keys: its value must come next.

    The foil is the value of another line; the twin asks for that line.

    Args:
        model: The model.
        count: Number of prompts.
        length: Number of lines; None: 8.
        seed: Seed of the prompts.

    Raises:
        UsageError: More lines than there are words, or fewer than two; or the model tokenizes two values alike.
    """
    lines = 8 if length is None else length
    if not 2 <= lines <= len(_WORDS):
        raise UsageError(f"`length` is {lines}: retrieval has 2 to {len(_WORDS)} lines")
    order = Draws(seed, "cpu").integers(2**31, (count, 2 * len(_WORDS))).tolist()
    rows, targets, foils, twins = [], [], [], []
    for numbers in order:
        words = sorted(_WORDS, key=lambda word: numbers[_WORDS.index(word)])[:lines]
        queried, other = numbers[len(_WORDS)] % lines, numbers[len(_WORDS) + 1] % (lines - 1)
        other += other >= queried
        row = _row(model, words, queried, other)
        rows.append(row[0])
        targets.append(row[1])
        foils.append(row[2])
        twins.append(row[3])
    prompts = Prompts(rows, kinds="retrieval", texts=_texts(model, rows), target=targets)
    return Probe(prompts, tuple(foils), Prompts(twins, kinds="retrieval"))


def _row(
    model: Any, words: Sequence[str], queried: int, other: int
) -> tuple[list[int], list[int], tuple[int, ...], list[int]]:
    """A prompt, its targets, its foils, and its twin."""
    keys = [f"k{n + 1}:" for n in range(len(words))]
    pieces = encode_pieces(model, [*keys, *(f" {word}" for word in words), "\n"])
    keys_at, values, (end,) = (
        pieces[: len(words)],
        pieces[len(words) : 2 * len(words)],
        pieces[-1:],
    )
    at = first_difference(values[queried], values[other])
    if at is None:
        raise UsageError("this model tokenizes two of the probe's values alike")
    tokens, starts = [], []
    for key, value in zip(keys_at, values, strict=True):
        tokens += key
        starts.append(len(tokens))
        tokens += [*value, *end]
    row = [*tokens, *keys_at[queried], *values[queried][:at]]
    twin = [*tokens, *keys_at[other], *values[other][:at]]
    if len(twin) != len(row):  # keys of different length: the twin's query matches no key
        twin = [*tokens, *[keys_at[other][0]] * (len(row) - len(tokens))]
    target = [NO_TARGET] * (len(row) - 1) + [starts[queried] + at]
    foil = (-1,) * (len(row) - 1) + (values[other][at],)
    return row, target, foil, twin


def _texts(model: Any, rows: list[list[int]]) -> list[str]:
    return [model.tokenizer.decode(row) for row in rows]
