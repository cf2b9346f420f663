"""An experiment that takes several sittings: its options, and results that are kept as runs end."""

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
_EVERY = 15.0  # seconds between two writings of the results


class _TimeUpError(Exception):
    pass


def options(
    description: str, results: Path | None, rates: tuple[float, ...], seeds: int
) -> argparse.ArgumentParser:
    """The options that experiments share, with an experiment's own folder of results, rates and number of seeds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument(
        "--results", type=Path, default=results, help=f"folder of {RESULTS}, which is gone on with"
    )
    parser.add_argument("--have", type=Path, nargs="*", default=[], help="further results")
    parser.add_argument("--devices", nargs="+", default=["auto"])
    parser.add_argument("--workers", type=int, help="processes; default: one a device")
    parser.add_argument("--pack", type=int, help="runs that a process trains side by side")
    parser.add_argument("--rates", type=float, nargs="+", default=list(rates))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(seeds)))
    parser.add_argument("--steps", type=int, help="other than the experiment's, for a trial")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after these, whatever is at work"
    )
    return parser


def sit(
    asked: argparse.Namespace,
    train: Callable[..., Any],
    about: Callable[[], dict[str, Any]] = dict,
    whole: Callable[[Run], bool] = lambda run: True,
) -> None:
    """Train what is left to do and keep what has ended, also when time is up or somebody stops it.

    Args:
        asked: Of `options`.
        train: Called with the options of `sweep`: progress, devices, workers and pack.
        about: What belongs to all runs, asked whenever results are kept.
        whole: Whether a run that has ended has all that is kept of it; one that has not is trained again elsewhere.
    """
    file, began, kept = asked.results / RESULTS, time.monotonic(), time.monotonic()
    for have in [file] * file.exists() + asked.have:
        restore(have, asked.out)

    def write() -> int:
        return keep(filter(whole, runs_below(asked.out)), file, about())

    def progress(done: int, of: int, what: str) -> None:
        nonlocal kept
        if time.monotonic() - kept > _EVERY:
            kept = time.monotonic()
            print(f"{kept - began:.0f} s: {done} of {of} {what}; {write()} runs kept", flush=True)
        if time.monotonic() - began > 60 * asked.minutes:
            raise _TimeUpError

    def stop(*_: object) -> None:
        raise _TimeUpError

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rang = signal.signal(signal.SIGALRM, stop)
    if 0 < asked.minutes < math.inf:
        signal.setitimer(signal.ITIMER_REAL, 60 * asked.minutes)
    where = {"devices": asked.devices, "workers": asked.workers, "pack": asked.pack}
    try:
        train(progress=progress, **where)
    except _TimeUpError:
        print("time is up; start again with --have to go on", flush=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, rang)
        signal.signal(signal.SIGTERM, before)
        print(f"{write()} runs in {file}, {time.monotonic() - began:.0f} s", flush=True)
