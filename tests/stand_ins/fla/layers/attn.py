"""Softmax attention, which keeps its weights to itself; without the rotation."""

import torch.nn.functional as F

from fla.layers.layer import Layer, heads_of


class Attention(Layer):
    def __init__(self, hidden_size=2048, num_heads=32, num_kv_heads=None, layer_idx=None):
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_dim, self.layer_idx = hidden_size // num_heads, layer_idx
        keys = self.num_kv_heads * self.head_dim
        self.add_projections(hidden_size, q=hidden_size, k=keys, v=keys, o=hidden_size)

    def mix(self, hidden):
        q, k, v = (
            heads_of(getattr(self, f"{name}_proj")(hidden), self.head_dim).transpose(1, 2)
            for name in "qkv"
        )
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(o.transpose(1, 2).flatten(2))
