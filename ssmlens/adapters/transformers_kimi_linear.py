"""transformers' Kimi Linear: Kimi Delta Attention, some blocks latent softmax attention."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import KimiDeltaAdapter


@register
class TransformersKimiLinear(KimiDeltaAdapter):
    """`transformers.models.kimi_linear.KimiLinearDeltaAttention`."""

    family = "transformers KimiLinearDeltaAttention"
    mixers = ("transformers.models.kimi_linear.modeling_kimi_linear.KimiLinearDeltaAttention",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta."""
        from transformers import AutoModelForCausalLM, KimiLinearConfig

        config = KimiLinearConfig(
            vocab_size=32,
            hidden_size=24,
            intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            mlp_layer_types=["dense", "sparse", "dense"],
            num_attention_heads=2,
            num_key_value_heads=2,
            kv_lora_rank=6,
            qk_nope_head_dim=6,
            v_head_dim=6,
            qk_rope_head_dim=4,
            linear_num_heads=3,
            linear_head_dim=8,
            num_local_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
