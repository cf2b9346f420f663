"""What transformers' families share: how they name things, and which padding masks they apply."""

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
        """See `Adapter.read_input`. The mask is the one that the mixer applies: ones where it ignores its own."""
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
        """What Δ is clamped to."""
        return tuple(mixer.time_step_limit)

    def norm_groups(self, mixer: Any) -> int:
        """Number of equal parts that the norm treats by themselves; older versions take all channels as one."""
        width = len(mixer.norm.weight)
        return width // getattr(mixer.norm, "group_size", width)


class TransformersLeastStepAdapter(TransformersMamba2Adapter):
    """Families of Mamba-2 whose Δ is at least `time_step_min`, and has no upper limit.

    As in their torch code of any version and in their kernels since 5.15; before, their kernels take `time_step_limit`
    instead, and their torch code loses what was written more than a chunk ago (`chunk_size` tokens, a sum over the
    wrong axis): there closure fails.
    """

    def dt_limit(self, mixer: Any) -> tuple[float, float]:
        """See `TransformersMamba2Adapter.dt_limit`."""
        return (mixer.config.time_step_min, float("inf"))


def _applied(mixer: nn.Module, mask: Tensor | None) -> Tensor | None:
    """The mask as the mixer's own code applies it: in older versions some ignore that of a single sequence or token."""
    zero_padding = own_forward(mixer).__globals__.get("apply_mask_to_padding_states")
    if mask is None or zero_padding is None:
        return mask
    return zero_padding(torch.ones_like(mask).unsqueeze(2), mask).squeeze(2)
