"""The device of a model."""

import torch

from ssmlens.errors import UsageError


def find_device(name: str | torch.device) -> torch.device:
    """The device called `name`: cpu, cuda, cuda:1, ...; auto is cuda if there is a GPU, else the CPU.

    Raises:
        UsageError: torch does not know the device, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; use cpu, cuda or cuda:1") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise UsageError(f"device {name} is requested, but torch finds no CUDA here; use cpu")
    if device.index is not None and device.index >= (count := torch.cuda.device_count()):
        last = "" if count == 1 else f"..cuda:{count - 1}"
        raise UsageError(f"device {name} is requested, but torch finds only cuda:0{last} here")
    return device
