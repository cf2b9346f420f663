"""`sweep`: many configs, a run folder each, named after what it trains: whatever is there already is not done again."""

import runpy
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.runs.run import METRICS, Run, open_run
from ssmlens.store.disk import told_in_one_line
from ssmlens.training.config import TrainConfig
from ssmlens.training.engines.engine import Place, Work, Workers, engines
from ssmlens.training.pool import Outcome, run_pool
from ssmlens.training.run_folder import BusyError, RunFolder
from ssmlens.training.sweep_jobs import SweepJob, make_packs, take_shard

# Runs that are trained together where the caller does not say: small models fill a GPU only side by side.
_PACK_ON_CUDA = 8
# Seconds in which a worker that was ended lets go of its folder.
_LET_GO = 5.0


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
    """Train every config, each in a folder of its own below `out`; returns its runs, in the order of the configs.

    >>> rates, arms = (3e-4, 1e-3, 3e-3), ("mamba-ssm", "mimetic")
    >>> ssmlens.sweep([TrainConfig(init=i, learning_rate=r) for i in arms for r in rates], "sweeps/copy")

    Folders are named after their config, so that a sweep may be stopped and started again, extended, or worked on by
    several launchers at once: a run is done once. What crashes, hangs or runs out of memory goes on from its last
    checkpoint, alone, `attempts` times in all; what then is not done has failed, and its status.json says why. Local
    workers import the script that calls this: call it below `if __name__ == "__main__":` there.

    Args:
        configs: What is trained; the same one twice is one run.
        out: Folder of the run folders.
        engine: What starts the workers: local, processes of this machine; ray, see `RayEngine`.
        workers: Processes that train side by side. None: one a device; with ray, as many as there is room for.
        devices: Where; workers take them in turn. With ray: auto or cpu.
        gpus_per_worker: ray: share of a GPU that a worker takes up. None: 1 where there are any, else 0.
        cpus_per_worker: ray: CPU cores that a worker takes up. None: 1.
        pack: Runs of equal shape that a worker trains side by side, at most. None: 8 on CUDA, else 1.
        shard: (i, N), i from 1: only the i-th N-th of the configs, for N launchers that a scheduler starts. It does
            not depend on `pack`.
        retry_failed: Go on with runs that have failed, from their last checkpoint; otherwise they stay so.
        hang_after: Seconds without a step, after which a worker is killed.
        attempts: How often a run is begun, at most.
        files: Python files that every worker runs first: those that register the configs' tasks or inits.
        progress: Called with (runs that have ended, runs, how they ended), first with those that had before.
        work: What a worker does with a pack of `SweepJob`s; None: train them.

    Raises:
        UsageError: A config cannot be trained, there is no such engine or device, or a limit is impossible; nothing
            is begun then.
        SsmlensError: The disk cannot be written, or machines do not share it.
    """
    _check_limits(shard, pack, hang_after)
    asked = Workers(workers, tuple(devices), gpus_per_worker, cpus_per_worker)
    started = engines[engine](asked)
    if work is None:
        _check_all(configs)
    paths = {run_path(Path(out), config): config for config in configs}
    jobs = take_shard([SweepJob(path, config) for path, config in paths.items()], *shard)
    ends = _Ends(jobs, retry_failed, progress)

    def outcomes() -> Generator[Outcome[SweepJob]]:
        if not ends.left:
            return
        with told_in_one_line(Path(out), 0):
            Path(out).mkdir(parents=True, exist_ok=True)
        with started as running:
            most = pack or _usual_pack(running.places)
            packs = make_packs(ends.left, most, len(running.places))
            limits = {"hang_after": hang_after, "attempts": attempts}
            train = work or partial(_train, files=tuple(files))
            yield from run_pool(packs, train, running, skip=ends.settled, **limits)

    done = []
    with closing(outcomes()) as of_workers:
        for job, state, error in of_workers:
            if state in ("failed", "lost") and _state(job.path) != "failed":
                _record(job, error)
            if state == "done":
                done.append(job.path)
            ends.add(job)
    if absent := [path for path in done if _state(path) != "done"]:
        told = f"{len(absent)} runs are done, but {absent[0]} is not here"
        raise SsmlensError(f"{told}: the machines of a sweep must share a file system")
    return [open_run(job.path) for job in jobs if (job.path / METRICS).exists()]


class _Ends:
    """Which runs of a sweep have ended, and how; `progress` is told at each end, first of those that had before.

    Args:
        jobs: The runs.
        retry_failed: Whether runs that have failed before are begun again.
        progress: As in `sweep`.
    """

    def __init__(
        self,
        jobs: Sequence[SweepJob],
        retry_failed: bool,
        progress: Callable[[int, int, str], None] | None,
    ):
        self._all, self._progress = len(jobs), progress
        self._again = {job.path for job in jobs if retry_failed and _state(job.path) == "failed"}
        over = {job.path for job in jobs if self.settled(job)}
        self.left = [job for job in jobs if job.path not in over]
        self._states = Counter(map(_state, over))
        self._tell()

    def settled(self, job: SweepJob) -> bool:
        """Whether nothing is to be done about a run."""
        return _state(job.path) in ("done", "failed") and job.path not in self._again

    def add(self, job: SweepJob) -> None:
        """A run that was left has ended."""
        self._again.discard(job.path)
        self._states[_state(job.path)] += 1
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            ended = self._states
            how = [f"{ended[state]} {state}" for state in ("done", "failed") if ended[state]]
            self._progress(ended.total(), self._all, ", ".join(how))


def run_path(out: Path, config: TrainConfig) -> Path:
    """Where a config's run is: a name to read, and the first 12 digits of its digest."""
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
    told: Callable[[int, str, str], None],
    beat: Callable[[], None],
    *,
    files: Sequence[Path] = (),
) -> None:
    """What a worker does."""
    import torch

    for file in files:
        _run_once(file)

    from ssmlens.training.loop import train_pack

    for folder in {job.path.parent for job in pack}:
        if not folder.is_dir():  # the launcher has made it
            host = socket.gethostname()
            lacks = f"{host} has no folder {folder}"
            raise SsmlensError(f"{lacks}: the machines of a sweep must share a file system")
    device = torch.device(place.device)
    if device.index is not None:  # kernels run where the process is, not where their tensors are
        torch.cuda.set_device(device)
    torch.set_num_threads(max(1, _cores() // place.sharing))
    train_pack(pack, device=place.device, told=told, beat=beat)


@cache
def _run_once(file: Path) -> None:
    runpy.run_path(str(file))


@cache
def _cores() -> int:
    """Threads that torch takes by itself: asked for before it is told."""
    import torch

    return torch.get_num_threads()


def _usual_pack(places: Sequence[Place]) -> int:
    return _PACK_ON_CUDA if all(place.device.startswith("cuda") for place in places) else 1


def _state(path: Path) -> str:
    return open_run(path).status.state if (path / METRICS).exists() else "starting"


def _record(job: SweepJob, error: str) -> None:
    """Write down that a run was given up, unless another launcher has it now."""
    until = time.monotonic() + _LET_GO
    while True:
        try:
            with RunFolder(job.path, job.config) as folder:
                status = open_run(job.path).status
                seconds = status.seconds if status.seconds == status.seconds else 0.0
                if status.state != "done":
                    folder.tell("failed", status.step, job.config.steps, seconds, error)
                return
        except BusyError:
            if time.monotonic() > until:
                return
            time.sleep(0.1)
