"""What the layers share: padding taken out and put back, a cache, the convolutions, the recurrences."""

import torch
import torch.nn.functional as F
from torch import nn

from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution


class Layer(nn.Module):
    layer_idx = None

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        past_key_values=None,
        use_cache=False,
        output_attentions=False,
        **kwargs,
    ):
        new = hidden_states.shape[1]
        if past_key_values is not None:
            if len(past_key_values) > self.layer_idx and past_key_values[self.layer_idx]:
                before = past_key_values[self.layer_idx]["read"]
                hidden_states = torch.cat([before, hidden_states], dim=1)
            past_key_values.keep(self.layer_idx, hidden_states)
        if attention_mask is None:
            out = self.mix(hidden_states)
        else:
            out = torch.zeros_like(hidden_states)
            for row, real in enumerate(attention_mask.bool()):
                if real.any():
                    out[row, real] = self.mix(hidden_states[row, real][None])[0]
        return out[:, -new:], None, past_key_values

    def add_projections(self, hidden_size, **widths):
        """A projection NAME_proj of each width, without bias."""
        for name, width in widths.items():
            self.add_module(f"{name}_proj", nn.Linear(hidden_size, width, bias=False))

    def add_convolutions(self, widths, conv_size, conv_bias, activations=("silu",) * 3):
        for name, width, activation in zip("qkv", widths, activations, strict=True):
            conv = ShortConvolution(width, conv_size, conv_bias, activation)
            self.add_module(f"{name}_conv1d", conv)

    def add_output(self, hidden_size, values, norm_eps, activation="swish"):
        """o_norm, gated by g_proj if the layer uses a gate, and o_proj."""
        if self.use_gate:
            self.add_projections(hidden_size, g=values)
            self.o_norm = FusedRMSNormGated(self.head_v_dim, eps=norm_eps, activation=activation)
        else:
            self.o_norm = RMSNorm(self.head_v_dim, eps=norm_eps)
        self.o_proj = nn.Linear(values, hidden_size, bias=False)

    def branches(self, hidden, otherwise):
        """q, k and v; `otherwise` follows the projection where there is no convolution."""
        for name, activation in zip("qkv", otherwise, strict=True):
            x = getattr(self, f"{name}_proj")(hidden)
            yield getattr(self, f"{name}_conv1d")(x)[0] if self.use_short_conv else activation(x)

    def put_out(self, o, hidden):
        """o_proj of the normed heads, gated where there is a gate."""
        gate = (self.g_proj(hidden).view_as(o),) if hasattr(self, "g_proj") else ()
        return self.o_proj(self.o_norm(o, *gate).flatten(2))


def silu(x):
    return F.silu(x)


def same(x):
    return x


def heads_of(x, size):
    return x.unflatten(2, (-1, size))


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def delta_rule(q, k, v, beta, log_decay):
    """S = α S, S = S + β k (v − kᵀ S), o = d^−½ qᵀ S; S [batch head key value], token by token."""
    groups = v.shape[2] // k.shape[2]
    q, k = (x.repeat_interleave(groups, dim=2) for x in (q, k))
    S = torch.zeros(*v[:, 0].shape[:2], k.shape[3], v.shape[3]).to(v)
    put_out = []
    for t in range(v.shape[1]):
        S = S * log_decay[:, t].exp()[..., None]
        held = torch.einsum("bhk,bhkv->bhv", k[:, t], S)
        write = beta[:, t, :, None] * (v[:, t] - held)
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, t], write)
        put_out.append(torch.einsum("bhk,bhkv->bhv", q[:, t], S) * k.shape[3] ** -0.5)
    return torch.stack(put_out, dim=1)
