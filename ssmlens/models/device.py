"""Where a model runs."""

import torch

from ssmlens.errors import UsageError


def find_device(name: str | torch.device) -> torch.device:
    """The device called `name`: cpu, cuda, cuda:1, ...; auto is cuda where there is one, else the CPU.

    Raises:
        UsageError: torch knows no such device, or finds none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; such as cpu, cuda or cuda:1") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise UsageError(f"device {name} is asked for, but torch finds no CUDA here; use cpu")
    if device.index is not None and device.index >= (here := torch.cuda.device_count()):
        last = "" if here == 1 else f"..cuda:{here - 1}"
        raise UsageError(f"device {name} is asked for, but torch finds cuda:0{last} here")
    return device
