"""transformers' Falcon-H1: Mamba-2 with fixed multipliers around in_proj, beside attention in every block."""

import dataclasses
from typing import Any

from torch import nn

from ssmlens.adapters.adapter import MixerInput, register
from ssmlens.adapters.transformers_shared import TransformersMamba2Adapter
from ssmlens.models.projections import Mamba2Weights
from ssmlens.scan.operator import Operator


@register
class TransformersFalconH1(TransformersMamba2Adapter):
    """`transformers.models.falcon_h1.FalconH1Mixer`.

    `ssm_in_multiplier` scales the input, `mup_vector` the output of in_proj; `weights` contain neither.
    `mamba_norm_before_gate` is applied as in the torch code and in the kernels of eval mode. The fused kernel of train
    mode always gates first.
    """

    family = "transformers FalconH1Mixer"
    mixers = ("transformers.models.falcon_h1.modeling_falcon_h1.FalconH1Mixer",)

    def project(self, mixer: Any, given: MixerInput) -> Operator:
        """See `Adapter.project`."""
        return super().project(mixer, _scaled(mixer, given))

    def project_fast(self, mixer: Any, given: MixerInput) -> Operator:
        """See `Adapter.project_fast`."""
        return super().project_fast(mixer, _scaled(mixer, given))

    def named_weights(self, mixer: Any) -> Mamba2Weights:
        """See `Mamba2Adapter.named_weights`."""
        settings: dict[str, Any] = {}
        if mixer.mamba_rms_norm:
            settings = {
                "norm_eps": mixer.norm.variance_epsilon,
                "norm_groups": mixer.norm.n_groups,
                "norm_before_gate": mixer.norm.norm_before_gate,
            }
        return Mamba2Weights.of(
            mixer,
            headdim=mixer.head_dim,
            d_state=mixer.ssm_state_size,
            ngroups=mixer.n_groups,
            in_proj_scale=mixer.mup_vector.flatten(),
            dt_limit=self.dt_limit(mixer),
            activation=mixer.act,
            **settings,
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Without the norm, which is the configuration's default."""
        from transformers import FalconH1Config, FalconH1ForCausalLM

        config = FalconH1Config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            mamba_d_ssm=16,
            mamba_n_heads=8,
            mamba_n_groups=2,
            mamba_d_state=6,
            mamba_chunk_size=16,
            time_step_limit=(0.5, 1.2),
            ssm_in_multiplier=1.3,
            ssm_multipliers=[0.5, 0.7, 0.9, 1.2, 1.4],
        )
        return FalconH1ForCausalLM(config)


def _scaled(mixer: Any, given: MixerInput) -> MixerInput:
    return dataclasses.replace(given, hidden=given.hidden * mixer.ssm_in_multiplier)
