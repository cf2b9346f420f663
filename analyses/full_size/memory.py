"""Peak memory of a stretch of code, on the GPUs and on the host."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclasses.dataclass
class Peak:
    """Peak bytes above the use at the start; `gpu` is the largest over devices, `host` includes pinned memory."""

    gpu: int = 0
    host: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the memory of this process inside the `with` block, by counters of Linux and of torch.

    A thread that looked every few milliseconds would slow what is timed.
    """
    devices, peak = range(torch.cuda.device_count()), Peak()
    torch.cuda.synchronize()
    baseline = [torch.cuda.memory_allocated(d) for d in devices]
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.reset_peak_host_memory_stats()
    pinned = _pinned("current")
    _RESET.write_text("5")  # sets the peak to the present value
    resident = _resident("VmRSS")
    yield peak
    torch.cuda.synchronize()
    peak.gpu = max(torch.cuda.max_memory_allocated(d) - baseline[d] for d in devices)
    peak.host = _resident("VmHWM") - resident + _pinned("peak") - pinned


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _pinned(which: str) -> int:
    return torch.cuda.host_memory_stats().get(f"allocated_bytes.{which}", 0)
