"""`sweep`: many configs, a run folder each, named after what it trains: whatever is there already is not done again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.store.runs import METRICS, Run, open_run
from ssmlens.training.config import TrainConfig
from ssmlens.training.pool import ElsewhereError, Work, run_pool
from ssmlens.training.run_folder import BusyError, RunFolder


class SweepJob(NamedTuple):
    """A run of a sweep: its folder and what is trained."""

    path: Path
    config: TrainConfig


def sweep(
    configs: Sequence[TrainConfig],
    out: Path | str = "sweeps",
    *,
    workers: int = 1,
    devices: Sequence[str] = ("auto",),
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    hang_after: float = 900.0,
    attempts: int = 3,
    progress: Callable[[int, int, str], None] | None = None,
    work: Work | None = None,
) -> list[Run]:
    """Train every config, each in a folder of its own below `out`; returns its runs, in the order of the configs.

    >>> rates, arms = (3e-4, 1e-3, 3e-3), ("mamba-ssm", "mimetic")
    >>> ssmlens.sweep([TrainConfig(init=i, learning_rate=r) for i in arms for r in rates], "sweeps/copy")

    Folders are named after their config, so that a sweep may be stopped and started again, extended, or worked on by
    several launchers at once: a run is done once. What crashes, hangs or runs out of memory goes on from its last
    checkpoint, `attempts` times in all; what then is not done has failed, and its status.json says why.

    Args:
        configs: What is trained; the same one twice is one run.
        out: Folder of the run folders.
        workers: Processes that train side by side.
        devices: Where; workers take them in turn.
        shard: (i, N), i from 1: only the i-th N-th of the configs, for N launchers that a scheduler starts.
        retry_failed: Begin runs anew that have failed; otherwise they stay so.
        hang_after: Seconds without a step, after which a worker is killed.
        attempts: How often a run is begun, at most.
        progress: Called with (runs settled, runs, what failed).
        work: What a worker does with a `SweepJob`; None: train it.

    Raises:
        UsageError: A config cannot be trained; nothing is begun then.
        SsmlensError: The disk cannot be written.
    """
    i, n = shard
    if not 1 <= i <= n:
        raise UsageError(f"shard {i}/{n}: i/N needs 1 ≤ i ≤ N")
    if workers < 1 or not devices:
        raise UsageError("a sweep needs at least one worker and one device")
    if work is None:
        _check_all(configs)
    paths = {run_path(Path(out), config): config for config in configs}
    jobs = [SweepJob(path, config) for path, config in paths.items()][i - 1 :: n]
    places = [(devices[k % len(devices)], workers) for k in range(workers)]
    again = {job.path for job in jobs if retry_failed and _state(job.path) == "failed"}

    def settled(job: SweepJob) -> bool:
        return _state(job.path) in ("done", "failed") and job.path not in again

    outcomes = run_pool(
        jobs, work or _train, places, hang_after=hang_after, attempts=attempts, skip=settled
    )
    failed = 0
    for count, outcome in enumerate(outcomes, 1):
        again.discard(outcome.job.path)
        if outcome.state in ("failed", "lost") and _state(outcome.job.path) != "failed":
            _record(outcome.job, outcome.error)
        failed += _state(outcome.job.path) == "failed"
        if progress is not None:
            progress(count, len(jobs), f"{failed} failed" if failed else "")
    return [open_run(job.path) for job in jobs if (job.path / METRICS).exists()]


def run_path(out: Path, config: TrainConfig) -> Path:
    """Where a config's run is: a name to read, and the first 12 digits of its digest."""
    return out / f"{config.name}-{config.digest()[:12]}"


def _check_all(configs: Sequence[TrainConfig]) -> None:
    from ssmlens.training.build import check

    for number, config in enumerate(configs):
        try:
            check(config)
        except SsmlensError as error:
            raise UsageError(f"config {number} ({config.arm_name}): {error}") from None


def _train(job: SweepJob, place: tuple[str, int], beat: Callable[[], None]) -> None:
    """What a worker does."""
    import torch

    from ssmlens.training.loop import train

    device, workers = place
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    try:
        train(job.config, job.path, resume=True, device=device, progress=lambda told: beat())
    except BusyError:
        raise ElsewhereError from None


def _state(path: Path) -> str:
    return open_run(path).status.state if (path / METRICS).exists() else "starting"


def _record(job: SweepJob, error: str) -> None:
    """Write down that a run was given up, unless another launcher has it now."""
    try:
        with RunFolder(job.path, job.config) as folder:
            status = open_run(job.path).status
            seconds = status.seconds if status.seconds == status.seconds else 0.0
            folder.tell("failed", status.step, job.config.steps, seconds, error)
    except BusyError:
        return
