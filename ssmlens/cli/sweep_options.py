"""The options of every command that trains many runs: who does it, where, and what is done about failures."""

import dataclasses
from typing import Any, Literal

from ssmlens.cli.config_options import ConfigCommand
from ssmlens.cli.shard import parse_shard


@dataclasses.dataclass(frozen=True)
class SweepOptions(ConfigCommand):
    """A command that trains many runs; `how` is what it hands to `sweep`."""

    engine: Literal["local", "ray"] = "local"
    """What starts the workers: local, processes of this machine; ray, a Ray cluster whose machines share a disk."""
    workers: int | None = None
    """Processes that train side by side. Default: one a device; with --engine ray as many as there is room for."""
    device: tuple[str, ...] = ("auto",)
    """Where: cpu, cuda, or several that workers take in turn, as in cuda:0 cuda:1."""
    gpus_per_worker: float | None = None
    """--engine ray: share of a GPU that a worker takes up, such as 0.25. Default: 1 where there are GPUs."""
    cpus_per_worker: float | None = None
    """--engine ray: CPU cores that a worker takes up. Default: 1."""
    pack: int | None = None
    """Runs of equal shape that a worker trains side by side, at most. Default: 8 on CUDA, else 1."""
    shard: str | None = None
    """i/N: only the i-th N-th of the runs, for N launchers that a scheduler starts."""
    retry_failed: bool = False
    """Go on with runs that have failed, from their last checkpoint."""
    hang_after: float = 900.0
    """Seconds without a step after which a worker is killed and its run begun again."""

    def how(self) -> dict[str, Any]:
        """Keyword arguments of `sweep`."""
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
