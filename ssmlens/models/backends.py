"""Which code runs a model: MambaLM (torch), mamba_ssm's kernels, or transformers' modules."""

import importlib
from types import ModuleType

import torch

from ssmlens.errors import UsageError
from ssmlens.models.layouts import Layout

TORCH, MAMBA_SSM, TRANSFORMERS = "torch", "mamba-ssm", "transformers"
BACKENDS = ("auto", MAMBA_SSM, TRANSFORMERS, TORCH)
# By layout: the backends that may be requested, and those that then run. transformers' modules are plain torch too.
FITTING: dict[Layout, dict[str, str]] = {
    "mamba_ssm": {TORCH: TORCH, MAMBA_SSM: MAMBA_SSM},
    "transformers": {TRANSFORMERS: TRANSFORMERS, TORCH: TRANSFORMERS},
    "family": {TORCH: TORCH},  # the family's adapter builds the model
}


def choose_backend(
    requested: str, layout: Layout, device: torch.device, no_kernels: str | None = None
) -> str:
    """Choose the backend for a model of this layout on this device.

    auto: transformers for its own layout; for mamba_ssm's layout, its kernels on CUDA if they can be imported and run
    this model, else MambaLM.

    Args:
        requested: One of `BACKENDS`.
        layout: Layout of the model's folder.
        device: The device to run on.
        no_kernels: Why mamba_ssm cannot run this model, if it cannot.

    Raises:
        UsageError: `requested` does not fit (the message lists backends that do), or mamba_ssm cannot be imported.
    """
    if requested not in BACKENDS:
        raise UsageError(f"unknown backend {requested!r}; choose from: {', '.join(BACKENDS)}")
    fitting = FITTING[layout]
    if requested == "auto":
        if MAMBA_SSM in fitting and no_kernels is None and has_kernels(device):
            return MAMBA_SSM
        return next(iter(fitting))
    if requested not in fitting:
        raise UsageError(
            f"backend {requested} does not run a model in {layout} layout; "
            f"these do: auto, {', '.join(fitting)}"
        )
    if requested == MAMBA_SSM:
        if device.type != "cuda":
            raise UsageError(f"backend mamba-ssm runs on CUDA, not on {device}; use backend torch")
        import_mamba_ssm()
        if no_kernels is not None:
            raise UsageError(
                f"backend mamba-ssm cannot run this model: {no_kernels}; use backend torch"
            )
    return fitting[requested]


def import_mamba_ssm() -> ModuleType:
    """Import mamba_ssm's language model module. Raises UsageError with the reason if that fails."""
    try:
        return importlib.import_module("mamba_ssm.models.mixer_seq_simple")
    except Exception as error:  # a missing package, driver or kernel: each raises its own
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UsageError(
            f"backend mamba-ssm cannot be imported ({reason[0]}): "
            "pip install 'ssmlens[cuda]', or use backend torch"
        ) from None


def has_kernels(device: torch.device) -> bool:
    """Whether mamba_ssm's kernels run on this device: on CUDA, if mamba_ssm can be imported."""
    if device.type != "cuda":
        return False
    try:
        import_mamba_ssm()
    except UsageError:
        return False
    return True
