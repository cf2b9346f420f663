"""Softmax attention of every library: the one mixer that is found by its class name, without a file per family.

mamba_ssm's `MHA` never returns its attention weights, so they are recomputed from its input. transformers' attention
returns them if it is eager. Its values can be read if it has only the usual projections.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import Adapter, CallRefusedError, MixerInput
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.attention import attention_operands, finish_attention
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.scan.operator import Operator
from ssmlens.scan.operators.softmax import SoftmaxWeights

_MHA = ("mamba_ssm.modules.mha.MHA", "ssmlens.models.attention.MHA")
# Attention with only these submodules computes o_proj of its heads and nothing else.
_USUAL_SUBMODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm", "rotary_emb"}


def is_mha(module: nn.Module) -> bool:
    """Whether this is mamba_ssm's `MHA` or its twin here."""
    return any(f"{c.__module__}.{c.__qualname__}" in _MHA for c in type(module).__mro__)


class SoftmaxAdapter(Adapter):
    """Any module of softmax attention."""

    family = "softmax attention"
    mixers = ()
    block_kind = names.ATTENTION

    def unreadable(self, mixer: nn.Module) -> str | None:
        """See `Adapter.unreadable`: fused attention of transformers does not return its weights."""
        chosen = getattr(getattr(mixer, "config", None), "_attn_implementation", "none")
        if is_mha(mixer) or chosen in (None, "eager"):
            return None
        return "softmax attention, whose weights this model does not return"

    def needs_weights(self, mixer: nn.Module) -> bool:
        """See `Adapter.needs_weights`: only to recompute the softmax weights."""
        return is_mha(mixer)

    def refusal(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
        """See `Adapter.refusal`. A cached step of transformers shows only in the shape of the weights it returns."""
        return super().refusal(mixer, args, kwargs) if is_mha(mixer) else None

    def read_output(
        self, mixer: nn.Module, given: MixerInput, output: Any
    ) -> tuple[MixerInput, Tensor]:
        """See `Adapter.read_output`. The softmax weights are added to the input."""
        first = output[0] if isinstance(output, tuple) else output
        if is_mha(mixer):
            return given, first
        others = output[1:] if isinstance(output, tuple) else ()
        weights = next(
            (part for part in others if isinstance(part, Tensor) and part.ndim == 4), None
        )
        if weights is None:
            raise CallRefusedError(f"{type(mixer).__name__} returned no attention weights")
        if weights.shape[2] != weights.shape[3]:
            raise CallRefusedError("a cached step is not recorded; record the prefill")
        return MixerInput(given.hidden, weights=weights), first

    def project(self, mixer: Any, given: MixerInput) -> Operator:
        """See `Adapter.project`. `x` has the values; None if they cannot be read."""
        if is_mha(mixer):
            return attention_operands(given.hidden, mixer, given.token_mask)
        assert given.weights is not None
        values = None if self.unclosable(mixer) else _values(mixer, given)
        return SoftmaxWeights(weights=given.weights, x=values)

    def finish(
        self, mixer: Any, y: Float[Tensor, "batch token head headdim"], operands: Operator
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        if is_mha(mixer):
            return finish_attention(y, operands.gate, mixer)
        return mixer.o_proj(y.flatten(2).to(mixer.o_proj.weight.dtype))

    def unclosable(self, mixer: nn.Module) -> str | None:
        """See `Adapter.unclosable`."""
        if is_mha(mixer):
            return None
        parts = {name for name, _ in mixer.named_children()}
        linear = all(isinstance(getattr(mixer, n, None), nn.Linear) for n in ("v_proj", "o_proj"))
        if not linear or not parts <= _USUAL_SUBMODULES:
            return f"the values of {type(mixer).__name__} cannot be read"
        query, out = getattr(mixer, "q_proj", None), mixer.o_proj
        if not isinstance(query, nn.Linear) or query.out_features != out.in_features:  # pyright: ignore
            return f"{type(mixer).__name__} does more with its heads than mix tokens"
        if any(parameter.is_meta for parameter in mixer.parameters()):
            return "its weights are offloaded"
        return None

    def weights(self, mixer: nn.Module) -> WeightViews:
        """See `Adapter.weights`. Scores compare none of its weights."""
        return WeightViews()

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        attention = {"causal": True, "num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 4}
        config = MambaConfig(
            d_model=16, n_layer=3, vocab_size=32, attn_layer_idx=[0, 2], attn_cfg=attention
        )
        return MambaLM(config)


SOFTMAX = SoftmaxAdapter()


def _values(mixer: Any, given: MixerInput) -> Float[Tensor, "batch token head headdim"]:
    """The values of every head; values that heads share are repeated."""
    assert given.weights is not None
    heads = given.weights.shape[1]
    size = mixer.o_proj.in_features // heads
    values = mixer.v_proj(given.hidden).unflatten(2, (-1, size))
    return values.repeat_interleave(heads // values.shape[2], dim=2)
