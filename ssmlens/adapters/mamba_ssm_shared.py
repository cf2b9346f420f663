"""Common code of mamba_ssm's families: the language model of their contract tests."""

from typing import Any

from torch import nn

from ssmlens.models.backends import import_mamba_ssm


def tiny_lm(d_model: int, **ssm_cfg: Any) -> nn.Module:
    """Build mamba_ssm's `MambaLMHeadModel` with three blocks, on a GPU: mamba_ssm cannot be imported without one.

    Args:
        d_model: Width of the hidden states.
        **ssm_cfg: Arguments of the mixer; `layer` names its class.
    """
    mamba_ssm = import_mamba_ssm()
    config = mamba_ssm.MambaConfig(d_model=d_model, n_layer=3, vocab_size=32, ssm_cfg=ssm_cfg)
    return mamba_ssm.MambaLMHeadModel(config, device="cuda")
