"""`sweep`: train many configs, each into a run folder named after its config; runs that are done are not repeated."""

import runpy
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path

from ssmlens.errors import BusyError, SsmlensError, UsageError
from ssmlens.files.disk import one_line_errors
from ssmlens.runs.run import METRICS, Run, open_run
from ssmlens.training.config import TrainConfig
from ssmlens.training.engines.engine import Place, Work, Workers, engines
from ssmlens.training.pool import Outcome, run_pool
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep_jobs import SweepJob, make_packs, take_shard

# Default size of a pack on CUDA: small models fill a GPU only side by side.
_PACK_ON_CUDA = 8
# Seconds for an ended worker to release its folder.
_RELEASE = 5.0


def sweep(
    configs: Sequence[TrainConfig],
    out: Path | str = "sweeps",
    *,
    engine: str = "local",
    workers: int | None = None,
    devices: Sequence[str] = ("auto",),
    gpus_per_worker: float | int | None = None,
    cpus_per_worker: float | int | None = None,
    pack: int | None = None,
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    hang_after: float = 900.0,
    attempts: int = 3,
    files: Sequence[Path] = (),
    progress: Callable[[int, int, str], None] | None = None,
    work: Work | None = None,
) -> list[Run]:
    """Train every config, each in its own folder below `out`; return the runs in the order of the configs.

    >>> rates, arms = (3e-4, 1e-3, 3e-3), ("mamba-ssm", "mimetic")
    >>> ssmlens.sweep([TrainConfig(init=i, learning_rate=r) for i in arms for r in rates], "sweeps/copy")

    Folders are named after their config, so a sweep may be stopped and restarted, extended, or shared by several
    launchers: each run is trained once. A run that crashes, hangs or runs out of memory resumes from its last
    checkpoint, in a process of its own, up to `attempts` times in all; then it has failed, with the reason in its
    status.json. Local workers import the calling script: call this below `if __name__ == "__main__":` there.

    Args:
        configs: The configs; equal configs are one run.
        out: Folder of the run folders.
        engine: Starts the workers: local (processes on this machine) or ray, see `RayEngine`.
        workers: Processes that train at the same time. None: one per device; with ray, as many as fit.
        devices: Devices, which workers take in turn. With ray: auto or cpu.
        gpus_per_worker: ray: share of a GPU for each worker. None: 1 if there are GPUs, else 0.
        cpus_per_worker: ray: CPU cores for each worker. None: 1.
        pack: Most runs of equal shape that one worker trains together. None: 8 on CUDA, else 1.
        shard: (i, N), i from 1: train shard i of N of the configs, for N launchers that a scheduler starts. It does
            not depend on `pack`.
        retry_failed: Resume failed runs from their last checkpoint; otherwise they stay failed.
        hang_after: Seconds without a step after which a worker is killed.
        attempts: Most attempts for each run.
        files: Python files that every worker runs first, to register the configs' tasks or inits.
        progress: Called with (runs that have ended, all runs, counts by state), first for runs that ended earlier.
        work: The work on a pack of `SweepJob`s; None: train them.

    Raises:
        UsageError: A config cannot be trained, an engine or device does not exist, or a limit is impossible; no run is
            started then.
        SsmlensError: The disk cannot be written, or machines do not share it.
    """
    _check_limits(shard, pack, hang_after)
    requested = Workers(workers, tuple(devices), gpus_per_worker, cpus_per_worker)
    started = engines[engine](requested)
    if work is None:
        _check_all(configs)
    paths = {run_path(Path(out), config): config for config in configs}
    jobs = take_shard([SweepJob(path, config) for path, config in paths.items()], *shard)
    ends = _Ends(jobs, retry_failed, progress)

    def outcomes() -> Generator[Outcome[SweepJob]]:
        if not ends.left:
            return
        with one_line_errors(Path(out), 0):
            Path(out).mkdir(parents=True, exist_ok=True)
        with started as running:
            most = pack or _usual_pack(running.places)
            packs = make_packs(ends.left, most, len(running.places))
            limits = {"hang_after": hang_after, "attempts": attempts}
            train = work or partial(_train, files=tuple(files))
            yield from run_pool(packs, train, running, skip=ends.has_ended, **limits)

    done_paths = []
    with closing(outcomes()) as ended_jobs:
        for job, state, error in ended_jobs:
            if state in ("failed", "lost") and _state(job.path) != "failed":
                _record(job, error)
            if state == "done":
                done_paths.append(job.path)
            ends.add(job)
    if absent := [path for path in done_paths if _state(path) != "done"]:
        raise SsmlensError(
            f"{len(absent)} runs are done, but {absent[0]} is not here: the machines of a sweep "
            "must share a file system"
        )
    return [open_run(job.path) for job in jobs if (job.path / METRICS).exists()]


