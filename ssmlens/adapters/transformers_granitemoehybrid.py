"""transformers' Granite 4 hybrid: Mamba-2 between attention blocks, every block with experts."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba2Adapter


@register
class TransformersGraniteMoeHybrid(TransformersMamba2Adapter):
    """`transformers.models.granitemoehybrid.GraniteMoeHybridMambaLayer`."""

    family = "transformers GraniteMoeHybridMambaLayer"
    mixers = ("transformers.models.granitemoehybrid.modeling_granitemoehybrid.GraniteMoeHybridMambaLayer",)  # fmt: skip

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Mamba, attention, Mamba."""
        from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

        config = GraniteMoeHybridConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            shared_intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["mamba", "attention", "mamba"],
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=2,
            num_experts_per_tok=1,
            mamba_n_heads=8,
            mamba_n_groups=2,
            mamba_d_state=6,
            mamba_chunk_size=16,
            time_step_limit=(0.5, 1.2),
        )
        return GraniteMoeHybridForCausalLM(config)
