"""A launcher of stub runs that crash, hang and fill the memory; run as a program: OUT RUNS [ARM ...] [--pack 8]."""

import argparse
import os
import time
from contextlib import ExitStack
from pathlib import Path

from ssmlens.errors import BusyError, SsmlensError
from ssmlens.training.config import TrainConfig
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import sweep

# Of a hundred runs, how many do this the first time that they are begun.
FAULTS = ["crash"] * 5 + ["hang"] * 2 + ["fill"]


def configs(count, arms=("",)):
    return [TrainConfig(seed=seed, steps=1, arm=arm) for arm in arms for seed in range(count)]


def stub(pack, place, told, beat):
    """Each job of the pack: see `run`; and tells how it ended."""
    with ExitStack() as held:
        folders = {}
        for number, job in enumerate(pack):
            try:
                folders[number] = held.enter_context(RunFolder(job.path, job.config))
            except BusyError:
                told(number, "elsewhere", "")
        for number, folder in folders.items():
            beat()
            try:
                run(pack[number], folder, place)
            except SsmlensError as error:
                told(number, "failed", str(error))
            else:
                told(number, "done", "")


def run(job, folder, place):
    """One line in the run's metrics; in `begun` a line each time that it is begun: where, and in which process."""
    if (job.path / "status.json").exists():
        return
    folder.cut_back(0)
    with (job.path / "begun").open("a") as begun:
        begun.write(f"{place.device} {os.getpid()}\n")
    misbehave(job, len((job.path / "begun").read_text().splitlines()))
    time.sleep(0.01)
    folder.measure(1, "eval", 20, loss=0.5, char=0.5, string=0.0)
    folder.write_status("done", 1, 1, 0.01)


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


def main():
    words = argparse.ArgumentParser()
    words.add_argument("out", type=Path)
    words.add_argument("runs", type=int)
    words.add_argument("arms", nargs="*", default=[""])
    words.add_argument("--workers", type=int)
    words.add_argument("--pack", type=int)
    words.add_argument("--engine", default="local")
    given = words.parse_args()
    sweep(
        configs(given.runs, given.arms),
        given.out,
        engine=given.engine,
        workers=given.workers,
        devices=("cpu",),
        pack=given.pack,
        hang_after=2.0,
        work=stub,
    )


if __name__ == "__main__":
    main()
