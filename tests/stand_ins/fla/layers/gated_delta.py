"""What Gated DeltaNet and Kimi Delta Attention share: the sizes of heads, and the mixing except for the decay."""

from fla.layers.layer import Layer, delta_rule, heads_of, silu, unit


class GatedDelta(Layer):
    def __init__(self, head_dim, expand_v, num_heads, num_v_heads):
        super().__init__()
        self.num_heads, self.num_v_heads = num_heads, num_v_heads or num_heads
        self.head_k_dim, self.head_v_dim = head_dim, round(head_dim * expand_v)
        self.keys, self.values = num_heads * head_dim, self.num_v_heads * self.head_v_dim

    def log_decay(self, hidden):
        """log α [batch token head key], or one for all keys of a head."""
        raise NotImplementedError

    def mix(self, hidden):
        q, k, v = self.branches(hidden, (silu, silu, silu))
        beta = self.b_proj(hidden).sigmoid() * (2 if self.allow_neg_eigval else 1)
        q, k = (unit(heads_of(x, self.head_k_dim)) for x in (q, k))
        v = heads_of(v, self.head_v_dim)
        return self.put_out(delta_rule(q, k, v, beta, self.log_decay(hidden)), hidden)
