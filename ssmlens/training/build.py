"""Build the model of a plan, as it is before training."""

import dataclasses

import torch
from torch import nn

from ssmlens.adapters.load import load_model
from ssmlens.errors import UsageError
from ssmlens.models import backends, mamba_ssm_layout
from ssmlens.models.kernel_mixers import use_kernels
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.models.short_mamba import use_short_scan
from ssmlens.training.plan import Plan

_EMBEDDINGS = ("embedding.weight", "lm_head.weight")


def build_model(plan: Plan, device: torch.device) -> nn.Module:
    """Build the model with its initial weights, the same on every device.

    On CUDA with mamba_ssm installed: mamba_ssm's own model, or `MambaLM` with mamba_ssm's mixers if that model lacks
    the blocks (Mamba3, linear attention); Mamba-1 trains on short sequences by `use_short_scan`. Elsewhere: `MambaLM`.

    Raises:
        UsageError: The init refuses the model, or the checkpoint does not fit the task.
    """
    architecture = plan.architecture
    model = _checkpoint(plan) if architecture is None else _fresh(plan, architecture)
    if not backends.has_kernels(device):
        return model.to(device)
    layout = model.config.to_dict()
    if mamba_ssm_layout.why_no_kernels(layout) is not None:
        return use_short_scan(use_kernels(model).to(device))
    dtype = model.lm_head.weight.dtype
    fused = mamba_ssm_layout.make_skeleton(layout, backends.MAMBA_SSM, dtype)
    state = mamba_ssm_layout.untie(fused, model.state_dict())
    return use_short_scan(mamba_ssm_layout.fill(fused, state).to(device))


def _fresh(plan: Plan, architecture: MambaConfig) -> MambaLM:
    seed = plan.config.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MambaLM(architecture)
    if plan.init is not None:
        plan.init.apply_(model, seed)
    return model


def _checkpoint(plan: Plan) -> MambaLM:
    """Load the checkpoint, as it is or with new embeddings, N(0, .02), for the task's tokens."""
    config, task = plan.config, plan.task
    model = load_model(config.init_from or "", backend=backends.TORCH)
    if not isinstance(model, MambaLM):
        raise UsageError(f"`init_from` {config.init_from} is not in mamba_ssm's layout")
    if config.embeddings == "redraw":
        weights = {k: v for k, v in model.state_dict().items() if not k.endswith(_EMBEDDINGS)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = MambaLM(dataclasses.replace(model.config, vocab_size=task.vocab_size))
        model.load_state_dict(weights, strict=False)
    elif model.config.padded_vocab_size < task.vocab_size:
        raise UsageError(
            f"`init_from` {config.init_from} has {model.config.padded_vocab_size} tokens, the "
            f"{config.task} task has {task.vocab_size}; draw new ones with `embeddings` redraw"
        )
    return model.train()