class _Ends:
    """The runs of a sweep that have ended, by state; calls `progress` at each end, first for runs that ended earlier.

    Args:
        jobs: The runs.
        retry_failed: Whether runs that failed earlier are resumed.
        progress: As in `sweep`.
    """

    def __init__(
        self,
        jobs: Sequence[SweepJob],
        retry_failed: bool,
        progress: Callable[[int, int, str], None] | None,
    ):
        self._total, self._progress = len(jobs), progress
        self._retried = {job.path for job in jobs if retry_failed and _state(job.path) == "failed"}
        ended = {job.path for job in jobs if self.has_ended(job)}
        self.left = [job for job in jobs if job.path not in ended]
        self._states = Counter(map(_state, ended))
        self._report()

    def has_ended(self, job: SweepJob) -> bool:
        """Tell whether a run has ended and is not to be retried."""
        return _state(job.path) in ("done", "failed") and job.path not in self._retried

    def add(self, job: SweepJob) -> None:
        """Count a run that has ended now."""
        self._retried.discard(job.path)
        self._states[_state(job.path)] += 1
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            ended = self._states
            counts = [f"{ended[state]} {state}" for state in ("done", "failed") if ended[state]]
            self._progress(ended.total(), self._total, ", ".join(counts))


def run_path(out: Path, config: TrainConfig) -> Path:
    """Return the path of a config's run: a readable name and the first 12 digits of its digest."""
    return out / f"{config.name}-{config.digest()[:12]}"


def _check_limits(shard: tuple[int, int], pack: int | None, hang_after: float) -> None:
    i, n = shard
    if not 1 <= i <= n:
        raise UsageError(f"`shard` {i}/{n}: i/N needs 1 ≤ i ≤ N")
    if pack is not None and pack < 1:
        raise UsageError(f"`pack` is at least 1, not {pack}")
    if not hang_after > 0:
        raise UsageError(f"`hang_after` is above 0, not {hang_after:g}")


def _check_all(configs: Sequence[TrainConfig]) -> None:
    from ssmlens.training.plan import check

    for number, config in enumerate(configs):
        try:
            check(config)
        except SsmlensError as error:
            raise UsageError(f"config {number} ({config.arm_name}): {error}") from None


def _train(
    pack: Sequence[SweepJob],
    place: Place,
    report: Callable[[int, str, str], None],
    beat: Callable[[], None],
    *,
    files: Sequence[Path] = (),
) -> None:
    """Train a pack of runs: the work of a worker."""
    import torch

    for file in files:
        _run_once(file)

    from ssmlens.training.loop import train_pack

    for folder in {job.path.parent for job in pack}:
        if not folder.is_dir():  # the launcher has made it
            raise SsmlensError(
                f"{socket.gethostname()} has no folder {folder}: the machines of a sweep must share "
                "a file system"
            )
    device = torch.device(place.device)
    if (
        device.index is not None
    ):  # kernels run on the process's device, not on that of their tensors
        torch.cuda.set_device(device)
    torch.set_num_threads(max(1, _cores() // place.sharing))
    train_pack(pack, device=place.device, report=report, beat=beat)


@cache
def _run_once(file: Path) -> None:
    runpy.run_path(str(file))


@cache
def _cores() -> int:
    """Return torch's default number of threads, read before this module changes it."""
    import torch

    return torch.get_num_threads()


def _usual_pack(places: Sequence[Place]) -> int:
    return _PACK_ON_CUDA if all(place.device.startswith("cuda") for place in places) else 1


def _state(path: Path) -> str:
    return open_run(path).status.state if (path / METRICS).exists() else "starting"


def _record(job: SweepJob, error: str) -> None:
    """Record in its folder that a run was given up, unless another launcher has the folder now."""
    until = time.monotonic() + _RELEASE
    while True:
        try:
            with RunFolder(job.path, job.config) as folder:
                status = open_run(job.path).status
                seconds = status.seconds if status.seconds == status.seconds else 0.0
                if status.state != "done":
                    folder.write_status("failed", status.step, job.config.steps, seconds, error)
                return
        except BusyError:
            if time.monotonic() > until:
                return
            time.sleep(0.1)
