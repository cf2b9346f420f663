"""Repeated random tokens: the next token is known from the first occurrence (Olsson et al. 2022)."""

from typing import Any

import torch

from ssmlens.effect.probe import PROBES, Probe
from ssmlens.recorder.prompts import Prompts, from_named_task
from ssmlens.tasks.task import NO_TARGET


@PROBES.register("repeat")
def repeat(model: Any, *, count: int, length: int | None = None, seed: int = 0) -> Probe:
    """Random tokens, repeated (A A). The foil is another token of A; in the twin the first half is drawn again.

    Args:
        model: The model.
        count: Number of prompts.
        length: Tokens of a half; None: 64.
        seed: Seed of the prompts.
    """
    size = 64 if length is None else length
    drawn = from_named_task("repeat", model, {"length": size, "count": count}, seed)
    others = from_named_task("repeat", model, {"length": size, "count": count}, seed + 1)
    generator = torch.Generator().manual_seed(seed)
    foil, corrupted = [], []
    for tokens, target, other in zip(drawn.tokens, drawn.target, others.tokens, strict=True):
        assert target is not None
        right = [tokens[j] if j != NO_TARGET else -1 for j in target]
        shift = int(torch.randint(1, size, (1,), generator=generator)) if size > 1 else 0
        once = tokens[:size]
        wrong = [once[(j + shift) % size] if j != NO_TARGET else -1 for j in target]
        foil.append(tuple(w if w != r else -1 for w, r in zip(wrong, right, strict=True)))
        corrupted.append([*other[:size], *tokens[size:]])
    return Probe(drawn, tuple(foil), Prompts(corrupted, kinds="repeat"))
