"""Workers over the machines of a Ray cluster: an actor each, which holds its share of a GPU and takes pack after pack.

Ray is imported when the engine is made. It schedules, finds the GPUs, and ends the workers of a launcher that is gone;
what is begun again, and how often, is the pool's business, so that Ray itself retries nothing.
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
from ssmlens.training.engines.engine import Engine, Place, Told, Work, Worker, Workers, engines
from ssmlens.training.engines.serve import serve


@engines.register("ray")
class RayEngine(Engine):
    """Workers where the cluster has room for them.

    The cluster is Ray's choice: that of RAY_ADDRESS, else the one that runs on this machine, else a new one of this
    machine alone. Every machine needs the same ssmlens, and the launcher's folder under the same path, on a file system
    that they share and whose locks (flock) hold between machines: NFS 4 and Lustre mounted with flock do.

    Raises:
        UsageError: Ray is not installed, devices are named one by one, or the cluster has no room for a worker.
        SsmlensError: There is no cluster where RAY_ADDRESS says.
    """

    def __init__(self, asked: Workers):
        if asked.devices not in (("auto",), ("cpu",)):
            raise UsageError(
                "`engine` ray finds the GPUs itself: `devices` is auto or cpu; see `gpus_per_worker`"
            )
        if asked.gpus is not None and not 0 <= asked.gpus <= 1:
            raise UsageError(f"`gpus_per_worker` is a share of one GPU, 0..1, not {asked.gpus:g}")
        if asked.gpus and asked.devices == ("cpu",):
            raise UsageError("`gpus_per_worker` goes without `devices` cpu")
        if asked.cpus is not None and not asked.cpus > 0:
            raise UsageError(f"`cpus_per_worker` is above 0, not {asked.cpus:g}")
        with extra("ray", "`engine` ray"):
            self._ray = import_module("ray")
        self._asked = asked
        self._ours = False

    def __enter__(self) -> "RayEngine":
        if not self._ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours phones nobody
            try:
                self._ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                told = " ".join(str(error).split())[:1000]
                raise SsmlensError(f"`engine` ray: no cluster to connect to: {told}") from None
            self._ours = True
        try:
            self._allot([node["Resources"] for node in self._ray.nodes() if node["Alive"]])
        except BaseException:
            self.__exit__()
            raise
        return self

    def _allot(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """Shares and places, from what the cluster has."""
        asked = self._asked
        gpus = asked.gpus
        if gpus is None:
            has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
            gpus = int(has_gpu and asked.devices == ("auto",))
        shares = {"CPU": float(asked.cpus or 1), "GPU": float(gpus)}
        room = sum(room_on(node, shares) for node in nodes)
        if not room:
            raise UsageError(
                f"no machine of the Ray cluster has {shares['CPU']:g} CPUs and {gpus:g} GPUs for a worker"
            )
        self._options = {"num_cpus": shares["CPU"], "num_gpus": shares["GPU"], "max_restarts": 0}
        # Ray shows a worker its own GPU alone, and gives it as many threads as it has cores.
        self.places = [Place("cuda:0" if gpus else "cpu")] * (asked.count or room)

    def start(self, work: Work, place: Place) -> Worker:
        """See `Engine`."""
        actor = self._ray.remote(_Actor).options(**self._options).remote(work, place)
        return _Handle(self._ray, actor)

    def wait(self, workers: Sequence[Worker], seconds: float) -> Sequence[Worker]:
        """See `Engine`."""
        says = {w.says: w for w in workers if isinstance(w, _Handle) and w.says is not None}
        if not says:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(says), num_returns=1, timeout=seconds, fetch_local=False)
        return [says[ref] for ref in ready]

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self._ray.shutdown()


def room_on(node: Mapping[str, float], shares: Mapping[str, float]) -> int:
    """How many workers with these shares fit on a machine with these resources ("CPU", "GPU")."""
    fits = [node.get(name, 0) / share for name, share in shares.items() if share]
    return math.floor(min(fits) + 1e-9)


class _Handle(Worker):
    """A worker as its launcher has it; `says` is the stream of what it will say next."""

    def __init__(self, library: Any, actor: Any):
        self._ray, self._actor = library, actor
        self.says: Any = self._stream("enter", str(Path.cwd()))

    def give(self, pack: Sequence[Any]) -> None:
        self.says = self._stream("serve", pack)

    def hear(self) -> Told | None:
        try:
            return self._ray.get(next(self.says))
        except StopIteration:
            self.says = None
            return None
        except self._ray.exceptions.RayError as error:
            self.says = None
            return _of_its_end(error)

    def end(self) -> None:
        self._ray.kill(self._actor)

    def _stream(self, method: str, *arguments: Any) -> Any:
        call = getattr(self._actor, method).options(num_returns="streaming")
        return call.remote(*arguments)


class _Actor:
    """A worker."""

    def __init__(self, work: Work, place: Place):
        self._work, self._place = work, place

    def enter(self, folder: str) -> Iterator[Told | None]:
        """Go to the launcher's folder, to which paths are relative."""
        try:
            os.chdir(folder)
        except OSError:
            host = socket.gethostname()
            lacks = f"{host} has no folder {folder}: the machines must share a file system"
            yield Told(None, "crashed", lacks)
        else:
            yield None

    def serve(self, pack: Sequence[Any]) -> Iterator[Told | None]:
        """Do the work on a pack; yields what there is to say."""
        said: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
        job = (pack, self._work, self._place, said.put)
        threading.Thread(target=serve, args=job, daemon=True).start()
        while True:
            told = said.get()
            yield told
            if told is not None and told.job is None:
                return


def _of_its_end(error: Exception) -> Told:
    """What Ray says of a worker that is gone, in a line."""
    told = " ".join(str(error).split())
    kind = re.search(r"Worker exit type: (\w+)", told)
    full = type(error).__name__ == "OutOfMemoryError" or "OUT_OF_MEMORY" in (kind or [""])[0]
    why = f"its process ended with {kind[1]}" if kind else told[:1000]
    return Told(None, "out of memory" if full else "crashed", why)
