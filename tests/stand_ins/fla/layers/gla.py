"""Gated linear attention."""

import torch
import torch.nn.functional as F
from torch import nn

from fla.layers.layer import Layer, heads_of, same
from fla.modules import FusedRMSNormGated, RMSNorm, low_rank

ACTIVATIONS = {"relu": F.relu, "sigmoid": torch.sigmoid, "swish": F.silu}


class GatedLinearAttention(Layer):
    def __init__(
        self,
        mode="chunk",
        hidden_size=1024,
        expand_k=0.5,
        expand_v=1.0,
        num_heads=4,
        num_kv_heads=None,
        feature_map=None,
        use_short_conv=False,
        conv_size=4,
        conv_bias=False,
        use_output_gate=True,
        gate_fn="swish",
        elementwise_affine=True,
        norm_eps=1e-5,
        gate_logit_normalizer=16,
        gate_low_rank_dim=16,
        clamp_min=None,
        fuse_norm=True,
        layer_idx=None,
    ):
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.num_kv_groups = num_heads // self.num_kv_heads
        self.feature_map_fn = None if feature_map is None else ACTIVATIONS[feature_map]
        self.use_short_conv, self.use_output_gate = use_short_conv, use_output_gate
        self.gate_logit_normalizer, self.clamp_min = gate_logit_normalizer, clamp_min
        self.layer_idx = layer_idx
        queries, values = round(hidden_size * expand_k), round(hidden_size * expand_v)
        self.head_k_dim, self.head_v_dim = queries // num_heads, values // num_heads
        keys, shared = (width // self.num_kv_groups for width in (queries, values))
        self.add_projections(hidden_size, q=queries, k=keys, v=shared)
        if use_output_gate:
            self.add_projections(hidden_size, g=values)
        if use_short_conv:
            self.add_convolutions((queries, keys, shared), conv_size, conv_bias)
        self.gk_proj = low_rank(hidden_size, gate_low_rank_dim, keys, bias=True)
        self.o_proj = nn.Linear(values, hidden_size, bias=False)
        self.fuse_norm_and_gate = gate_fn == "swish" and fuse_norm and use_output_gate
        norm = FusedRMSNormGated if self.fuse_norm_and_gate else RMSNorm
        name = "g_norm_swish_gate" if self.fuse_norm_and_gate else "g_norm"
        self.add_module(name, norm(self.head_v_dim, elementwise_affine, norm_eps))
        if not self.fuse_norm_and_gate:
            self.gate_fn = ACTIVATIONS[gate_fn]

    def mix(self, hidden):
        q, k, v = self.branches(hidden, (same, same, same))
        q, k, v = (
            heads_of(q, self.head_k_dim),
            heads_of(k, self.head_k_dim),
            heads_of(v, self.head_v_dim),
        )
        log_decay = F.logsigmoid(heads_of(self.gk_proj(hidden), self.head_k_dim))
        log_decay = log_decay / self.gate_logit_normalizer
        if self.clamp_min is not None:
            log_decay = log_decay.clamp(min=self.clamp_min)
        if self.feature_map_fn is not None:
            q, k = self.feature_map_fn(q), self.feature_map_fn(k)
        k, v, log_decay = (x.repeat_interleave(self.num_kv_groups, 2) for x in (k, v, log_decay))
        S = torch.zeros(*v[:, 0].shape[:2], k.shape[3], v.shape[3]).to(v)
        o = torch.zeros_like(v)
        for t in range(v.shape[1]):
            written = torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
            S = S * log_decay[:, t, :, :, None].exp() + written
            o[:, t] = torch.einsum("bhk,bhkv->bhv", q[:, t], S) * k.shape[3] ** -0.5
        if not self.use_output_gate:
            return self.o_proj(self.g_norm(o).flatten(2))
        g = self.g_proj(hidden)
        if self.fuse_norm_and_gate:
            return self.o_proj(self.g_norm_swish_gate(o, g.view_as(o)).flatten(2))
        return self.o_proj(self.g_norm(o).flatten(2) * self.gate_fn(g))
