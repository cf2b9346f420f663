"""MambaLM's linear attention, alone and inside a Mamba block."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import Adapter, MixerInput, register
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.scan.operator import Operator


@register
class SsmlensLinearAttention(Adapter):
    """`ssmlens.models.linear_attention.LinearAttention`."""

    family = "ssmlens LinearAttention"
    mixers = ("ssmlens.models.linear_attention.LinearAttention",)

    def project(self, mixer: Any, given: MixerInput) -> Operator:
        """See `Adapter.project`."""
        return mixer.operands(given.hidden, given.token_mask)

    def finish(
        self, mixer: Any, y: Float[Tensor, "batch token head headdim"], operands: Operator
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        return mixer.finish(y, operands)

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. The rows of `in_proj` are values, keys (B) and queries (C) of all heads."""
        width = mixer.nheads * mixer.d_state
        _, W_k, W_q = mixer.in_proj.weight.split([mixer.d_model, width, width])
        per_head = (mixer.nheads, mixer.d_state)
        return WeightViews(W_B=W_k.unflatten(0, per_head), W_C=W_q.unflatten(0, per_head))

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        return _tiny_model("LinearAttention", nheads=2, normalise="rms")


@register
class SsmlensMambaLinearAttention(SsmlensLinearAttention):
    """`ssmlens.models.linear_attention.MambaLinearAttention`."""

    family = "ssmlens MambaLinearAttention"
    mixers = ("ssmlens.models.linear_attention.MambaLinearAttention",)

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. The rows of `x_proj` are steps, keys (B) and queries (C), in this order."""
        W_k, W_q = mixer.x_proj.weight[mixer.dt_rank :].chunk(2)
        D = None if mixer.D is None else mixer.D.unflatten(0, (mixer.nheads, -1))
        steps = {}
        if mixer.dt_rank:
            steps = {
                "W_dt": mixer.x_proj.weight[: mixer.dt_rank],
                "dt_proj": mixer.dt_proj.weight,
                "dt_bias": mixer.dt_proj.bias,
            }
        return WeightViews(
            **steps,
            D=D,
            W_B=W_k.unsqueeze(0),
            W_C=W_q.unsqueeze(0),
            conv=mixer.conv1d.weight.squeeze(1),
            conv_bias=mixer.conv1d.bias,
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        return _tiny_model("MambaLinearAttention")


def _tiny_model(layer: str, **arguments: Any) -> nn.Module:
    cfg = {"layer": layer, "layer_idx": [0, 1, 2], "d_state": 5} | arguments
    return MambaLM(MambaConfig(d_model=16, n_layer=3, vocab_size=32, linear_attn_cfg=cfg))
