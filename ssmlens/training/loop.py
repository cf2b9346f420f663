"""`train`: train a config into a run folder; `train_pack`: train several runs side by side."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ssmlens.errors import BusyError, SsmlensError, UsageError
from ssmlens.models.device import find_device
from ssmlens.runs.run import METRICS, Run, open_run
from ssmlens.training.config import TrainConfig
from ssmlens.training.pack import Pack
from ssmlens.training.plan import Plan, check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.session import Progress, Session
from ssmlens.training.trackers import find_tracker
from ssmlens.training.trainee import Trainee


def train(
    config: TrainConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    checkpoint_every: int = 500,
    keep_checkpoints: bool = False,
    trackers: Iterable[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train a model into a run folder, which `runs.run` reads, with checkpoints that `load_model` opens.

    >>> run = ssmlens.train(TrainConfig(task="copy", length=20, init="mimetic"), "runs/mimetic")
    >>> model = ssmlens.load_model("runs/mimetic/checkpoints/last")

    A resumed run has the curve of an uninterrupted one: bit for bit on a CPU with as many threads. On a GPU a whole
    step is one CUDA graph.

    Args:
        config: The config.
        out: The run's folder. None: the config's name, below runs/.
        resume: Resume from the last checkpoint, or from the start without one; a run that is done is returned.
        device: cpu, cuda, cuda:1, ...; auto is cuda if available.
        checkpoint_every: Steps between checkpoints; there is always one at the end.
        keep_checkpoints: Keep every checkpoint (checkpoints/step-N), not only the last.
        trackers: Some of trackio, wandb, tensorboard; they log everything that metrics.jsonl does.
        progress: Called every few steps.

    Raises:
        UsageError: The config cannot be trained, or the folder has a run already (or another one, with `resume`).
        TrainingError: The loss is not finite; status.json records this, too.
        SsmlensError: The disk is full, or a capture failed.
    """
    plan = check(config)
    where, starts = find_device(device), [find_tracker(name) for name in trackers]
    out = Path("runs", config.name) if out is None else Path(out)
    if not resume and (out / METRICS).exists():
        raise UsageError(
            f"{out} already has a run; resume it with `resume`, or choose another `out`"
        )
    trainee = Trainee(plan, where)  # before making the folder: this may raise
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(out, config))
        if resume and open_run(out).status.state == "done":
            return open_run(out)
        followers = [stack.enter_context(start(out, config)) for start in starts]
        session = Session(
            trainee,
            folder,
            trackers=followers,
            progress=progress or (lambda now: None),
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
        )
        _run_alone(session)
    return open_run(out)


def train_pack(
    jobs: Sequence[tuple[Path, TrainConfig]],
    *,
    device: str = "auto",
    report: Callable[[int, str, str], None],
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Train several runs side by side in this process; on a GPU in one CUDA graph, see `Pack`.

    Stopped runs resume from their last checkpoint. If this function raises, the runs that are neither done nor failed
    were interrupted by that error.

    Args:
        jobs: Folder and config of each run; they should have the same shape and number of steps.
        device: As in `train`.
        report: Called with (place in `jobs`, state, error) as each run ends. States: "done"; "failed", for an error
            that would occur again (also in status.json if the run was started); "elsewhere", if another process holds
            the folder.
        beat: Called every few steps.

    Raises:
        UsageError: There is no such device.
    """
    where = find_device(device)
    with ExitStack() as stack:
        opened: dict[int, tuple[RunFolder, Plan]] = {}
        places: dict[Session, int] = {}
        # Lock all folders before building any model, so that no other process starts on them.
        for place, (path, config) in enumerate(jobs):
            try:
                plan = check(config)
                opened[place] = stack.enter_context(RunFolder(path, config)), plan
            except BusyError:
                report(place, "elsewhere", "")
            except SsmlensError as error:
                report(place, "failed", str(error))
        for place, (folder, plan) in opened.items():
            try:
                if open_run(folder.path).status.state == "done":
                    report(place, "done", "")
                else:
                    session = Session(Trainee(plan, where), folder, progress=lambda now: beat())
                    places[session] = place
            except SsmlensError as error:
                report(place, "failed", str(error))
        for session, error in _together(list(places)):
            if error is not None:
                _record(session, error)
            report(places[session], "failed" if error else "done", str(error or ""))


def _together(sessions: list[Session]) -> Iterator[tuple[Session, SsmlensError | None]]:
    """Train all sessions to their ends; yield each when it is done, or with its error."""
    left = []
    for session in sessions:
        error = _attempt(session.begin)
        if error is not None or session.is_done:
            yield session, error
        else:
            left.append(session)
    while left:
        now, pack = left, Pack([session.trainee for session in left])
        while left == now:
            losses, left = pack.step(), []
            for session, loss in zip(now, losses, strict=True):
                error = _attempt(session.finish_step, loss)
                if error is not None or session.is_done:
                    yield session, error
                else:
                    left.append(session)


def _run_alone(session: Session) -> None:
    """Train one run to its end; record and raise the error that stops it."""
    try:
        for _, error in _together([session]):
            if error is not None:
                raise error
    except BaseException as error:
        _record(session, error)
        raise


def _attempt(act: Callable[..., None], *values: Any) -> SsmlensError | None:
    try:
        act(*values)
    except SsmlensError as error:
        return error
    return None


def _record(session: Session, error: BaseException) -> None:
    with suppress(SsmlensError):  # if the disk is full, the first error is more useful
        session.fail(error)
