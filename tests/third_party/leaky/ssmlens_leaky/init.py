"""Start every Mamba layer quietly: its output projection multiplied by a number."""

import dataclasses

import torch

from ssmlens.inits.init import Init, choose_mixers, inits


@inits.register("quiet")
@dataclasses.dataclass(frozen=True)
class Quiet(Init):
    """Multiply the output projections.

    Attributes:
        loudness: What they are multiplied by.
    """

    loudness: float = 0.1

    @torch.no_grad()
    def apply_(self, model, seed=0):
        for site in choose_mixers(model):
            site.adapter.out_projection(site.module).weight.mul_(self.loudness)
