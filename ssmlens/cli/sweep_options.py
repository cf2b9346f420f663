"""The options of every command that trains many runs: workers, devices, failures."""

import dataclasses
from typing import Any, Literal

from ssmlens.cli.config_options import ConfigCommand
from ssmlens.cli.shard import parse_shard


@dataclasses.dataclass(frozen=True)
class SweepOptions(ConfigCommand):
    """A command that trains many runs; `sweep_arguments` are those it passes to `sweep`."""

    engine: Literal["local", "ray"] = "local"
    """Starts the workers: local (processes on this machine) or ray (a Ray cluster whose machines share a disk)."""
    workers: int | None = None
    """Processes that train at the same time. Default: one per device; with --engine ray as many as fit."""
    device: tuple[str, ...] = ("auto",)
    """Devices: auto, cpu, cuda, or several that workers take in turn, as in cuda:0 cuda:1."""
    gpus_per_worker: float | None = None
    """--engine ray: share of a GPU for each worker, such as 0.25. Default: 1 if there are GPUs."""
    cpus_per_worker: float | None = None
    """--engine ray: CPU cores for each worker. Default: 1."""
    pack: int | None = None
    """Most runs of equal shape that one worker trains together. Default: 8 on CUDA, else 1."""
    shard: str | None = None
    """i/N: train shard i of N of the runs, for N launchers that a scheduler starts."""
    retry_failed: bool = False
    """Resume failed runs from their last checkpoint."""
    hang_after: float = 900.0
    """Seconds without a step after which a worker is killed and its run restarted."""

    def sweep_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for `sweep`."""
        return {
            "engine": self.engine,
            "workers": self.workers,
            "devices": self.device,
            "gpus_per_worker": self.gpus_per_worker,
            "cpus_per_worker": self.cpus_per_worker,
            "pack": self.pack,
            "shard": parse_shard(self.shard) or (1, 1),
            "retry_failed": self.retry_failed,
            "hang_after": self.hang_after,
        }
