"""Norms, the short convolution, an MLP, and the cache."""

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, elementwise_affine=True, eps=1e-5, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size)) if elementwise_affine else None
        self.eps = eps

    def normalise(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide if self.weight is None else wide * self.weight.to(wide)

    def forward(self, x):
        return self.normalise(x).to(x)


class FusedRMSNormGated(RMSNorm):
    def __init__(self, hidden_size, elementwise_affine=True, eps=1e-5, activation="swish"):
        super().__init__(hidden_size, elementwise_affine, eps)
        self.activation = activation

    def forward(self, x, g):
        wide = self.normalise(x)
        g = g.to(wide)
        opened = g.sigmoid() if self.activation == "sigmoid" else g * g.sigmoid()
        return (wide * opened).to(x)


class ShortConvolution(nn.Conv1d):
    def __init__(self, hidden_size, kernel_size, bias=False, activation="silu"):
        padding = kernel_size - 1
        super().__init__(
            hidden_size, hidden_size, kernel_size, groups=hidden_size, bias=bias, padding=padding
        )
        self.activation = activation

    def forward(self, x):
        y = super().forward(x.mT)[..., : x.shape[1]].mT
        return (y if self.activation is None else F.silu(y)), None


class GatedMLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def low_rank(hidden_size, rank, width, bias):
    """A projection through fewer channels."""
    first = nn.Linear(hidden_size, rank, bias=False)
    return nn.Sequential(first, nn.Linear(rank, width, bias=bias))


class Cache:
    """A state a layer: here, all that the layer has read."""

    def __init__(self):
        self.states = []

    def __len__(self):
        return len(self.states)

    def __getitem__(self, layer_idx):
        return self.states[layer_idx]

    def keep(self, layer_idx, read):
        while len(self.states) <= layer_idx:
            self.states.append(None)
        self.states[layer_idx] = {"read": read}
