"""DeltaNet."""

import torch
import torch.nn.functional as F

from fla.layers.layer import Layer, delta_rule, heads_of, same, silu, unit


class DeltaNet(Layer):
    def __init__(
        self,
        mode="chunk",
        hidden_size=1024,
        expand_k=1.0,
        expand_v=1.0,
        num_heads=4,
        use_beta=True,
        use_gate=False,
        use_short_conv=True,
        conv_size=4,
        conv_bias=False,
        allow_neg_eigval=False,
        layer_idx=None,
        qk_activation="silu",
        qk_norm="l2",
        norm_eps=1e-5,
    ):
        super().__init__()
        keys, values = round(hidden_size * expand_k), round(hidden_size * expand_v)
        self.num_heads, self.head_k_dim = num_heads, keys // num_heads
        self.head_v_dim = values // num_heads
        self.use_beta, self.use_gate, self.use_short_conv = use_beta, use_gate, use_short_conv
        self.qk_activation, self.qk_norm = qk_activation, qk_norm
        self.allow_neg_eigval, self.layer_idx = allow_neg_eigval, layer_idx
        self.add_projections(hidden_size, q=keys, k=keys, v=values)
        if use_beta:
            self.add_projections(hidden_size, b=num_heads)
        if use_short_conv:
            of_keys = "silu" if qk_activation == "silu" else None
            activations = (of_keys, of_keys, "silu")
            self.add_convolutions((keys, keys, values), conv_size, conv_bias, activations)
        self.add_output(hidden_size, values, norm_eps)

    def mix(self, hidden):
        of_keys = silu if self.qk_activation == "silu" else same
        q, k, v = self.branches(hidden, (of_keys, of_keys, silu))
        q, k = (heads_of(x, self.head_k_dim) for x in (q, k))
        if self.qk_activation == "relu":
            q, k = q.relu(), k.relu()
        elif self.qk_activation == "elu":
            q, k = F.elu(q) + 1, F.elu(k) + 1
        if self.qk_norm == "l2":
            q, k = unit(q), unit(k)
        else:
            q, k = (x / x.abs().sum(-1, keepdim=True).clamp(min=1e-6) for x in (q, k))
        beta = self.b_proj(hidden).sigmoid() if self.use_beta else torch.ones_like(q[..., 0])
        beta = beta * 2 if self.allow_neg_eigval else beta
        log_decay = torch.zeros_like(beta).unsqueeze(3)
        o = delta_rule(q, k, heads_of(v, self.head_v_dim), beta, log_decay)
        return self.put_out(o, hidden)
