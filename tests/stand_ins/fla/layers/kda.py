"""Kimi Delta Attention."""

import torch
import torch.nn.functional as F
from torch import nn

from fla.layers.layer import Layer, delta_rule, heads_of, silu, unit
from fla.modules import FusedRMSNormGated


class KimiDeltaAttention(Layer):
    def __init__(
        self,
        hidden_size=2048,
        expand_v=1,
        head_dim=128,
        num_heads=16,
        num_v_heads=None,
        mode="chunk",
        use_short_conv=True,
        allow_neg_eigval=False,
        safe_gate=False,
        lower_bound=None,
        conv_size=4,
        conv_bias=False,
        layer_idx=None,
        norm_eps=1e-5,
    ):
        super().__init__()
        self.num_heads, self.num_v_heads = num_heads, num_v_heads or num_heads
        self.head_k_dim, self.head_v_dim = head_dim, round(head_dim * expand_v)
        self.use_short_conv, self.allow_neg_eigval = use_short_conv, allow_neg_eigval
        self.safe_gate, self.lower_bound, self.layer_idx = safe_gate, lower_bound, layer_idx
        heads, low = self.num_v_heads, self.head_v_dim
        keys, values = num_heads * head_dim, heads * self.head_v_dim
        for name, width in zip("qkvb", (keys, keys, values, heads), strict=True):
            self.add_module(f"{name}_proj", nn.Linear(hidden_size, width, bias=False))
        if use_short_conv:
            self.add_convolutions((keys, keys, values), conv_size, conv_bias)
        first = nn.Linear(hidden_size, low, bias=False)
        self.f_proj = nn.Sequential(first, nn.Linear(low, heads * head_dim, bias=False))
        rate = torch.ones(heads) if safe_gate else torch.empty(heads).uniform_(1, 16)
        self.A_log = nn.Parameter(rate.log())
        self.dt_bias = nn.Parameter(torch.empty(heads * head_dim).uniform_(-6.9, -2.3))
        first = nn.Linear(hidden_size, low, bias=False)
        self.g_proj = nn.Sequential(first, nn.Linear(low, values, bias=True))
        self.o_norm = FusedRMSNormGated(self.head_v_dim, activation="sigmoid", eps=norm_eps)
        self.o_proj = nn.Linear(values, hidden_size, bias=False)

    def mix(self, hidden):
        q, k, v = self.branches(hidden, (silu, silu, silu))
        beta = self.b_proj(hidden).sigmoid() * (2 if self.allow_neg_eigval else 1)
        step, rate = heads_of(self.f_proj(hidden) + self.dt_bias, self.head_k_dim), self.A_log.exp()
        if self.lower_bound is None:
            log_decay = -rate[:, None] * F.softplus(step)
        else:
            log_decay = self.lower_bound * (rate[:, None] * step).sigmoid()
        q, k = (unit(heads_of(x, self.head_k_dim)) for x in (q, k))
        o = delta_rule(q, k, heads_of(v, self.head_v_dim), beta, log_decay)
        return self.put_out(o, hidden)
