"""Indirect object identification: two names, one of them repeated; the other comes next (Wang et al. 2022)."""

from typing import Any

from ssmlens.effect.probe import PROBES, Probe, encode_pieces, first_difference
from ssmlens.errors import UsageError
from ssmlens.recorder.prompts import Prompts
from ssmlens.tasks.draws import Draws
from ssmlens.tasks.task import NO_TARGET

_NAMES = [
    "Mary",
    "John",
    "Alice",
    "Bob",
    "Sarah",
    "David",
    "Emma",
    "Peter",
    "Laura",
    "Frank",
    "Kate",
    "Thomas",
]
_PLACES = ["store", "garden", "park", "school", "office", "station"]
_THINGS = ["drink", "book", "letter", "ring", "flower", "key"]


@PROBES.register("ioi")
def ioi(model: Any, *, count: int, length: int | None = None, seed: int = 0) -> Probe:
    """When Mary and John went to the store, John gave a drink to → Mary; the foil is John.

    In the twin Mary is repeated instead, so the answer is John.

    Args:
        model: The model.
        count: Number of prompts.
        length: Must be None: the length is fixed.
        seed: Seed of the prompts.

    Raises:
        UsageError: `length` is not None, or the model tokenizes two names alike.
    """
    if length is not None:
        raise UsageError("ioi prompts have a fixed length: leave `length` out")
    numbers = Draws(seed, "cpu").integers(2**31, (count, 4)).tolist()
    rows, targets, foils, twins = [], [], [], []
    for first, second, place, thing in numbers:
        a = _NAMES[first % len(_NAMES)]
        b = [name for name in _NAMES if name != a][second % (len(_NAMES) - 1)]
        places = (_PLACES[place % len(_PLACES)], _THINGS[thing % len(_THINGS)])
        row = _row(model, a, b, *places)
        for column, value in zip((rows, targets, foils, twins), row, strict=True):
            column.append(value)
    texts = [model.tokenizer.decode(row) for row in rows]
    prompts = Prompts(rows, kinds="ioi", texts=texts, target=targets)
    return Probe(prompts, tuple(foils), Prompts(twins, kinds="ioi"))


def _row(model: Any, a: str, b: str, place: str, thing: str) -> tuple[Any, ...]:
    """A prompt, its targets, its foils, and its twin."""
    when, name, other, went, gave = encode_pieces(
        model,
        ["When", f" {a}", f" {b}", f" went to the {place},", f" gave a {thing} to"],
    )
    (and_,) = encode_pieces(model, [" and"])
    at = first_difference(name, other)
    if at is None:
        raise UsageError(f"this model's tokens do not tell {a} and {b} apart")
    start = [*when, *name, *and_, *other, *went]
    row = [*start, *other, *gave, *name[:at]]
    twin = [*start, *name, *gave, *name[:at]]
    # Names of different length: repeat the first name's tokens to the length of the second's.
    twin = (
        twin
        if len(twin) == len(row)
        else [*start, *(name * len(other))[: len(other)], *gave, *name[:at]]
    )
    target = [NO_TARGET] * (len(row) - 1) + [len(when) + at]
    foil = (-1,) * (len(row) - 1) + (other[at],)
    return row, target, foil, twin
