"""Run an experiment in several sittings: its options, and results saved as runs end."""

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analyses.results_file import keep, restore, runs_below
from ssmlens.runs.run import Run

RESULTS = "results.json"
_EVERY = 15.0  # seconds between two saves of the results


class _TimeUpError(Exception):
    pass


def options(
    description: str, results: Path | None, rates: tuple[float, ...], seeds: int
) -> argparse.ArgumentParser:
    """Make the options shared by experiments, with the defaults of one: folder of results, rates, number of seeds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument(
        "--results", type=Path, default=results, help=f"folder of {RESULTS}, which is resumed"
    )
    parser.add_argument(
        "--have", type=Path, nargs="*", default=[], help="more results files to resume from"
    )
    parser.add_argument("--devices", nargs="+", default=["auto"])
    parser.add_argument("--workers", type=int, help="processes; default: one per device")
    parser.add_argument("--pack", type=int, help="runs that one process trains together")
    parser.add_argument("--rates", type=float, nargs="+", default=list(rates))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(seeds)))
    parser.add_argument(
        "--steps", type=int, help="steps per run, for a trial; default: the experiment's"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after this time, even within a run"
    )
    return parser


def sit(
    arguments: argparse.Namespace,
    train: Callable[..., Any],
    about: Callable[[], dict[str, Any]] = dict,
    complete: Callable[[Run], bool] = lambda run: True,
) -> None:
    """Train the missing runs and save those that have ended, also when time is up or the process is stopped.

    Args:
        arguments: The values of `options`.
        train: Called with the options of `sweep`: progress, devices, workers and pack.
        about: Returns the values that belong to all runs; called at each save.
        complete: Returns whether a run that has ended has all its results; others are not saved and train again.
    """
    file, began, last_written = arguments.results / RESULTS, time.monotonic(), time.monotonic()
    for have in [file] * file.exists() + arguments.have:
        restore(have, arguments.out)

    def write() -> int:
        return keep(filter(complete, runs_below(arguments.out)), file, about())

    def progress(done: int, total: int, unit: str) -> None:
        nonlocal last_written
        if time.monotonic() - last_written > _EVERY:
            last_written = time.monotonic()
            print(
                f"{last_written - began:.0f} s: {done} of {total} {unit}; {write()} runs kept",
                flush=True,
            )
        if time.monotonic() - began > 60 * arguments.minutes:
            raise _TimeUpError

    def stop(*_: object) -> None:
        raise _TimeUpError

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rang = signal.signal(signal.SIGALRM, stop)
    if 0 < arguments.minutes < math.inf:
        signal.setitimer(signal.ITIMER_REAL, 60 * arguments.minutes)
    where = {"devices": arguments.devices, "workers": arguments.workers, "pack": arguments.pack}
    try:
        train(progress=progress, **where)
    except _TimeUpError:
        print("time is up; start again with --have to resume", flush=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, rang)
        signal.signal(signal.SIGTERM, before)
        print(f"{write()} runs in {file}, {time.monotonic() - began:.0f} s", flush=True)
