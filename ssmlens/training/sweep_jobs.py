"""The jobs of a sweep, and their grouping into packs that one process trains side by side."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ssmlens.training.config import STARTS, TrainConfig, part_of
from ssmlens.training.optimiser import OptimiserOptions

# Fields of a config that change only numbers: the sizes of model and data and the number of steps stay the same.
_VALUES = (STARTS - {"init_from", "embeddings"}) | part_of(OptimiserOptions) | {"seed"}


class SweepJob(NamedTuple):
    """A run of a sweep: its folder and config."""

    path: Path
    config: TrainConfig


def shape(config: TrainConfig) -> str:
    """Return the fields that runs must share to be trained in lock-step: all except those that change only numbers."""
    fields = config.to_dict().items()
    return json.dumps({name: value for name, value in fields if name not in _VALUES})


def by_shape(jobs: Iterable[SweepJob]) -> list[list[SweepJob]]:
    """Group the jobs by shape, in the order in which shapes first occur."""
    groups: dict[str, list[SweepJob]] = {}
    for job in jobs:
        groups.setdefault(shape(job.config), []).append(job)
    return list(groups.values())


def take_shard(jobs: Sequence[SweepJob], i: int, n: int) -> list[SweepJob]:
    """Return shard i of n of the jobs, in their order; each shard has its share of each shape.

    It does not depend on packs: launchers with different packs still agree on the shards.
    """
    grouped = [job for group in by_shape(jobs) for job in group]
    mine = {job.path for job in grouped[i - 1 :: n]}
    return [job for job in jobs if job.path in mine]


def make_packs(jobs: Sequence[SweepJob], most: int, workers: int) -> list[list[SweepJob]]:
    """Group jobs of one shape into packs of at most `most`; of fewer, if some workers would otherwise be idle.

    Packs come in the order of their first jobs, so that a stopped sweep of several shapes has done its first jobs.
    """
    most = min(most, math.ceil(len(jobs) / workers))
    place = {job.path: number for number, job in enumerate(jobs)}
    packs = [pack for group in by_shape(jobs) for pack in _split(group, most)]
    return sorted(packs, key=lambda pack: place[pack[0].path])


def _split(group: Sequence[SweepJob], most: int) -> Iterator[list[SweepJob]]:
    """Split a group into the fewest parts of at most `most` jobs, as even as possible."""
    parts = math.ceil(len(group) / most)
    for part in range(parts):
        yield list(group[part * len(group) // parts : (part + 1) * len(group) // parts])
