"""The jobs of a sweep, and which of them may be trained side by side in one process."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssmlens.training.config import STARTS, TrainConfig, part_of
from ssmlens.training.optimiser import OptimiserOptions

# Fields of a config that change numbers alone: the model, its data and its steps stay as large and as many.
_VALUES = (STARTS - {"init_from", "embeddings"}) | part_of(OptimiserOptions) | {"seed"}


class SweepJob(NamedTuple):
    """A run of a sweep: its folder and what is trained."""

    path: Path
    config: TrainConfig


def shape(config: TrainConfig) -> str:
    """What runs must have in common to be trained in lock-step: every field but those that change numbers alone."""
    fields = config.to_dict().items()
    return json.dumps({name: value for name, value in fields if name not in _VALUES})


def by_shape(jobs: Iterable[SweepJob]) -> list[list[SweepJob]]:
    """The jobs in groups of one shape, in the order in which shapes first come."""
    groups: dict[str, list[SweepJob]] = {}
    for job in jobs:
        groups.setdefault(shape(job.config), []).append(job)
    return list(groups.values())


def take_shard(jobs: Sequence[SweepJob], i: int, n: int) -> list[SweepJob]:
    """The i-th of n parts of the jobs, in their order; each part has its share of each shape.

    How jobs are packed plays no part in it: launchers that pack differently still share out the same parts.
    """
    grouped = [job for group in by_shape(jobs) for job in group]
    mine = {job.path for job in grouped[i - 1 :: n]}
    return [job for job in jobs if job.path in mine]


def make_packs(jobs: Sequence[SweepJob], most: int, workers: int) -> list[list[SweepJob]]:
    """Put jobs of one shape together, `most` at a time; fewer, where some of the workers would have nothing to do.

    Packs come in the order of their first jobs: a sweep of several shapes that is stopped has done the first jobs.
    """
    most = min(most, math.ceil(len(jobs) / workers))
    place = {job.path: number for number, job in enumerate(jobs)}
    packs = [pack for group in by_shape(jobs) for pack in _split(group, most)]
    return sorted(packs, key=lambda pack: place[pack[0].path])


def _split(group: Sequence[SweepJob], most: int) -> Iterator[list[SweepJob]]:
    """As few parts as may be, none larger than `most`, and as even as may be."""
    parts = math.ceil(len(group) / most)
    for part in range(parts):
        yield list(group[part * len(group) // parts : (part + 1) * len(group) // parts])
