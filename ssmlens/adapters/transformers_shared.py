"""Common code of transformers' families: their parameter names, and which padding masks they apply."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.adapters.adapter import Adapter, MixerInput, own_forward
from ssmlens.adapters.generations import Mamba1Adapter, Mamba2Adapter
from ssmlens.models.projections import Mamba1Weights, Mamba2Weights


class TransformersAdapter(Adapter):
    """Mixers that may take a padding mask, and apply it by their module's own rules."""

    cache_argument = "cache_params"

    def read_input(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> MixerInput:
        """See `Adapter.read_input`. The mask is the one that the mixer applies: ones if it ignores the one it gets."""
        given = super().read_input(mixer, args, kwargs)
        return MixerInput(given.hidden, _applied(mixer, given.token_mask))


class TransformersMamba1Adapter(TransformersAdapter, Mamba1Adapter):
    """Families with the parameter names of transformers' MambaMixer."""

    def named_weights(self, mixer: Any) -> Mamba1Weights:
        """See `Mamba1Adapter.named_weights`."""
        return Mamba1Weights.of(mixer, activation=mixer.act)


class TransformersMamba2Adapter(TransformersAdapter, Mamba2Adapter):
    """Families with the parameter and attribute names of transformers' Mamba2Mixer."""

    def named_weights(self, mixer: Any) -> Mamba2Weights:
        """See `Mamba2Adapter.named_weights`."""
        return Mamba2Weights.of(
            mixer,
            headdim=mixer.head_dim,
            d_state=mixer.ssm_state_size,
            ngroups=mixer.n_groups,
            dt_limit=self.dt_limit(mixer),
            norm_eps=mixer.norm.variance_epsilon,
            norm_groups=self.norm_groups(mixer),
            activation=mixer.act,
        )

    def dt_limit(self, mixer: Any) -> tuple[float, float]:
        """The range to which Δ is clamped."""
        return tuple(mixer.time_step_limit)

    def norm_groups(self, mixer: Any) -> int:
        """Number of equal groups of channels that are normalised separately; in older versions one."""
        width = len(mixer.norm.weight)
        return width // getattr(mixer.norm, "group_size", width)


class TransformersLeastStepAdapter(TransformersMamba2Adapter):
    """Families of Mamba-2 whose Δ is at least `time_step_min`, without upper limit.

    Their torch code and, since 5.15, their kernels use this limit. Before 5.15 the kernels use `time_step_limit`, and
    the torch code loses what was written more than a chunk ago (`chunk_size` tokens), since it sums over the wrong
    axis. Closure fails there.
    """

    def dt_limit(self, mixer: Any) -> tuple[float, float]:
        """See `TransformersMamba2Adapter.dt_limit`."""
        return (mixer.config.time_step_min, float("inf"))


def _applied(mixer: nn.Module, mask: Tensor | None) -> Tensor | None:
    """The mask as the mixer's own code applies it: some older versions ignore that of a single sequence or token."""
    zero_padding = own_forward(mixer).__globals__.get("apply_mask_to_padding_states")
    if mask is None or zero_padding is None:
        return mask
    return zero_padding(torch.ones_like(mask).unsqueeze(2), mask).squeeze(2)
