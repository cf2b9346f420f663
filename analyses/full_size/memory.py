"""Peak memory of a stretch of code, on the GPUs and on the host."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

_INTERVAL_S = 0.01


@dataclasses.dataclass
class Peak:
    """Peak bytes above the use at the start; `gpu` is the largest over devices."""

    gpu: int = 0
    host: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the memory of this process and its children inside the `with` block."""
    devices = range(torch.cuda.device_count())
    peak, stopped = Peak(), threading.Event()
    torch.cuda.synchronize()
    baseline = [torch.cuda.memory_allocated(d) for d in devices]
    before = _resident()
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)

    def watch() -> None:
        while not stopped.wait(_INTERVAL_S):
            peak.host = max(peak.host, _resident() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stopped.set()
        watcher.join()
        torch.cuda.synchronize()
        peak.gpu = max(torch.cuda.max_memory_allocated(d) - baseline[d] for d in devices)


def _resident() -> int:
    """Memory of this process and its children, without shared memory and page cache."""
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            used = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += used.rss - getattr(used, "shared", 0)
    return total
