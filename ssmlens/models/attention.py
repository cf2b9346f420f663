"""Plain-torch twin of mamba_ssm's `MHA`, the attention of its hybrids; and the operands of both.

Such a module does not return its attention weights. `attention_operands` computes them from its input and parameters,
as `projections` does for the operands of a mixer.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.errors import UsageError
from ssmlens.models.parameters import Number, depthwise
from ssmlens.models.projections import TokenMask, zero_padding
from ssmlens.scan.operators.softmax import SoftmaxScores, visible

Heads = Float[Tensor, "batch head token head_dim"]


class RotaryEmbedding(nn.Module):
    """Rotates pairs of a vector's first `dim` components, pair p by the angle position · base^(−2p/dim).

    Pair p is components p and p + dim/2, or 2p and 2p + 1 if interleaved (Su et al. 2021, arXiv:2104.09864). The module
    has no parameters. flash_attn's module of this name, which mamba_ssm uses, has the same attributes.
    """

    def __init__(self, dim: int, base: Number = 10000.0, interleaved: bool = False):
        super().__init__()
        self.dim, self.base, self.interleaved = dim, float(base), interleaved

    def forward(self, x: Heads) -> Heads:
        """Rotate `x` by its positions, counted from 0."""
        return rotate(x, self.dim, self.base, self.interleaved)


class MHA(nn.Module):
    """Multi-head self-attention: hidden states in, hidden states out, `[batch token embed_dim]`.

    Args:
        embed_dim: Width of the hidden states.
        num_heads: Number of heads.
        num_heads_kv: Number of heads of keys and values; each serves num_heads / num_heads_kv heads. None: num_heads.
        head_dim: Width of a head. None: embed_dim / num_heads.
        mlp_dim: Width of a gated MLP beside the heads, rounded up to a multiple of 256; 0 for none.
        qkv_proj_bias: Whether in_proj has a bias.
        out_proj_bias: Whether out_proj has a bias.
        softmax_scale: Factor on the scores. None: 1 / √head_dim.
        causal: Whether a token attends only to itself and earlier tokens.
        layer_idx: Index of the block in its model.
        d_conv: Taps of a convolution over queries, keys and values; 0 for none.
        rotary_emb_dim: Components of queries and keys that are rotated by their position; 0 for none.
        rotary_emb_base: Base of the rotations' frequencies.
        rotary_emb_interleaved: Whether a pair is two neighbouring components, not one of each half.
        device: Device of the parameters.
        dtype: Their dtype.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_heads_kv: int | None = None,
        head_dim: int | None = None,
        mlp_dim: int = 0,
        qkv_proj_bias: bool = True,
        out_proj_bias: bool = True,
        softmax_scale: Number | None = None,
        causal: bool = False,
        layer_idx: int | None = None,
        d_conv: int = 0,
        rotary_emb_dim: int = 0,
        rotary_emb_base: Number = 10000.0,
        rotary_emb_interleaved: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.num_heads_kv = num_heads if num_heads_kv is None else num_heads_kv
        if num_heads % self.num_heads_kv or (head_dim is None and embed_dim % num_heads):
            raise UsageError(
                f"MHA needs num_heads in num_heads_kv equal groups, and embed_dim in num_heads equal heads; "
                f"got embed_dim {embed_dim}, num_heads {num_heads}, num_heads_kv {self.num_heads_kv}"
            )
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.mlp_dim = math.ceil(mlp_dim / 256) * 256
        self.softmax_scale, self.causal = softmax_scale, causal
        self.d_conv, self.rotary_emb_dim = d_conv, rotary_emb_dim
        self.layer_idx = layer_idx

        factory = {"device": device, "dtype": dtype}
        width, width_kv = self.head_dim * num_heads, 2 * self.head_dim * self.num_heads_kv
        if rotary_emb_dim > 0:
            self.rotary_emb = RotaryEmbedding(
                rotary_emb_dim, rotary_emb_base, rotary_emb_interleaved
            )
        self.in_proj = nn.Linear(
            embed_dim, width + width_kv + self.mlp_dim, bias=qkv_proj_bias, **factory
        )
        if d_conv > 0:
            self.conv1d = depthwise(width + width_kv, d_conv, True, factory)
        self.out_proj = nn.Linear(
            width + self.mlp_dim // 2, embed_dim, bias=out_proj_bias, **factory
        )

    def forward(
        self,
        x: Float[Tensor, "batch token embed_dim"],
        attention_mask: TokenMask | None = None,
    ) -> Float[Tensor, "batch token embed_dim"]:
        """Mix the tokens: project, attend, project. `attention_mask` is 1 at real tokens and 0 at padding."""
        q, k, v, mlp = project_attention(x, self, attention_mask)
        scale, causal = self.softmax_scale, self.causal
        if attention_mask is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        else:
            mask = visible(x.shape[1], causal, attention_mask, x.device)
            assert mask is not None
            mask = mask.unsqueeze(1)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        context = mixed.transpose(1, 2).flatten(2)
        return self.out_proj(context if mlp is None else torch.cat([context, mlp], dim=-1))


