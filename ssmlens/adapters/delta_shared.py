"""Common code of transformers' delta-rule mixers: their arithmetic over named weights, and two sets of names."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.transformers_shared import TransformersAdapter
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.parameters import Number
from ssmlens.models.projections_delta import (
    DeltaInputs,
    DeltaWeights,
    finish_delta,
    project_delta,
)
from ssmlens.models.submodules import called
from ssmlens.scan.operators.delta_rule import DeltaRule

TINY: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
}
"""Settings of the tiny models of Qwen's families."""

TINY_EXPERTS: dict[str, Any] = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
"""Settings of those with experts."""

_QKV_BETA = ("q_proj", "k_proj", "v_proj", "b_proj")


@dataclasses.dataclass(frozen=True)
class DecayWeights:
    """Weights of log α = −exp(A_log) softplus(rows h + dt_bias), or bound · sigmoid(exp(A_log) (rows h + dt_bias)).

    Attributes:
        A_log: One value per head.
        dt_bias: One value per head, or one per state component, head after head.
        rows: The last matrix before the bias, of any shape; it shares the mixer's memory.
        bound: The lower bound of the log decay, or None.
    """

    A_log: Float[Tensor, "head"]
    dt_bias: Float[Tensor, "decay_row"]
    rows: Tensor
    bound: float | None = None

    def slow(self, c: Number, w_delta_scale: Number) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Return what `Adapter.slow_decay` returns. With w_delta_scale = 0 every log decay of every token is −exp(−c).

        A_log := −c and dt_bias := softplus⁻¹(1). If the decay is bounded, A_log := 0 and dt_bias := the log-odds of
        exp(−c) / |bound|.
        """
        log_rate, bias = -float(c), math.log(math.e - 1)
        if self.bound is not None:
            log_rate, bias = 0.0, -math.log(-self.bound * math.exp(c) - 1)
        return {
            "A": [(self.A_log, torch.full_like(self.A_log, log_rate))],
            "delta": [
                (self.dt_bias, torch.full_like(self.dt_bias, bias)),
                (self.rows, w_delta_scale * self.rows),
            ],
        }


class DeltaAdapter(TransformersAdapter):
    """Mixers that write with a delta rule (`models.projections_delta`).

    Attributes:
        norm: Name of the norm before the gate.
        out_proj: Name of the last layer.
        norm_takes_rows: Whether the norm takes batch, tokens and heads as one axis.
    """

    norm: str = "norm"
    out_proj: str = "out_proj"
    norm_takes_rows: bool = True

    block_kind = names.DELTA_RULE
    tf32_kernels = True  # flash-linear-attention's
    fresh_A_log = (-math.inf, math.log(16))

    @abstractmethod
    def named_weights(self, mixer: Any) -> DeltaWeights:
        """Return the weights and settings as `models.projections_delta` takes them."""

    @abstractmethod
    def call_layers(self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]) -> DeltaInputs:
        """Call the mixer's linear layers on its input; return their outputs."""

    def project(self, mixer: nn.Module, given: MixerInput) -> DeltaRule:
        """See `Adapter.project`."""
        return project_delta(given.hidden, self.named_weights(mixer), given.token_mask)

    def finish(
        self,
        mixer: nn.Module,
        y: Float[Tensor, "batch token head headdim"],
        operands: Any,
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        return finish_delta(y, operands.gate, self.named_weights(mixer))

    def weights(self, mixer: nn.Module) -> WeightViews:
        """See `Adapter.weights`. k plays the role of Mamba's B, q that of C."""
        w = self.named_weights(mixer)
        per_group = w.W_k.shape[:2]
        conv_q, conv_k, _ = w.conv_weight.split(w.widths)
        dt_bias = w.dt_bias if len(w.dt_bias) == w.heads else w.dt_bias.view(w.heads, -1)
        return WeightViews(
            A_log=w.A_log.unsqueeze(1),
            dt_bias=dt_bias,
            W_dt=w.W_decay[0] if len(w.W_decay) == 1 else None,
            W_B=w.W_k,
            W_C=w.W_q,
            W_beta=w.W_beta,
            conv=w.conv_weight,
            conv_B=conv_k.unflatten(0, per_group),
            conv_C=conv_q.unflatten(0, per_group),
        )

    def calls(self, mixer: Any, linear: Sequence[str]) -> dict[str, Any]:
        """Return the fields of `DeltaWeights` that say which layers must be called.

        Args:
            mixer: The mixer.
            linear: Names of the layers that `call_layers` calls.
        """
        layers = called(mixer, conv1d="conv1d", norm=self.norm, out_proj=self.out_proj)
        if (norm := layers.get("norm")) is not None and self.norm_takes_rows:
            layers["norm"] = lambda y, gate: norm(y.flatten(0, 2), gate.flatten(0, 2)).view_as(y)
        by_call = called(mixer, **{name: name for name in linear})
        inputs = partial(self.call_layers, mixer) if by_call else None
        return {"called": layers, "inputs": inputs}

    def settings(self, mixer: nn.Module) -> dict[str, Any]:
        """See `Adapter.settings`."""
        w = self.named_weights(mixer)
        return {"beta_scale": w.beta_scale, "decay_bound": w.decay_bound}

    def slow_decay(
        self, mixer: nn.Module, c: Number, w_delta_scale: Number
    ) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """See `Adapter.slow_decay`, and `DecayWeights.slow`."""
        w = self.named_weights(mixer)
        decay = DecayWeights(w.A_log, w.dt_bias, self.decay_rows(mixer), w.decay_bound)
        return decay.slow(c, w_delta_scale)

    def decay_rows(self, mixer: Any) -> Tensor:
        """Return `DecayWeights.rows`."""
        return self.named_weights(mixer).W_decay[-1]


class QwenDeltaAdapter(DeltaAdapter):
    """Families with the parameter and attribute names of Qwen3.5's gated delta net."""

    fresh_norms = (0.0, 1.0)

    def named_weights(self, mixer: Any) -> DeltaWeights:
        """See `DeltaAdapter.named_weights`. The rows of `in_proj_qkv` are those of q, k and v, in this order."""
        keys, d_k = mixer.key_dim, mixer.head_k_dim
        W_q, W_k, W_v = mixer.in_proj_qkv.weight.split([keys, keys, mixer.value_dim])
        return DeltaWeights(
            W_q=W_q.unflatten(0, (-1, d_k)),
            W_k=W_k.unflatten(0, (-1, d_k)),
            W_v=W_v.unflatten(0, (-1, mixer.head_v_dim)),
            W_beta=mixer.in_proj_b.weight,
            W_decay=(mixer.in_proj_a.weight,),
            W_gate=(mixer.in_proj_z.weight,),
            A_log=mixer.A_log,
            dt_bias=mixer.dt_bias,
            out_proj_weight=mixer.out_proj.weight,
            round_norm=True,
            **convolution(mixer),
            **gated_norm(mixer.norm),
            **self.calls(mixer, ("in_proj_qkv", "in_proj_b", "in_proj_a", "in_proj_z")),
        )

    def call_layers(self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]) -> DeltaInputs:
        """See `DeltaAdapter.call_layers`."""
        keys = mixer.key_dim
        return DeltaInputs(
            *mixer.in_proj_qkv(hidden).split([keys, keys, mixer.value_dim], dim=-1),
            beta=mixer.in_proj_b(hidden),
            decay=mixer.in_proj_a(hidden),
            gate=mixer.in_proj_z(hidden),
        )


