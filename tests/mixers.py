"""Mixers of ssmlens.models by the name of their class, as tests are parametrised over them."""

from ssmlens.models.attention import MHA
from ssmlens.models.linear_attention import LinearAttention, MambaLinearAttention
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.mamba3 import Mamba3

_CLASSES = (Mamba, Mamba2, Mamba3, MHA, MambaLinearAttention, LinearAttention)
MIXERS = {mixer.__name__: mixer for mixer in _CLASSES}


def build_mixer(name, **options):
    return MIXERS[name](**options)
