"""Where tests run: on the GPU where there is one.

`gpu` marks tests that need one; they are skipped without. `device` marks tests that run on it where it is, and on the
processor elsewhere. Both are what `make test-gpu` runs.
"""

from collections.abc import Iterable

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def runnable(families: Iterable[str]) -> list[str]:
    """Those of the families whose kernels run here: mamba_ssm's need a GPU."""
    return [name for name in families if DEVICE == "cuda" or not name.startswith("mamba_ssm")]


def closure_tolerance(adapter) -> float:
    """How far a family's output may be from the definition: its kernels may multiply in TF32 on a GPU."""
    return 1e-2 if DEVICE == "cuda" and adapter.tf32_kernels else 1e-5
