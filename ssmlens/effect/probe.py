"""Probes: prompts with a right answer, a wrong answer (the foil) and a corrupted twin; and their registry."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.recorder.prompts import Prompts, tokenizer_of
from ssmlens.registry import Registry
from ssmlens.tasks.task import NO_TARGET


@dataclasses.dataclass(frozen=True)
class Probe:
    """Prompts whose right next tokens are known, and the tokens to copy them from.

    At a query whose target is token j, the right answer is a copy of token j.

    Attributes:
        prompts: The prompts, with their targets.
        foil: For each prompt a wrong token for each position (−1: none), or None.
        corrupted: Prompts of the same lengths with another answer or none; or None.
    """

    prompts: Prompts
    foil: tuple[tuple[int, ...] | None, ...] = ()
    corrupted: Prompts | None = None

    def __post_init__(self):
        if not self.foil:
            object.__setattr__(self, "foil", (None,) * len(self.prompts))
        if len(self.foil) != len(self.prompts):
            raise UsageError(f"there are {len(self.prompts)} prompts and {len(self.foil)} foils")
        if self.corrupted is not None and self.corrupted.length != self.prompts.length:
            raise UsageError("a corrupted prompt must have as many tokens as its twin")

    @classmethod
    def of(cls, prompts: "Probe | Prompts") -> "Probe":
        """Turn prompts into a probe; a probe is returned unchanged."""
        return prompts if isinstance(prompts, Probe) else cls(prompts)

    def positions(self, prompt: int) -> Tensor:
        """Positions of a prompt's queries that have a target; all positions if the prompt has no targets."""
        target = self.prompts.target[prompt]
        if target is None:
            return torch.arange(self.prompts.length[prompt])
        return (torch.tensor(target) != NO_TARGET).nonzero().flatten()

    def right(self, prompt: int) -> Tensor:
        """The right token at these positions, −1 if the prompt has no targets."""
        target, where = self.prompts.target[prompt], self.positions(prompt)
        if target is None:
            return torch.full_like(where, -1)
        tokens = torch.tensor(self.prompts.tokens[prompt])
        return tokens[torch.tensor(target)[where]]

    def foils(self, prompt: int) -> Tensor:
        """The foil at these positions, −1 for none."""
        where, foil = self.positions(prompt), self.foil[prompt]
        return torch.full_like(where, -1) if foil is None else torch.tensor(foil)[where]


PROBES: Registry[Callable[..., Probe]] = Registry("probe", "ssmlens.effect.probes")


def probe(
    name: str, model: Any, *, count: int = 8, length: int | None = None, seed: int = 0
) -> Probe:
    """Make the prompts of a probe for a model's tokenizer or vocabulary.

    Args:
        name: "repeat" (repeated random tokens), "retrieval" (key: value lines), "ioi" (two names, one repeated).
        model: The model.
        count: Number of prompts.
        length: Number of repeated tokens, or of keys; ioi has a fixed length.
        seed: Seed of the prompts.

    Raises:
        UsageError: No such probe; the probe is text and the model has no tokenizer; or an option is impossible.
    """
    if count < 1:
        raise UsageError(f"`count` is {count}: ask for at least one prompt")
    return PROBES[name](model, count=count, length=length, seed=seed)


def encode_pieces(model: Any, pieces: Sequence[str]) -> list[list[int]]:
    """Tokenize each piece of a text separately, so that the tokenizer merges nothing across pieces.

    Raises:
        UsageError: The model has no tokenizer, or its tokenizer has no tokens for the text.
    """
    tokenizer, why = tokenizer_of(model)
    if tokenizer is None:
        raise UsageError(
            f"this probe is text, and the model has no tokenizer {why}; use repeat".replace(
                "  ", " "
            )
        )
    tokens = [list(tokenizer.encode(piece)) for piece in pieces]
    return [_drop_start(tokenizer, row) for row in tokens]


def _drop_start(tokenizer: Any, tokens: list[int]) -> list[int]:
    """Drop the start tokens that some tokenizers add to every text."""
    start = list(tokenizer.encode(""))
    return tokens[len(start) :] if start and tokens[: len(start)] == start else tokens


def first_difference(right: Sequence[int], wrong: Sequence[int]) -> int | None:
    """The first index at which two answers differ; None if one begins with the other."""
    for n, (one, other) in enumerate(zip(right, wrong, strict=False)):
        if one != other:
            return n
    return None
