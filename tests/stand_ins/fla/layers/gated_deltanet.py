"""Gated DeltaNet."""

import torch
import torch.nn.functional as F
from torch import nn

from fla.layers.layer import Layer, delta_rule, heads_of, silu, unit
from fla.modules import FusedRMSNormGated, RMSNorm


class GatedDeltaNet(Layer):
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
        super().__init__()
        self.num_heads, self.num_v_heads = num_heads, num_v_heads or num_heads
        self.head_k_dim, self.head_v_dim = head_dim, round(head_dim * expand_v)
        self.use_gate, self.use_short_conv = use_gate, use_short_conv
        self.allow_neg_eigval, self.layer_idx = allow_neg_eigval, layer_idx
        keys, values = num_heads * head_dim, self.num_v_heads * self.head_v_dim
        widths = (keys, keys, values, self.num_v_heads, self.num_v_heads)
        for name, width in zip("qkvab", widths, strict=True):
            self.add_module(f"{name}_proj", nn.Linear(hidden_size, width, bias=False))
        self.A_log = nn.Parameter(torch.empty(self.num_v_heads).uniform_(0, 16).log())
        self.dt_bias = nn.Parameter(torch.empty(self.num_v_heads).uniform_(-6.9, -2.3))
        if use_short_conv:
            self.add_convolutions((keys, keys, values), conv_size, conv_bias)
        if use_gate:
            self.g_proj = nn.Linear(hidden_size, values, bias=False)
            activation = {"activation": output_gate_activation}
            self.o_norm = FusedRMSNormGated(self.head_v_dim, eps=norm_eps, **activation)
        else:
            self.o_norm = RMSNorm(self.head_v_dim, eps=norm_eps)
        self.o_proj = nn.Linear(values, hidden_size, bias=False)

    def mix(self, hidden):
        q, k, v = self.branches(hidden, (silu, silu, silu))
        beta = self.b_proj(hidden).sigmoid() * (2 if self.allow_neg_eigval else 1)
        log_decay = -self.A_log.exp() * F.softplus(self.a_proj(hidden) + self.dt_bias)
        q, k = (unit(heads_of(x, self.head_k_dim)) for x in (q, k))
        o = delta_rule(q, k, heads_of(v, self.head_v_dim), beta, log_decay.unsqueeze(3))
        return self.put_out(o, hidden)
