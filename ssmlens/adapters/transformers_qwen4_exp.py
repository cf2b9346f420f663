"""transformers' Qwen4-Exp: gated delta nets between hyper-connections, some blocks sparse softmax attention."""

from torch import nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.delta_shared import TINY, TINY_EXPERTS, QwenDeltaAdapter


@register
class TransformersQwen4Exp(QwenDeltaAdapter):
    """`transformers.models.qwen4_exp.Qwen4ExpTextGatedDeltaNet`."""

    family = "transformers Qwen4ExpTextGatedDeltaNet"
    mixers = ("transformers.models.qwen4_exp.modeling_qwen4_exp.Qwen4ExpTextGatedDeltaNet",)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Delta, softmax, delta; the gates are sigmoids."""
        from transformers import AutoModelForCausalLM, Qwen4ExpTextConfig

        config = Qwen4ExpTextConfig(
            **TINY,
            **TINY_EXPERTS,
            layer_types=["linear_attention", "indexed_attention", "linear_attention"],
            output_gate_type="sigmoid",
            hc_count=2,
            hc_lowrank=4,
            indexer_n_heads=2,
            indexer_kv_heads=1,
            indexer_head_dim=8,
            indexer_budget=8,
            indexer_compress_ratio=2,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")
