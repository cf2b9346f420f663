"""transformers' Zamba2: Mamba-2, some blocks with shared attention."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersLeastStepAdapter


@register
class TransformersZamba2(TransformersLeastStepAdapter):
    """`transformers.models.zamba2.Zamba2MambaMixer`."""

    family = "transformers Zamba2MambaMixer"
    mixers = ("transformers.models.zamba2.modeling_zamba2.Zamba2MambaMixer",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. The second of its blocks has attention before its mixer."""
        from transformers import Zamba2Config, Zamba2ForCausalLM

        config = Zamba2Config(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            layers_block_type=["mamba", "hybrid", "mamba"],
            num_attention_heads=2,
            adapter_rank=4,
            n_mamba_heads=8,
            mamba_d_state=6,
            mamba_ngroups=2,
            chunk_size=128,  # before 5.15, outputs beyond one chunk are wrong
            time_step_min=0.9,  # clamps about half of all Δ
        )
        return Zamba2ForCausalLM(config)