class KimiDeltaAdapter(DeltaAdapter):
    """Families with the parameter and attribute names of Kimi Delta Attention: one decay per state component.

    Attributes:
        decay_layers: Layers that compute the decay's input, in order.
        gate_layers: Layers that compute the gate, in order.
    """

    decay_layers: tuple[str, ...] = ("forget_gate.f_a_proj", "forget_gate.f_b_proj")
    gate_layers: tuple[str, ...] = ("g_a_proj", "g_b_proj")
    norm = "o_norm"
    out_proj = "o_proj"
    norm_takes_rows = False

    def named_weights(self, mixer: Any) -> DeltaWeights:
        """See `DeltaAdapter.named_weights`."""
        per_head = (mixer.num_heads, mixer.head_dim)
        forget = mixer.forget_gate
        return DeltaWeights(
            W_q=mixer.q_proj.weight.unflatten(0, per_head),
            W_k=mixer.k_proj.weight.unflatten(0, per_head),
            W_v=mixer.v_proj.weight.unflatten(0, per_head),
            W_beta=mixer.b_proj.weight,
            W_decay=tuple(mixer.get_submodule(name).weight for name in self.decay_layers),
            W_gate=tuple(mixer.get_submodule(name).weight for name in self.gate_layers),
            A_log=forget.A_log.view(-1),
            dt_bias=forget.dt_bias,
            out_proj_weight=mixer.o_proj.weight,
            **convolution(mixer),
            **gated_norm(mixer.o_norm),
            **self.decay_settings(mixer),
            **self.calls(mixer, _QKV_BETA + self.decay_layers + self.gate_layers),
        )

    def call_layers(self, mixer: Any, hidden: Float[Tensor, "batch token d_model"]) -> DeltaInputs:
        """See `DeltaAdapter.call_layers`."""
        q, k, v, beta = (getattr(mixer, name)(hidden) for name in _QKV_BETA)
        decay = gate = hidden
        for name in self.decay_layers:
            decay = mixer.get_submodule(name)(decay)
        for name in self.gate_layers:
            gate = mixer.get_submodule(name)(gate)
        return DeltaInputs(q, k, v, beta, decay, gate)

    def decay_settings(self, mixer: Any) -> dict[str, Any]:
        """Return the fields of `DeltaWeights` that say how the decay is computed."""
        return {"softplus": softplus_by_log}


def convolution(mixer: Any) -> dict[str, Any]:
    """Return the convolution's fields of `DeltaWeights`."""
    return {
        "conv_weight": mixer.conv1d.weight.squeeze(1),
        "activation": _activation(mixer.activation),
    }


def gated_norm(norm: Any) -> dict[str, Any]:
    """Return the norm's and gate's fields of `DeltaWeights`; before transformers 5.15 the gate is always SiLU."""
    return {
        "norm_weight": norm.weight,
        "norm_eps": norm.variance_epsilon,
        "gate_activation": _activation(getattr(norm, "activation", "silu")),
    }


def softplus_by_log(x: Tensor) -> Tensor:
    """log(1 + exp(x)) as Kimi's torch code computes it. `F.softplus` differs: it is exact far below 0."""
    return torch.where(x > 20.0, x, torch.log(1.0 + torch.exp(x)))


def _activation(name: str) -> Any:
    from transformers.activations import ACT2FN

    return ACT2FN[name]
