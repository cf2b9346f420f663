"""Softmax attention, of every library: the one mixer that is found by its class name, and that needs no file a family.

mamba_ssm's `MHA` never puts out its weights: they are made again from its input. transformers' attention puts them out
where it is eager, and its values can be read where it has nothing but the usual projections.
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
# What an attention module may hold for its output to be o_proj of its heads, and nothing else.
_PLAIN = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm", "rotary_emb"}


def is_mha(module: nn.Module) -> bool:
    """Whether this is mamba_ssm's `MHA`, or its twin."""
    return any(f"{c.__module__}.{c.__qualname__}" in _MHA for c in type(module).__mro__)


class SoftmaxAdapter(Adapter):
    """Any module of softmax attention."""

    family = "softmax attention"
    mixers = ()
    block_kind = names.ATTENTION

    def unreadable(self, mixer: nn.Module) -> str | None:
        """See `Adapter.unreadable`: fused attention of transformers keeps its weights to itself."""
        chosen = getattr(getattr(mixer, "config", None), "_attn_implementation", "none")
        if is_mha(mixer) or chosen in (None, "eager"):
            return None
        return "softmax attention, whose weights this model does not put out"

    def needs_weights(self, mixer: nn.Module) -> bool:
        """See `Adapter.needs_weights`: only where the softmax weights are made again."""
        return is_mha(mixer)

    def refusal(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
        """See `Adapter.refusal`. A cached step of transformers is known by the shape of its weights, afterwards."""
        return super().refusal(mixer, args, kwargs) if is_mha(mixer) else None

    def read_output(
        self, mixer: nn.Module, given: MixerInput, output: Any
    ) -> tuple[MixerInput, Tensor]:
        """See `Adapter.read_output`. The softmax weights join the input."""
        first = output[0] if isinstance(output, tuple) else output
        if is_mha(mixer):
            return given, first
        rest = output[1:] if isinstance(output, tuple) else ()
        weights = next((part for part in rest if isinstance(part, Tensor) and part.ndim == 4), None)
        if weights is None:
            raise CallRefusedError(f"{type(mixer).__name__} put out no attention weights")
        if weights.shape[2] != weights.shape[3]:
            raise CallRefusedError("a cached step is not recorded; record the prefill")
        return MixerInput(given.hidden, weights=weights), first

    def project(self, mixer: Any, given: MixerInput) -> Operator:
        """See `Adapter.project`. `x` are the values, None where they cannot be read."""
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
        if not linear or not parts <= _PLAIN:
            return f"the values of {type(mixer).__name__} cannot be read"
        query, out = getattr(mixer, "q_proj", None), mixer.o_proj
        if not isinstance(query, nn.Linear) or query.out_features != out.in_features:  # pyright: ignore
            return f"{type(mixer).__name__} does more to its heads than mix tokens"
        if any(parameter.is_meta for parameter in mixer.parameters()):
            return "its weights are offloaded"
        return None

    def weights(self, mixer: nn.Module) -> WeightViews:
        """See `Adapter.weights`: none that scores compare."""
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
    """The values of every head, those that heads share repeated for each."""
    assert given.weights is not None
    heads = given.weights.shape[1]
    size = mixer.o_proj.in_features // heads
    values = mixer.v_proj(given.hidden).unflatten(2, (-1, size))
    return values.repeat_interleave(heads // values.shape[2], dim=2)
