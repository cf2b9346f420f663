"""transformers' Nemotron-H: Mamba-2 blocks between blocks of attention, MLP and experts."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersLeastStepAdapter


@register
class TransformersNemotronH(TransformersLeastStepAdapter):
    """`transformers.models.nemotron_h.NemotronHMamba2Mixer`."""

    family = "transformers NemotronHMamba2Mixer"
    mixers = ("transformers.models.nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer",)

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
            chunk_size=128,  # before 5.15, outputs beyond one chunk are wrong
            n_routed_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            moe_shared_expert_intermediate_size=8,
            time_step_min=0.9,  # clamps about half of all Δ
        )
        return NemotronHForCausalLM(config)
