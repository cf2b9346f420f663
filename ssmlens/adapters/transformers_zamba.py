"""transformers' Zamba: Mamba-1 with an x_proj and a dt_proj per group, some blocks with shared attention."""

from typing import Any

from torch import Tensor, nn

from ssmlens.adapters.adapter import register
from ssmlens.adapters.transformers_shared import TransformersMamba1Adapter
from ssmlens.models.projections import Mamba1Weights
from ssmlens.models.submodules import called


@register
class TransformersZamba(TransformersMamba1Adapter):
    """`transformers.models.zamba.ZambaMambaMixer`.

    Its `n_mamba_heads` are groups here: a channel is a head, as everywhere in Mamba-1, and the channels of a group
    share B and C. The rows of in_proj alternate between x and the gate.
    """

    family = "transformers ZambaMambaMixer"
    mixers = ("transformers.models.zamba.modeling_zamba.ZambaMambaMixer",)

    def named_weights(self, mixer: Any) -> Mamba1Weights:
        """See `Mamba1Adapter.named_weights`."""
        bias = mixer.in_proj.bias
        calls = called(mixer, in_proj="in_proj", conv1d="conv1d", out_proj="out_proj")
        if (in_proj := calls.get("in_proj")) is not None:
            calls["in_proj"] = lambda u: _first_x_then_gate(in_proj(u).movedim(-1, 0)).movedim(
                0, -1
            )
        return Mamba1Weights(
            in_proj_weight=_first_x_then_gate(mixer.in_proj.weight),
            in_proj_bias=None if bias is None else _first_x_then_gate(bias),
            conv_weight=mixer.conv1d.weight.squeeze(1),
            conv_bias=mixer.conv1d.bias,
            x_proj_weight=mixer.x_proj_weight,
            dt_proj_weight=mixer.dt_proj_weight,
            dt_bias=mixer.dt_proj_bias.flatten(),
            A_log=mixer.A_log.flatten(0, 1),
            D=mixer.D.flatten(),
            out_proj_weight=mixer.out_proj.weight,
            out_proj_bias=mixer.out_proj.bias,
            activation=mixer.act,
            called=calls,
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. The third and the fifth of its blocks have attention before their mixers."""
        from transformers import ZambaConfig, ZambaForCausalLM

        config = ZambaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=5,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            n_mamba_heads=2,
            mamba_d_state=5,
            mamba_dt_rank=3,
            use_mamba_kernels=False,
        )
        return ZambaForCausalLM(config)


def _first_x_then_gate(rows: Tensor) -> Tensor:
    return rows.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)
