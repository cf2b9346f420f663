"""transformers' Ling 3 (Bailing hybrid): Kimi Delta Attention with a bounded decay, some blocks latent attention."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import KimiDeltaAdapter


@register
class TransformersBailingHybrid(KimiDeltaAdapter):
    """`transformers.models.bailing_hybrid.BailingHybridDeltaAttention`."""

    family = "transformers BailingHybridDeltaAttention"
    mixers = (
        "transformers.models.bailing_hybrid.modeling_bailing_hybrid.BailingHybridDeltaAttention",
    )

    decay_layers = ("forget_gate.f_proj",)
    gate_layers = ("g_proj",)

    def decay_settings(self, mixer: Any) -> dict[str, Any]:
        """See `KimiDeltaAdapter.decay_settings`."""
        bound = mixer.forget_gate.lower_bound if mixer.forget_gate.safe_gate else None
        return {"decay_bound": bound, "round_decay": True}

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta."""
        from transformers import AutoModelForCausalLM, BailingHybridConfig

        config = BailingHybridConfig(
            vocab_size=32,
            hidden_size=24,
            intermediate_size=16,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            mlp_layer_types=["dense", "sparse", "dense"],
            num_attention_heads=3,
            num_key_value_heads=3,
            kv_lora_rank=6,
            qk_nope_head_dim=6,
            v_head_dim=6,
            qk_rope_head_dim=4,
            head_dim=8,
            num_local_experts=2,
            num_experts_per_tok=1,
            n_group=1,
            topk_group=1,
            moe_intermediate_size=8,
            pad_token_id=0,
            eos_token_id=1,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
