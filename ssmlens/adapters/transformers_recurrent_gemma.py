"""transformers' RecurrentGemma: real-gated linear recurrent units, every third block softmax attention of a window.

A channel is a head of one state (De et al. 2024, arXiv 2402.19427), with x the convolved input:

    h_t = a_t h_{t−1} + i_t √(1 − a_t²) x_t,    a_t = exp(−8 softplus(Λ) r_t),    i_t = σ(W_i x_t), r_t = σ(W_r x_t)

At position 0 of a prompt a is 0 and the root is 1. So M[i,j] = (Π_{j<k≤i} a_k) w_j with w = i √(1 − a²): a decay scan
of Δ = w and B = C = 1. Before a call's first token there is nothing to forget: there log a is kept as the gate has it,
so that means over tokens are those of the gate. No padding mask is applied. Then come GELU(linear_y u) and linear_out.
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
    cache_argument = "use_cache"  # the state itself is the block's own
    fresh_norms = (0.0,)

    def read_input(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> MixerInput:
        """See `Adapter.read_input`. The mask that the block is handed is its attention's, and it ignores it."""
        given = arguments(mixer, args, kwargs)
        hidden = given["input_states"]
        positions = given["position_ids"].expand(hidden.shape[:2])
        return MixerInput(hidden, positions=positions)

    def cached_by(self, mixer: Any, given: Mapping[str, Any]) -> str | None:
        """See `Adapter.cached_by`. A block keeps its state to itself, and forgets it at position 0.

        But a prompt of one token reads what an earlier `generate` left in the convolution.
        """
        if given.get("use_cache") is False:
            return None
        positions = given.get("position_ids")
        if positions is None:
            cache = given.get("past_key_values")
            seen = 0 if cache is None else cache.get_seq_length()
            return "past_key_values" if seen else None
        taps, state = mixer.conv1d_state, mixer.rg_lru.recurrent_states
        if taps is None or state is None or len(state) != len(given.get("input_states", state)):
            return None
        goes_on = bool(state.any()) and bool((positions[:, 0] != 0).any())
        goes_on |= positions.shape[1] == 1 and bool(taps.any())
        return "use_cache" if goes_on else None

    def project(self, mixer: Any, given: MixerInput) -> DecayScan:
        """See `Adapter.project`."""
        hidden, tokens = given.hidden, given.hidden.shape[1]
        u = mixer.linear_x(hidden)
        x = mixer.conv_1d(u.mT)[..., :tokens].mT
        begins = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        begins[:, :1] = True
        if given.positions is not None:
            begins = given.positions.to(x.device) == 0
        write, log_decay = _gates(mixer.rg_lru, x, begins.unsqueeze(2))
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
        """See `Adapter.weights`. Nothing makes B and C, and what makes a and w is no row a head."""
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
    unit: Any, x: Float[Tensor, "batch token channel"], begins: Bool[Tensor, "batch token 1"]
) -> tuple[Float[Tensor, "batch token channel"], Float[Tensor, "batch token channel"]]:
    """w and log a of every channel, rounded where the unit rounds."""
    taken = torch.sigmoid(_by_block(x, unit.input_gate_weight, unit.input_gate_bias))
    kept = torch.sigmoid(_by_block(x, unit.recurrent_gate_weight, unit.recurrent_gate_bias))
    log_decay = -8.0 * kept * F.softplus(unit.recurrent_param)
    written = 1 - torch.exp(2 * log_decay)
    some = written > 0  # the root has no slope at 0
    root = torch.where(some, written.where(some, 1).sqrt(), 0).to(x.dtype)
    wide = scan_dtype(x)
    decay = torch.exp(log_decay).to(wide)
    gone = begins | (decay == 0)
    gone[:, :1] = decay[:, :1] == 0
    log_decay = torch.where(gone, NOTHING_LEFT, decay.where(~gone, 1).log())
    return taken.to(wide) * root.to(wide).where(~begins, 1), log_decay


def _by_block(
    x: Float[Tensor, "batch token channel"],
    weight: Float[Tensor, "block input output"],
    bias: Float[Tensor, "block output"],
) -> Float[Tensor, "batch token channel"]:
    """A linear layer of diagonal blocks."""
    rows = x.flatten(0, 1).unflatten(1, (len(weight), -1)).transpose(0, 1)
    return torch.baddbmm(bias.unsqueeze(1), rows, weight).transpose(0, 1).reshape(x.shape)
