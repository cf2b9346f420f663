"""Workers on the machines of a Ray cluster: one actor each, with its share of a GPU, for one pack after another.

Ray is imported when the engine is created. It schedules, finds the GPUs, and ends the workers of a launcher that is
gone. The pool decides what is restarted and how often, so Ray itself retries nothing.
"""

import math
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.extras import extra
from ssmlens.training.engines.engine import Engine, Place, Report, Work, Worker, Workers, engines
from ssmlens.training.engines.serve import serve


@engines.register("ray")
class RayEngine(Engine):
    """Starts workers wherever the cluster has room for them.

    Ray chooses the cluster: that of RAY_ADDRESS, else the one that runs on this machine, else a new one on this machine
    only. Every machine needs the same ssmlens, and the launcher's folder under the same path on a shared file system
    with locks (flock) across machines, such as NFS 4 or Lustre mounted with flock.

    Raises:
        UsageError: Ray is not installed, devices are named one by one, or the cluster has no room for a worker.
        SsmlensError: There is no cluster at RAY_ADDRESS.
    """

    def __init__(self, requested: Workers):
        if requested.devices not in (("auto",), ("cpu",)):
            raise UsageError(
                "`engine` ray finds the GPUs itself: set `devices` to auto or cpu; see `gpus_per_worker`"
            )
        if requested.gpus is not None and not 0 <= requested.gpus <= 1:
            raise UsageError(
                f"`gpus_per_worker` is a share of one GPU, 0..1, not {requested.gpus:g}"
            )
        if requested.gpus and requested.devices == ("cpu",):
            raise UsageError("`gpus_per_worker` does not go with `devices` cpu")
        if requested.cpus is not None and not requested.cpus > 0:
            raise UsageError(f"`cpus_per_worker` is above 0, not {requested.cpus:g}")
        with extra("ray", "`engine` ray"):
            self._ray = import_module("ray")
        self._requested = requested
        self._ours = False

    def __enter__(self) -> "RayEngine":
        if not self._ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours phones nobody
            try:
                self._ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                message = " ".join(str(error).split())[:1000]
                raise SsmlensError(
                    f"`engine` ray: cannot connect to a cluster: {message}"
                ) from None
            self._ours = True
        try:
            self._allot([node["Resources"] for node in self._ray.nodes() if node["Alive"]])
        except BaseException:
            self.__exit__()
            raise
        return self

    def _allot(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """Set shares and places from the resources of the cluster."""
        requested = self._requested
        gpus = requested.gpus
        if gpus is None:
            has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
            gpus = int(has_gpu and requested.devices == ("auto",))
        shares = {"CPU": float(requested.cpus or 1), "GPU": float(gpus)}
        room = sum(room_on(node, shares) for node in nodes)
        if not room:
            raise UsageError(
                f"no machine of the Ray cluster has {shares['CPU']:g} CPUs and {gpus:g} GPUs for a worker"
            )
        self._options = {"num_cpus": shares["CPU"], "num_gpus": shares["GPU"], "max_restarts": 0}
        # Ray shows a worker only its own GPU, and gives it as many threads as it has cores.
        self.places = [Place("cuda:0" if gpus else "cpu")] * (requested.count or room)

    def start(self, work: Work, place: Place) -> Worker:
        """See `Engine`."""
        actor = self._ray.remote(_Actor).options(**self._options).remote(work, place)
        return _Handle(self._ray, actor)

    def wait(self, workers: Sequence[Worker], seconds: float) -> Sequence[Worker]:
        """See `Engine`."""
        handles = [w for w in workers if isinstance(w, _Handle) and w.reports is not None]
        streams = {handle.reports: handle for handle in handles}
        if not streams:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(streams), num_returns=1, timeout=seconds, fetch_local=False)
        return [streams[ref] for ref in ready]

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self._ray.shutdown()


def room_on(node: Mapping[str, float], shares: Mapping[str, float]) -> int:
    """Count the workers with these shares that fit on a machine with these resources ("CPU", "GPU")."""
    fits = [node.get(name, 0) / share for name, share in shares.items() if share]
    return math.floor(min(fits) + 1e-9)


class _Handle(Worker):
    """The launcher's handle of a worker; `reports` is the stream of its next reports."""

    def __init__(self, library: Any, actor: Any):
        self._ray, self._actor = library, actor
        self.reports: Any = self._stream("enter", str(Path.cwd()))

    def send(self, pack: Sequence[Any]) -> None:
        self.reports = self._stream("serve", pack)

    def receive(self) -> Report | None:
        try:
            return self._ray.get(next(self.reports))
        except StopIteration:
            self.reports = None
            return None
        except self._ray.exceptions.RayError as error:
            self.reports = None
            return _death_report(error)

    def end(self) -> None:
        self._ray.kill(self._actor)

    def _stream(self, method: str, *arguments: Any) -> Any:
        call = getattr(self._actor, method).options(num_returns="streaming")
        return call.remote(*arguments)


class _Actor:
    """A worker."""

    def __init__(self, work: Work, place: Place):
        self._work, self._place = work, place

    def enter(self, folder: str) -> Iterator[Report | None]:
        """Change to the launcher's folder, to which paths are relative."""
        try:
            os.chdir(folder)
        except OSError:
            host = socket.gethostname()
            error = f"{host} has no folder {folder}: the machines must share a file system"
            yield Report(None, "crashed", error)
        else:
            yield None

    def serve(self, pack: Sequence[Any]) -> Iterator[Report | None]:
        """Do the work on a pack; yield its reports."""
        reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        job = (pack, self._work, self._place, reports.put)
        threading.Thread(target=serve, args=job, daemon=True).start()
        while True:
            report = reports.get()
            yield report
            if report is not None and report.job is None:
                return


def _death_report(error: Exception) -> Report:
    """Turn Ray's error about a dead worker into a report of one line."""
    message = " ".join(str(error).split())
    kind = re.search(r"Worker exit type: (\w+)", message)
    full = type(error).__name__ == "OutOfMemoryError" or "OUT_OF_MEMORY" in (kind or [""])[0]
    why = f"its process ended with {kind[1]}" if kind else message[:1000]
    return Report(None, "out of memory" if full else "crashed", why)
