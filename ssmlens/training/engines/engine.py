"""What an engine is, what its workers say, and the registry of engines."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from ssmlens.errors import UsageError
from ssmlens.registry import Registry


@dataclasses.dataclass(frozen=True)
class Workers:
    """What is asked of an engine.

    Attributes:
        count: Workers side by side; None: as many as the engine has places for.
        devices: Where: auto, cpu, cuda, cuda:1, ...
        gpus: Share of a GPU that a worker takes up; None: the engine's own. Only of engines that allot GPUs.
        cpus: CPU cores that a worker takes up; None: the engine's own. Only of engines that allot cores.
    """

    count: int | None = None
    devices: tuple[str, ...] = ("auto",)
    gpus: float | int | None = None
    cpus: float | int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise UsageError(f"`workers` is at least 1, not {self.count}")
        if not self.devices:
            raise UsageError("`devices` names none")


class Place(NamedTuple):
    """Where a worker works.

    Attributes:
        device: cpu, cuda, cuda:1, ...
        sharing: Workers that share the machine's cores; 1 where the engine has allotted each its own.
    """

    device: str
    sharing: int = 1


class Told(NamedTuple):
    """What a worker says: how a job of its pack ended; or, where `job` is None, how the pack did.

    Attributes:
        job: The job's place in the pack.
        state: Of a job: "done"; "failed", it would again; "elsewhere", another launcher's worker has it. Of a pack:
            "ended", with a word on each job; "failed", "crashed" or "out of memory", with none on those that are left.
        error: Why, in one line.
    """

    job: int | None
    state: str
    error: str = ""


# What a worker does: with a pack of jobs, at its place; it tells (job's place in the pack, state, error) as each ends,
# and calls the last argument now and then as a sign of life.
Work = Callable[[Sequence[Any], Place, Callable[[int, str, str], None], Callable[[], None]], None]


class Worker(ABC):
    """A process somewhere that takes one pack after another."""

    @abstractmethod
    def give(self, pack: Sequence[Any]) -> None:
        """Hand it a pack."""

    @abstractmethod
    def hear(self) -> Told | None:
        """The next that it says, which `Engine.wait` has announced; None: a sign of life, the first once it is ready.

        A worker that has died says that its pack crashed.
        """

    @abstractmethod
    def end(self) -> None:
        """Stop it, now, whatever it is at."""


class Engine(AbstractContextManager, ABC):
    """Starts workers; use it in a `with` block, after which none of its own is left.

    Attributes:
        places: A place for each worker that may run at a time.
    """

    places: Sequence[Place]

    @abstractmethod
    def start(self, work: Work, place: Place) -> Worker:
        """A new worker."""

    @abstractmethod
    def wait(self, workers: Sequence[Worker], seconds: float) -> Sequence[Worker]:
        """Those of the workers that have something to say, as soon as there is one; none after so many seconds."""


engines: Registry[Callable[[Workers], Engine]] = Registry("engine", "ssmlens.training.engines")
