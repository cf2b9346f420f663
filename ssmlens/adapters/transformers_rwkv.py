"""transformers' RWKV-4 (Peng et al. 2023, arXiv 2305.13048): a normalised decay scan.

A channel is a head with one state, a decay w = exp(time_decay) and a bonus b = time_first for the token itself:

    y_i = (Σ_{j<i} exp(k_j − (i − 1 − j) w) v_j + exp(k_i + b) v_i) / (the same sum without v)

A row of M sums to 1. The recurrence carries the largest exponent so far, as the model's own code does, since the sums
would overflow:

    P_i = max(P_{i−1} − w, k_i)     log a_i = P_{i−1} − w − P_i     a token writes exp(k_i − P_i)
    Q_i = max(P_{i−1}, k_i + b)     C_i = exp(w + P_i − Q_i) / Z_i  and reads exp(k_i + b − w − P_i) of itself,

where Z_i is the denominator divided by exp(Q_i). The output is output(y · σ(receptance)). k, v and the receptance are
computed from a token and the one before it. No padding mask is applied.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import Adapter, MixerInput, arguments, register
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.normalised_scan import NormalisedScan
from ssmlens.scan.surroundings import Surroundings


@register
class TransformersRwkv(Adapter):
    """`transformers.models.rwkv.RwkvSelfAttention`."""

    family = "transformers RwkvSelfAttention"
    mixers = ("transformers.models.rwkv.modeling_rwkv.RwkvSelfAttention",)
    block_kind = names.RECURRENCE
    masks_padding = False
    cache_argument = "state"

    def read_input(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> MixerInput:
        """See `Adapter.read_input`. The mixer takes no mask."""
        return MixerInput(arguments(mixer, args, kwargs)["hidden"])

    def cached_by(self, mixer: Any, given: Mapping[str, Any]) -> str | None:
        """See `Adapter.cached_by`. Before the first token, the state is empty."""
        state = given.get("state")
        has_state = state is not None and bool(state[1][:, :, mixer.layer_id].any())
        return "state" if has_state else None

    def project(self, mixer: Any, given: MixerInput) -> NormalisedScan:
        """See `Adapter.project`."""
        receptance, key, value = (
            layer(_shifted(given.hidden, share))
            for layer, share in (
                (mixer.receptance, mixer.time_mix_receptance),
                (mixer.key, mixer.time_mix_key),
                (mixer.value, mixer.time_mix_value),
            )
        )
        wide = scan_dtype(key)
        decay, bonus = mixer.time_decay.to(wide).exp(), mixer.time_first.to(wide)
        write, now, read, log_decay = _normalised(key.to(wide), decay, bonus)
        return NormalisedScan(
            delta=write,
            A=None,
            B=torch.ones_like(read).unsqueeze(3),
            C=read.unsqueeze(3),
            x=value.to(wide).unsqueeze(3),
            gate=receptance,
            log_decay=log_decay,
            write_now=now,
            surroundings=Surroundings(gate_activation=torch.sigmoid),
        )

    def finish(
        self, mixer: Any, y: Float[Tensor, "batch token head headdim"], operands: Any
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        gate = torch.sigmoid(operands.gate)
        return mixer.output(gate * y.flatten(2).to(gate.dtype))

    def out_projection(self, mixer: Any) -> Any:
        """See `Adapter.out_projection`."""
        return mixer.output

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. Keys are scalars, so there is no W_B. time_decay is log w, and A is −w."""
        return WeightViews(A_log=mixer.time_decay.unsqueeze(1))

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        from transformers import AutoModelForCausalLM, RwkvConfig

        config = RwkvConfig(
            vocab_size=32,
            hidden_size=16,
            attention_hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            context_length=128,
            rescale_every=2,
        )
        return AutoModelForCausalLM.from_config(config)


def _shifted(
    hidden: Float[Tensor, "batch token d_model"], share: Float[Tensor, "1 1 d_model"]
) -> Float[Tensor, "batch token d_model"]:
    """Average each token and the one before it, weighted by channel."""
    before = nn.functional.pad(hidden, (0, 0, 1, -1))
    return hidden * share + before * (1 - share)


def _normalised(
    k: Float[Tensor, "batch token head"],
    w: Float[Tensor, " head"],
    bonus: Float[Tensor, " head"],
) -> tuple[Float[Tensor, "batch token head"], ...]:
    """Return the weights of writes and of a token's own value, C and log a (see the module's docstring)."""
    largest = [k[:, 0]]
    for key in k[:, 1:].unbind(1):
        largest.append(torch.maximum(largest[-1] - w, key))
    P = torch.stack(largest, dim=1)
    before = torch.cat([torch.full_like(P[:, :1], -torch.inf), P[:, :-1]], dim=1)
    Q = torch.maximum(before, k + bonus)
    write = torch.exp(k - P)
    log_decay = before - w - P
    log_decay[:, 0] = 0
    state, earlier = torch.zeros_like(write[:, 0]), []
    for written, decay in zip(write.unbind(1), log_decay.exp().unbind(1), strict=True):
        earlier.append(state)
        state = decay * state + written
    Z = torch.exp(before - Q) * torch.stack(earlier, dim=1) + torch.exp(k + bonus - Q)
    return write, torch.exp(k + bonus - w - P), torch.exp(w + P - Q) / Z, log_decay
