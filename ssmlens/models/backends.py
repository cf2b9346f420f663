"""Which code runs a model: MambaLM (torch), mamba_ssm's kernels, or transformers' modules."""

import importlib
from types import ModuleType

import torch

from ssmlens.errors import UsageError
from ssmlens.models.layouts import Layout

TORCH, MAMBA_SSM, TRANSFORMERS = "torch", "mamba-ssm", "transformers"
BACKENDS = ("auto", MAMBA_SSM, TRANSFORMERS, TORCH)
# By layout: what may be asked for, and what then runs. transformers' modules are plain torch too.
FITTING: dict[Layout, dict[str, str]] = {
    "mamba_ssm": {TORCH: TORCH, MAMBA_SSM: MAMBA_SSM},
    "transformers": {TRANSFORMERS: TRANSFORMERS, TORCH: TRANSFORMERS},
    "family": {TORCH: TORCH},  # the adapter of the family makes the model itself
}


def choose_backend(
    asked: str, layout: Layout, device: torch.device, no_kernels: str | None = None
) -> str:
    """What runs a model of this layout on this device.

    auto: transformers for its own layout; for mamba_ssm's its kernels on CUDA where they can be
    imported and run this model, else MambaLM.

    Args:
        asked: One of `BACKENDS`.
        layout: Layout of the model's folder.
        device: Where it is to run.
        no_kernels: Why mamba_ssm cannot run this model, if it cannot.

    Raises:
        UsageError: `asked` does not fit, and which backends do; or mamba_ssm cannot be imported.
    """
    if asked not in BACKENDS:
        raise UsageError(f"unknown backend {asked!r}; choose from: {', '.join(BACKENDS)}")
    fitting = FITTING[layout]
    if asked == "auto":
        if MAMBA_SSM in fitting and no_kernels is None and has_kernels(device):
            return MAMBA_SSM
        return next(iter(fitting))
    if asked not in fitting:
        raise UsageError(
            f"backend {asked} does not run a model in {layout} layout; "
            f"these do: auto, {', '.join(fitting)}"
        )
    if asked == MAMBA_SSM:
        if device.type != "cuda":
            raise UsageError(f"backend mamba-ssm runs on CUDA, not on {device}; use backend torch")
        import_mamba_ssm()
        if no_kernels is not None:
            raise UsageError(
                f"backend mamba-ssm cannot run this model: {no_kernels}; use backend torch"
            )
    return fitting[asked]


def import_mamba_ssm() -> ModuleType:
    """mamba_ssm's language model module. Raises UsageError with the reason where there is none."""
    try:
        return importlib.import_module("mamba_ssm.models.mixer_seq_simple")
    except Exception as error:  # a missing package, driver or kernel: each raises its own
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UsageError(
            f"backend mamba-ssm cannot be imported ({reason[0]}): "
            "pip install 'ssmlens[cuda]', or use backend torch"
        ) from None


def has_kernels(device: torch.device) -> bool:
    """Whether mamba_ssm's kernels run on this device: on CUDA, where it can be imported."""
    if device.type != "cuda":
        return False
    try:
        import_mamba_ssm()
    except UsageError:
        return False
    return True
