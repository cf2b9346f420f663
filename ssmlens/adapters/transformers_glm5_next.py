"""transformers' GLM-5 next: Kimi Delta Attention between hyper-connections, some blocks sparse softmax attention."""

from typing import Any

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import KimiDeltaAdapter, softplus_by_log


@register
class TransformersGlm5Next(KimiDeltaAdapter):
    """`transformers.models.glm5_next.Glm5NextTextLinearAttention`."""

    family = "transformers Glm5NextTextLinearAttention"
    mixers = ("transformers.models.glm5_next.modeling_glm5_next.Glm5NextTextLinearAttention",)

    def decay_settings(self, mixer: Any) -> dict[str, Any]:
        """See `KimiDeltaAdapter.decay_settings`."""
        bound = mixer.forget_gate.safe_gate_lower_bound
        return {"decay_bound": bound, "softplus": softplus_by_log}

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta, beside a vision model."""
        from transformers import AutoModelForImageTextToText, Glm5NextConfig

        text = {
            "vocab_size": 32,
            "hidden_size": 24,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
            "mlp_layer_types": ["dense", "sparse", "dense"],
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "kv_lora_rank": 6,
            "qk_nope_head_dim": 6,
            "v_head_dim": 6,
            "q_lora_rank": 6,
            "linear_num_heads": 3,
            "linear_head_dim": 8,
            "n_routed_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 8,
            "hc_mult": 2,
            "index_topk": 8,
            "index_kpool": 2,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "pad_token_id": 0,
        }
        vision = {
            "depth": 1,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_heads": 2,
            "out_hidden_size": 24,
            "projection_intermediate_size": 8,
        }
        config = Glm5NextConfig(
            text_config=text,
            vision_config=vision,
        )
        return AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
