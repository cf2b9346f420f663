"""Kimi Delta Attention."""

import torch
import torch.nn.functional as F
from torch import nn

from fla.layers.gated_delta import GatedDelta
from fla.layers.layer import heads_of
from fla.modules import FusedRMSNormGated, low_rank


class KimiDeltaAttention(GatedDelta):
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
        super().__init__(head_dim, expand_v, num_heads, num_v_heads)
        self.use_short_conv, self.allow_neg_eigval = use_short_conv, allow_neg_eigval
        self.safe_gate, self.lower_bound, self.layer_idx = safe_gate, lower_bound, layer_idx
        heads, low = self.num_v_heads, self.head_v_dim
        keys, values = self.keys, self.values
        self.add_projections(hidden_size, q=keys, k=keys, v=values, b=heads)
        if use_short_conv:
            self.add_convolutions((keys, keys, values), conv_size, conv_bias)
        self.f_proj = low_rank(hidden_size, low, heads * head_dim, bias=False)
        rate = torch.ones(heads) if safe_gate else torch.empty(heads).uniform_(1, 16)
        self.A_log = nn.Parameter(rate.log())
        self.dt_bias = nn.Parameter(torch.empty(heads * head_dim).uniform_(-6.9, -2.3))
        self.g_proj = low_rank(hidden_size, low, values, bias=True)
        self.o_norm = FusedRMSNormGated(self.head_v_dim, activation="sigmoid", eps=norm_eps)
        self.o_proj = nn.Linear(values, hidden_size, bias=False)

    def log_decay(self, hidden):
        step = heads_of(self.f_proj(hidden) + self.dt_bias, self.head_k_dim)
        rate = self.A_log.exp()[:, None]
        if self.lower_bound is None:
            return -rate * F.softplus(step)
        return self.lower_bound * (rate * step).sigmoid()