def project_attention(
    x: Float[Tensor, "batch token embed_dim"], mha: Any, real: TokenMask | None = None
) -> tuple[Heads, Heads, Heads, Float[Tensor, "batch token width"] | None]:
    """Compute queries, keys and values of every head, and the output of the MLP beside them, or None.

    Args:
        x: The input of the module.
        mha: This module's `MHA`, or mamba_ssm's.
        real: 1 at real tokens, 0 at padding; the convolution reads padding as 0.
    """
    heads, shared, size = mha.num_heads, mha.num_heads_kv, mha.head_dim
    qkv, mlp = mha.in_proj(x), None
    if mha.mlp_dim > 0:
        qkv, up, gate = qkv.split([qkv.shape[2] - mha.mlp_dim, *[mha.mlp_dim // 2] * 2], dim=2)
        mlp = up * F.silu(gate)
    if mha.d_conv > 0:
        qkv = zero_padding(qkv, real)
        qkv = mha.conv1d(qkv.mT)[..., : qkv.shape[1]].mT
    split = qkv.unflatten(2, (heads + 2 * shared, size)).transpose(1, 2)
    q, k, v = split.split([heads, shared, shared], dim=1)
    if mha.rotary_emb_dim > 0:
        rotary = mha.rotary_emb
        q, k = (rotate(z, mha.rotary_emb_dim, rotary.base, rotary.interleaved) for z in (q, k))
    repeats = heads // shared
    return q, k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1), mlp


def attention_operands(
    x: Float[Tensor, "batch token embed_dim"], mha: Any, real: TokenMask | None = None
) -> SoftmaxScores:
    """The softmax operator of this module's `MHA`, or mamba_ssm's: its queries, keys and values.

    The output of the MLP beside the heads, if there is one, is in `gate`.
    """
    q, k, v, mlp = project_attention(x, mha, real)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    scale = q.shape[3] ** -0.5 if mha.softmax_scale is None else float(mha.softmax_scale)
    return SoftmaxScores(q=q, k=k, scale=scale, causal=bool(mha.causal), real=real, x=v, gate=mlp)


def finish_attention(
    y: Float[Tensor, "batch token head head_dim"],
    mlp: Float[Tensor, "batch token width"] | None,
    mha: Any,
) -> Float[Tensor, "batch token embed_dim"]:
    """The module's output, from the output of its heads."""
    context = y.flatten(2).to(mha.out_proj.weight.dtype)
    return mha.out_proj(context if mlp is None else torch.cat([context, mlp], dim=-1))


def rotate(x: Heads, dim: int, base: float, interleaved: bool) -> Heads:
    """Rotate as `RotaryEmbedding`. Angles are at least float32; sine and cosine are rounded to the dtype of `x`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    pairs = torch.arange(0, dim, 2, device=x.device, dtype=wide)
    position = torch.arange(x.shape[2], device=x.device, dtype=wide)
    angle = torch.outer(position, base ** (-pairs / dim))
    cos, sin = angle.cos().to(x.dtype).to(wide), angle.sin().to(x.dtype).to(wide)
    rotated, fixed = x[..., :dim].to(wide), x[..., dim:]
    shape, axis = ((dim // 2, 2), 4) if interleaved else ((2, dim // 2), 3)
    first, second = rotated.unflatten(3, shape).unbind(axis)
    new = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=axis)
    return torch.cat([new.flatten(3).to(x.dtype), fixed], dim=3)
