"""A launcher of stub runs that crash, hang and fill the memory; run as a program: OUT RUNS WORKERS [ARM ...]."""

import os
import sys
import time
from pathlib import Path

from ssmlens.errors import SsmlensError
from ssmlens.training.config import TrainConfig
from ssmlens.training.pool import ElsewhereError
from ssmlens.training.run_folder import BusyError, RunFolder
from ssmlens.training.sweep import sweep

# Of a hundred runs, how many do this the first time that they are begun.
FAULTS = ["crash"] * 5 + ["hang"] * 2 + ["fill"]


def configs(count, arms=("",)):
    return [TrainConfig(seed=seed, steps=1, arm=arm) for arm in arms for seed in range(count)]


def stub(job, place, beat):
    """One line in the run's metrics; in `begun` a letter each time that it is begun."""
    try:
        with RunFolder(job.path, job.config) as folder:
            if (job.path / "status.json").exists():
                return
            beat()
            folder.cut_back(0)
            with (job.path / "begun").open("a") as begun:
                begun.write("x")
            misbehave(job, (job.path / "begun").stat().st_size)
            time.sleep(0.01)
            folder.measure(1, "eval", 20, loss=0.5, char=0.5, string=0.0)
            folder.tell("done", 1, 1, 0.01)
    except BusyError:
        raise ElsewhereError from None


def misbehave(job, times):
    lot, arm = (job.config.seed * 37 + 5) % 100, job.config.arm
    fault = arm
    if not arm and times == 1:
        fault = FAULTS[lot] if lot < len(FAULTS) else ""
    if fault == "crash":
        os.abort()
    if fault == "hang":
        time.sleep(3600)
    if fault == "fill":
        raise MemoryError
    if fault == "refuse":
        raise SsmlensError("no,\nnever")


if __name__ == "__main__":
    out, count, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    runs = configs(count, sys.argv[4:] or [""])
    sweep(runs, out, workers=workers, hang_after=2.0, work=stub)
