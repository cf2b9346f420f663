"""Workers as processes on this machine. Imports nothing heavy, so that a dead worker is replaced quickly."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any

from ssmlens.errors import UsageError
from ssmlens.training.engines.engine import Engine, Place, Report, Work, Worker, Workers, engines
from ssmlens.training.engines.serve import serve


@engines.register("local")
class LocalEngine(Engine):
    """Starts one process per worker. They take the devices in turn, and end when this process ends.

    Raises:
        UsageError: A device does not exist, there are more devices than workers, or a share of GPUs or cores is given.
    """

    def __init__(self, requested: Workers):
        if requested.gpus is not None or requested.cpus is not None:
            raise UsageError("`gpus_per_worker` and `cpus_per_worker` need `engine` ray")
        devices = [_find(name) for name in requested.devices]
        count = len(devices) if requested.count is None else requested.count
        if count < len(devices):
            raise UsageError(f"{len(devices)} devices need at least as many `workers`, not {count}")
        self.places = [Place(devices[k % len(devices)], count) for k in range(count)]

    def start(self, work: Work, place: Place) -> Worker:
        """See `Engine`."""
        return _Process(work, place)

    def wait(self, workers: Sequence[Worker], seconds: float) -> Sequence[Worker]:
        """See `Engine`."""
        pipes = {worker: worker.pipe for worker in workers if isinstance(worker, _Process)}
        reporting = connection.wait(list(pipes.values()), seconds)
        return [worker for worker, pipe in pipes.items() if pipe in reporting]

    def __exit__(self, *error: object) -> None:
        pass


def _find(name: str) -> str:
    """Return the full name of a device; raises UsageError if it does not exist."""
    if name == "cpu":
        return name
    from ssmlens.models.device import find_device

    return str(find_device(name))


class _Process(Worker):
    def __init__(self, work: Work, place: Place):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_live, args=(theirs, work, place), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, pack: Sequence[Any]) -> None:
        with contextlib.suppress(OSError):  # it has died: `receive` will report that
            self.pipe.send(pack)

    def receive(self) -> Report | None:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            ending = _ending(self._process.exitcode)
            return Report(None, "crashed", f"its process ended with {ending}")

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _live(pipe: connection.Connection, work: Work, place: Place) -> None:
    """Run a worker: receive packs through the pipe, and send reports back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(report: Report | None) -> None:
        try:
            pipe.send(report)
        except OSError:  # the launcher is gone
            os._exit(1)

    tell(None)
    while True:
        try:
            pack = pipe.recv()
        except EOFError:
            return
        serve(pack, work, place, tell)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
