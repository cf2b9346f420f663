"""`train`: a config and a folder in, a trained model and its curve in the folder; and several of them side by side."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.models.device import find_device
from ssmlens.runs.run import METRICS, Run, open_run
from ssmlens.training.config import TrainConfig
from ssmlens.training.pack import Pack
from ssmlens.training.plan import Plan, check
from ssmlens.training.run_folder import BusyError, RunFolder
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
    """Train a model; its folder is a run as `runs.run` reads it, with checkpoints that `load_model` opens.

    >>> run = ssmlens.train(TrainConfig(task="copy", length=20, init="mimetic"), "runs/mimetic")
    >>> model = ssmlens.load_model("runs/mimetic/checkpoints/last")

    A resumed run has the curve of an uninterrupted one: bit for bit on a CPU with as many threads. On a GPU a whole
    step is one CUDA graph.

    Args:
        config: What is trained.
        out: The run's folder. None: the config's name, below runs/.
        resume: Go on from the last checkpoint, or from the start where there is none; a run that is done is returned.
        device: cpu, cuda, cuda:1, ...; auto is cuda where there is one.
        checkpoint_every: Steps between checkpoints; there is one at the end in any case.
        keep_checkpoints: Keep them all, as checkpoints/step-N, not the last alone.
        trackers: Some of trackio, wandb, tensorboard, which are told all that metrics.jsonl is.
        progress: Called now and then.

    Raises:
        UsageError: The config cannot be trained, or the folder has a run already (or another one, with `resume`).
        TrainingError: The loss is not finite; status.json says so, too.
        SsmlensError: The disk is full, or a capture failed.
    """
    plan = check(config)
    where, starts = find_device(device), [find_tracker(name) for name in trackers]
    out = Path("runs", config.name) if out is None else Path(out)
    if not resume and (out / METRICS).exists():
        raise UsageError(
            f"{out} has a run already; `resume` goes on with it, another `out` is another"
        )
    trainee = Trainee(plan, where)  # before there is a folder: it may be refused
    with ExitStack() as held:
        folder = held.enter_context(RunFolder(out, config))
        if resume and open_run(out).status.state == "done":
            return open_run(out)
        followers = [held.enter_context(start(out, config)) for start in starts]
        session = Session(
            trainee,
            folder,
            trackers=followers,
            progress=progress or (lambda told: None),
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
        )
        _run_alone(session)
    return open_run(out)


def train_pack(
    jobs: Sequence[tuple[Path, TrainConfig]],
    *,
    device: str = "auto",
    told: Callable[[int, str, str], None],
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Train several runs side by side in this process; on a GPU in one CUDA graph, see `Pack`.

    What was stopped goes on from its last checkpoint. What neither is done nor has failed when this function raises
    was interrupted, by whatever it raises.

    Args:
        jobs: Folder and config of each run; they should have the same shape and number of steps.
        device: As in `train`.
        told: Called with (place in `jobs`, state, why) as each ends: "done"; "failed", as it would again, which its
            status.json says, too, if it was begun; "elsewhere", another process has its folder.
        beat: Called now and then.

    Raises:
        UsageError: There is no such device.
    """
    where = find_device(device)
    with ExitStack() as held:
        begun: dict[int, tuple[RunFolder, Plan]] = {}
        places: dict[Session, int] = {}
        # All folders before any model: nobody else shall begin on the rest.
        for place, (path, config) in enumerate(jobs):
            try:
                plan = check(config)
                begun[place] = held.enter_context(RunFolder(path, config)), plan
            except BusyError:
                told(place, "elsewhere", "")
            except SsmlensError as error:
                told(place, "failed", str(error))
        for place, (folder, plan) in begun.items():
            try:
                if open_run(folder.path).status.state == "done":
                    told(place, "done", "")
                else:
                    session = Session(Trainee(plan, where), folder, progress=lambda now: beat())
                    places[session] = place
            except SsmlensError as error:
                told(place, "failed", str(error))
        for session, error in _together(list(places)):
            if error is not None:
                _record(session, error)
            told(places[session], "failed" if error else "done", str(error or ""))


def _together(sessions: list[Session]) -> Iterator[tuple[Session, SsmlensError | None]]:
    """Train them all to their ends; yields each one when it is done, or with what it failed of."""
    left = []
    for session in sessions:
        error = _attempt(session.begin)
        if error is not None or session.done:
            yield session, error
        else:
            left.append(session)
    while left:
        now, pack = left, Pack([session.trainee for session in left])
        while left == now:
            losses, left = pack.step(), []
            for session, loss in zip(now, losses, strict=True):
                error = _attempt(session.stepped, loss)
                if error is not None or session.done:
                    yield session, error
                else:
                    left.append(session)


def _run_alone(session: Session) -> None:
    """Train one run to its end; what stops it is written down and raised."""
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
    with suppress(SsmlensError):  # the disk is full: what stopped the run says more
        session.fail(error)
