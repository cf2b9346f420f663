"""transformers' RecurrentGemma: real-gated linear recurrent units, every third block sliding-window softmax attention.

A channel is a head with one state (De et al. 2024, arXiv 2402.19427); x is the convolved input:

    h_t = a_t h_{t−1} + i_t √(1 − a_t²) x_t,    a_t = exp(−8 softplus(Λ) r_t),    i_t = σ(W_i x_t), r_t = σ(W_r x_t)

At position 0 of a prompt, a is 0 and the root is 1. So M[i,j] = (Π_{j<k≤i} a_k) w_j with w = i √(1 − a²): a decay scan
with Δ = w and B = C = 1. The first token of a call has nothing to forget. Its log a stays the gate's value, so that
means over tokens are those of the gate. No padding mask is applied. The output is linear_out(y · GELU(linear_y u)).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import Adapter, MixerInput, arguments, register
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.scan.operands import NOTHING_LEFT
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.surroundings import Surroundings


@register
class TransformersRecurrentGemma(Adapter):
    """`transformers.models.recurrent_gemma.RecurrentGemmaRecurrentBlock`."""

    family = "transformers RecurrentGemmaRecurrentBlock"
    mixers = (
        "transformers.models.recurrent_gemma.modeling_recurrent_gemma.RecurrentGemmaRecurrentBlock",
    )
    block_kind = names.RECURRENCE
    masks_padding = False
    cache_argument = "use_cache"  # the block itself stores the state
    fresh_norms = (0.0,)

    def read_input(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> MixerInput:
        """See `Adapter.read_input`. The mask in the call is for attention; this block ignores it."""
        given = arguments(mixer, args, kwargs)
        hidden = given["input_states"]
        positions = given["position_ids"].expand(hidden.shape[:2])
        return MixerInput(hidden, positions=positions)

    def cached_by(self, mixer: Any, given: Mapping[str, Any]) -> str | None:
        """See `Adapter.cached_by`. A block stores its own state, and resets it at position 0.

        A prompt of one token still reads what an earlier `generate` left in the convolution.
        """
        if given.get("use_cache") is False:
            return None
        positions = given.get("position_ids")
        if positions is None:
            cache = given.get("past_key_values")
            earlier = 0 if cache is None else cache.get_seq_length()
            return "past_key_values" if earlier else None
        taps, state = mixer.conv1d_state, mixer.rg_lru.recurrent_states
        if taps is None or state is None or len(state) != len(given.get("input_states", state)):
            return None
        continues = bool(state.any()) and bool((positions[:, 0] != 0).any())
        continues |= positions.shape[1] == 1 and bool(taps.any())
        return "use_cache" if continues else None

    def project(self, mixer: Any, given: MixerInput) -> DecayScan:
        """See `Adapter.project`."""
        hidden, tokens = given.hidden, given.hidden.shape[1]
        u = mixer.linear_x(hidden)
        x = mixer.conv_1d(u.mT)[..., :tokens].mT
        is_first = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        is_first[:, :1] = True
        if given.positions is not None:
            is_first = given.positions.to(x.device) == 0
        write, log_decay = _gates(mixer.rg_lru, x, is_first.unsqueeze(2))
        wide = scan_dtype(x)
        one = torch.ones_like(write[:, :, :1, None])
        return DecayScan(
            delta=write,
            A=None,
            B=one,
            C=one,
            x=x.to(wide).unsqueeze(3),
            gate=mixer.linear_y(hidden),
            log_decay=log_decay,
            surroundings=Surroundings(
                u=u,
                conv_weight=mixer.conv_1d.weight.squeeze(1),
                conv_bias=mixer.conv_1d.bias,
                gate_activation=mixer.act_fn,
            ),
        )

    def finish(
        self, mixer: Any, y: Float[Tensor, "batch token head headdim"], operands: Any
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        gate = mixer.act_fn(operands.gate)
        return mixer.linear_out(y.flatten(2).to(gate.dtype) * gate)

    def out_projection(self, mixer: Any) -> Any:
        """See `Adapter.out_projection`."""
        return mixer.linear_out

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. B and C are constants, and the weights of a and w are not rows per head."""
        return WeightViews(conv=mixer.conv_1d.weight.squeeze(1), conv_bias=mixer.conv_1d.bias)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Recurrence, softmax, recurrence."""
        from transformers import AutoModelForCausalLM, RecurrentGemmaConfig

        config = RecurrentGemmaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            block_types=["recurrent", "attention", "recurrent"],
            pad_token_id=0,
        )
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def _gates(
    unit: Any, x: Float[Tensor, "batch token channel"], is_first: Bool[Tensor, "batch token 1"]
) -> tuple[Float[Tensor, "batch token channel"], Float[Tensor, "batch token channel"]]:
    """Return w and log a of every channel, rounded where the unit rounds."""
    input_gate = torch.sigmoid(_by_block(x, unit.input_gate_weight, unit.input_gate_bias))
    recurrence_gate = torch.sigmoid(
        _by_block(x, unit.recurrent_gate_weight, unit.recurrent_gate_bias)
    )
    log_decay = -8.0 * recurrence_gate * F.softplus(unit.recurrent_param)
    squared = 1 - torch.exp(2 * log_decay)
    positive = squared > 0  # the root has no derivative at 0
    root = torch.where(positive, squared.where(positive, 1).sqrt(), 0).to(x.dtype)
    wide = scan_dtype(x)
    decay = torch.exp(log_decay).to(wide)
    forgets = is_first | (decay == 0)
    forgets[:, :1] = decay[:, :1] == 0
    log_decay = torch.where(forgets, NOTHING_LEFT, decay.where(~forgets, 1).log())
    return input_gate.to(wide) * root.to(wide).where(~is_first, 1), log_decay


def _by_block(
    x: Float[Tensor, "batch token channel"],
    weight: Float[Tensor, "block input output"],
    bias: Float[Tensor, "block output"],
) -> Float[Tensor, "batch token channel"]:
    """A linear layer of diagonal blocks."""
    rows = x.flatten(0, 1).unflatten(1, (len(weight), -1)).transpose(0, 1)
    return torch.baddbmm(bias.unsqueeze(1), rows, weight).transpose(0, 1).reshape(x.shape)
