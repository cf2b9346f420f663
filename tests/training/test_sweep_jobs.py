"""Which runs are packed together, and which shard they fall into."""

import dataclasses
from pathlib import Path

import pytest

from ssmlens.training import sweep_jobs
from ssmlens.training.config import TrainConfig
from ssmlens.training.sweep_jobs import SweepJob, make_packs, shape, take_shard


def jobs_of(*configs):
    return [SweepJob(Path(str(number)), config) for number, config in enumerate(configs)]


def names(jobs):
    return [int(job.path.name) for job in jobs]


# Small and large runs by turns, and one that is neither.
MIXED = jobs_of(
    *(TrainConfig(seed=seed, n_layer=1 + seed % 2) for seed in range(11)), TrainConfig(batch=8)
)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 3, "learning_rate": 1, "warmup": 0, "schedule": "cosine", "clip": 0},
        {"init": "mimetic", "components": ("A",), "c": 4, "bc_mix": (1, 0), "arm": "mine"},
        {"init": "transplant", "teacher": "copy-mamba1-mimetic", "teacher_layer": 3},
    ],
)
def test_what_changes_numbers_alone_leaves_the_shape(fields):
    assert shape(TrainConfig(**fields)) == shape(TrainConfig())


@pytest.mark.parametrize(
    "fields",
    [
        *({"n_layer": 3}, {"batch": 8}, {"steps": 10}, {"length": 21}, {"precision": "bf16"}),
        *({"init_from": "some/checkpoint"}, {"eval_every": 7}, {"capture_at": (1,)}),
    ],
)
def test_what_changes_model_data_or_steps_changes_the_shape(fields):
    assert shape(TrainConfig(**fields)) != shape(TrainConfig())


def test_values_are_fields_of_a_config():
    assert {f.name for f in dataclasses.fields(TrainConfig)} >= sweep_jobs._VALUES


@pytest.mark.parametrize(
    ("most", "workers", "sizes"),
    [
        (8, 1, [6, 5, 1]),
        (4, 1, [3, 3, 2, 3, 1]),  # as even as may be
        (8, 4, [3, 3, 2, 3, 1]),  # 12 jobs for 4 workers: 3 each
        (1, 1, [1] * 12),
        (8, 100, [1] * 12),
    ],
)
def test_packs_are_of_one_shape_and_leave_no_worker_without(most, workers, sizes):
    packs = make_packs(MIXED, most, workers)
    assert sorted(map(len, packs)) == sorted(sizes)
    assert sorted(names(job for pack in packs for job in pack)) == list(range(12))
    assert all(len({shape(job.config) for job in pack}) == 1 for pack in packs)
    assert make_packs([], most, workers) == []


def test_packs_of_several_shapes_come_in_the_order_of_their_first_jobs():
    assert [names(pack) for pack in make_packs(MIXED, 3, 1)] == [
        [0, 2, 4],
        [1, 3],
        [5, 7, 9],
        [6, 8, 10],
        [11],
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_shards_share_out_every_job_once_and_every_shape(n):
    shards = [take_shard(MIXED, i, n) for i in range(1, n + 1)]
    assert sorted(names(job for shard in shards for job in shard)) == list(range(12))
    assert all(names(shard) == sorted(names(shard)) for shard in shards)
    for layers in (1, 2):
        counts = [sum(job.config.n_layer == layers for job in shard) for shard in shards]
        assert max(counts) - min(counts) <= 1
