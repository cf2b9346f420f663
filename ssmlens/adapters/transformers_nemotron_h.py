"""transformers' Nemotron-H: Mamba-2 blocks between blocks of attention, MLP and experts."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba2Adapter


@register
class TransformersNemotronH(TransformersMamba2Adapter):
    """`transformers.models.nemotron_h.NemotronHMamba2Mixer`.

    Δ is at least `time_step_min`, as in its torch code of any version and in its kernels since 5.15; before, its
    kernels take `time_step_limit` instead, and its torch code loses what was written more than a chunk ago
    (`chunk_size` tokens, a sum over the wrong axis): there closure fails.
    """

    family = "transformers NemotronHMamba2Mixer"
    mixers = ("transformers.models.nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer",)

    def dt_limit(self, mixer: Any) -> tuple[float, float]:
        """See `TransformersMamba2Adapter.dt_limit`."""
        return (mixer.config.time_step_min, float("inf"))

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Mamba, MLP, attention, experts, Mamba."""
        from transformers import NemotronHConfig, NemotronHForCausalLM

        config = NemotronHConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            layers_block_type=["mamba", "mlp", "attention", "moe", "mamba"],
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            mamba_num_heads=8,
            mamba_head_dim=4,
            ssm_state_size=6,
            n_groups=2,
            chunk_size=128,  # before 5.15 no output beyond a chunk is right
            n_routed_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            moe_shared_expert_intermediate_size=8,
            time_step_min=0.9,  # in the way of about half of all Δ
        )
        return NemotronHForCausalLM(config)
