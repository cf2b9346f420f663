"""The layers."""

from fla.layers.attn import Attention
from fla.layers.delta_net import DeltaNet
from fla.layers.gated_deltanet import GatedDeltaNet
from fla.layers.gla import GatedLinearAttention
from fla.layers.kda import KimiDeltaAttention
from fla.layers.rwkv7 import RWKV7Attention

__all__ = [
    "Attention",
    "DeltaNet",
    "GatedDeltaNet",
    "GatedLinearAttention",
    "KimiDeltaAttention",
    "RWKV7Attention",
]
