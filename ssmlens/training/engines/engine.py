"""The interface of an engine, the reports of its workers, and the registry of engines."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from ssmlens.errors import UsageError
from ssmlens.registry import Registry


@dataclasses.dataclass(frozen=True)
class Workers:
    """The workers requested from an engine.

    Attributes:
        count: Workers at the same time; None: as many as the engine has places for.
        devices: auto, cpu, cuda, cuda:1, ...
        gpus: Share of a GPU for each worker; None: the engine's default. Only for engines that allot GPUs.
        cpus: CPU cores for each worker; None: the engine's default. Only for engines that allot cores.
    """

    count: int | None = None
    devices: tuple[str, ...] = ("auto",)
    gpus: float | int | None = None
    cpus: float | int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise UsageError(f"`workers` is at least 1, not {self.count}")
        if not self.devices:
            raise UsageError("`devices` is empty")


class Place(NamedTuple):
    """The place of a worker: its device.

    Attributes:
        device: cpu, cuda, cuda:1, ...
        sharing: Number of workers that share the machine's cores; 1 if the engine allots cores to each.
    """

    device: str
    sharing: int = 1


class Report(NamedTuple):
    """A worker's report on how a job of its pack ended, or (with `job` None) on how the pack ended.

    Attributes:
        job: The job's place in the pack.
        state: Of a job: "done"; "failed", for an error that would occur again; "elsewhere", if another launcher's
            worker has it. Of a pack: "ended", after a report on each job; "failed", "crashed" or "out of memory", with
            jobs left unreported.
        error: The error, in one line.
    """

    job: int | None
    state: str
    error: str = ""


# The work of a worker: takes a pack of jobs and its place; calls the third argument with (job's place in the pack,
# state, error) as each job ends, and the last one every few seconds as a sign of life.
Work = Callable[[Sequence[Any], Place, Callable[[int, str, str], None], Callable[[], None]], None]


class Worker(ABC):
    """A process, on any machine, that processes one pack after another."""

    @abstractmethod
    def send(self, pack: Sequence[Any]) -> None:
        """Send the worker a pack."""

    @abstractmethod
    def receive(self) -> Report | None:
        """Return the next report, announced by `Engine.wait`; None is a sign of life, first sent when it is ready.

        For a worker that has died, this reports that its pack crashed.
        """

    @abstractmethod
    def end(self) -> None:
        """Stop the worker immediately."""


class Engine(AbstractContextManager, ABC):
    """An engine starts workers; use it in a `with` block, which ends them all.

    Attributes:
        places: A place for each worker that may run at the same time.
    """

    places: Sequence[Place]

    @abstractmethod
    def start(self, work: Work, place: Place) -> Worker:
        """Start a new worker."""

    @abstractmethod
    def wait(self, workers: Sequence[Worker], seconds: float) -> Sequence[Worker]:
        """Wait until a worker has a report, and return the workers that do; return none after so many seconds."""


engines: Registry[Callable[[Workers], Engine]] = Registry("engine", "ssmlens.training.engines")
