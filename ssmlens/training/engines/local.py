"""Workers are processes of this machine. Imports nothing heavy: a worker that dies is soon replaced."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any

from ssmlens.errors import UsageError
from ssmlens.training.engines.engine import Engine, Place, Told, Work, Worker, Workers, engines
from ssmlens.training.engines.serve import serve


@engines.register("local")
class LocalEngine(Engine):
    """A process a worker; they take the devices in turn, and end with this process, however it ends.

    Raises:
        UsageError: There is no such device, or no worker for it, or a share of GPUs or cores is asked for.
    """

    def __init__(self, asked: Workers):
        if asked.gpus is not None or asked.cpus is not None:
            raise UsageError("`gpus_per_worker` and `cpus_per_worker` go with `engine` ray")
        devices = [_find(name) for name in asked.devices]
        count = len(devices) if asked.count is None else asked.count
        if count < len(devices):
            raise UsageError(f"{len(devices)} devices need as many `workers`, not {count}")
        self.places = [Place(devices[k % len(devices)], count) for k in range(count)]

    def start(self, work: Work, place: Place) -> Worker:
        """See `Engine`."""
        return _Process(work, place)

    def wait(self, workers: Sequence[Worker], seconds: float) -> Sequence[Worker]:
        """See `Engine`."""
        pipes = {worker: worker.pipe for worker in workers if isinstance(worker, _Process)}
        speaking = connection.wait(list(pipes.values()), seconds)
        return [worker for worker, pipe in pipes.items() if pipe in speaking]

    def __exit__(self, *error: object) -> None:
        pass


def _find(name: str) -> str:
    """The device by its own name, where there is such a one."""
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

    def give(self, pack: Sequence[Any]) -> None:
        with contextlib.suppress(OSError):  # it has died: `hear` will tell
            self.pipe.send(pack)

    def hear(self) -> Told | None:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return Told(None, "crashed", f"its process ended with {_exit(self._process.exitcode)}")

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _live(pipe: connection.Connection, work: Work, place: Place) -> None:
    """A worker's life: packs come through the pipe, and what became of them goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses Ctrl-C means the launcher
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(told: Told | None) -> None:
        try:
            pipe.send(told)
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


def _exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
