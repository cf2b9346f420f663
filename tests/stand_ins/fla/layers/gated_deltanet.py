"""Gated DeltaNet."""

import torch
import torch.nn.functional as F
from torch import nn

from fla.layers.gated_delta import GatedDelta


class GatedDeltaNet(GatedDelta):
    def __init__(
        self,
        hidden_size=2048,
        expand_v=2,
        head_dim=256,
        num_heads=6,
        num_v_heads=None,
        mode="chunk",
        use_gate=True,
        use_short_conv=True,
        allow_neg_eigval=False,
        conv_size=4,
        conv_bias=False,
        layer_idx=None,
        norm_eps=1e-5,
        output_gate_activation="swish",
    ):
        super().__init__(head_dim, expand_v, num_heads, num_v_heads)
        self.use_gate, self.use_short_conv = use_gate, use_short_conv
        self.allow_neg_eigval, self.layer_idx = allow_neg_eigval, layer_idx
        keys, values, heads = self.keys, self.values, self.num_v_heads
        self.add_projections(hidden_size, q=keys, k=keys, v=values, a=heads, b=heads)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(0, 16).log())
        self.dt_bias = nn.Parameter(torch.empty(heads).uniform_(-6.9, -2.3))
        if use_short_conv:
            self.add_convolutions((keys, keys, values), conv_size, conv_bias)
        self.add_output(hidden_size, values, norm_eps, output_gate_activation)

    def log_decay(self, hidden):
        step = F.softplus(self.a_proj(hidden) + self.dt_bias)
        return (-self.A_log.exp() * step).unsqueeze(3)
