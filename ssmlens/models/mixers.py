"""Mixers by name: plain-torch twins of mamba_ssm's, and linear attention."""

from torch import nn

from ssmlens.errors import UsageError
from ssmlens.models.attention import MHA
from ssmlens.models.linear_attention import LinearAttention, MambaLinearAttention
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.mamba2_simple import Mamba2Simple
from ssmlens.models.mamba3 import Mamba3

MIXERS: dict[str, type[nn.Module]] = {
    "Mamba": Mamba,
    "Mamba2": Mamba2,
    "Mamba2Simple": Mamba2Simple,
    "Mamba3": Mamba3,
    "MHA": MHA,
    "MambaLinearAttention": MambaLinearAttention,
    "LinearAttention": LinearAttention,
}


def build_mixer(name: str, **arguments: object) -> nn.Module:
    """Build a mixer from its class's name (as in mamba_ssm, such as "Mamba2") and that class's arguments."""
    if name not in MIXERS:
        raise UsageError(f"unknown mixer {name!r}; choose from: {', '.join(MIXERS)}")
    return MIXERS[name](**arguments)
