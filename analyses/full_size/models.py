"""Models of the published shapes with random weights, made on the GPU."""

from collections.abc import Callable

import torch
from torch import nn


def mamba_ssm_model(device: str, **config) -> nn.Module:
    """mamba_ssm's own model, its kernels fused."""
    from mamba_ssm.models.config_mamba import MambaConfig  # pyright: ignore[reportMissingImports]
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel  # pyright: ignore[reportMissingImports]

    return MambaLMHeadModel(MambaConfig(vocab_size=50277, **config), device=device).eval()


def falcon_mamba(device: str) -> nn.Module:
    """transformers' FalconMamba, in its 7B's shape."""
    from transformers import FalconMambaConfig, FalconMambaForCausalLM

    config = FalconMambaConfig(hidden_size=4096, num_hidden_layers=64)
    with torch.device(device):
        return FalconMambaForCausalLM(config).eval()


MODELS: dict[str, Callable[[str], nn.Module]] = {
    "mamba-370m": lambda device: mamba_ssm_model(device, d_model=1024, n_layer=48),
    "mamba-2.8b": lambda device: mamba_ssm_model(device, d_model=2560, n_layer=64),
    "mamba2-2.7b": lambda device: mamba_ssm_model(
        device, d_model=2560, n_layer=64, ssm_cfg={"layer": "Mamba2"}
    ),
    "falcon-mamba-7b": falcon_mamba,
}
