"""The runs of PREREGISTERED.md: teachers on two corpora, and the students of each, in order."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ssmlens.training.config import TrainConfig

CORPORA = {"P": "prose and documentation", "C": "Python source"}
TEACHER = TrainConfig(
    task="bytes",
    repeats=0.3,
    longest=128,
    context=1024,
    mixer="Mamba1",
    d_model=384,
    n_layer=24,
    d_state=16,
    steps=2100,
    batch=64,
    learning_rate=2e-3,
    warmup=150,
    schedule="cosine",
    final_rate=0.05,
    beta2=0.95,
    precision="bf16",
    eval_lengths=(64, 128),
    eval_every=300,
)
STUDENT = TrainConfig(
    task="copy",
    length=50,
    min_length=5,
    letters=26,
    n_layer=4,
    steps=1000,
    precision="bf16",
    eval_lengths=(50, 100),
    eval_every=100,
)
RATES = (1e-3, 3e-3)
SEEDS = 2
PRIMARY = "induction_score"
SECONDARY = ("mask_ones", "memory_length")
EXPLORATORY = (
    "bc_correlation",
    "bc_effective",
    "bc_identity",
    "diagonal_sharpness",
    "previous_token_score",
    "ablation",
)
GATE = 0.5
CONTROLS_OF_SIX = ("memory-only", "memory-out", "gaussian")


def six(ranked: Sequence[int]) -> list[int]:
    """The layers of ranks 1, 2, 12, 13, 23 and 24 (the first, middle and last pairs), of layers best first."""
    middle = len(ranked) // 2
    chosen = [*ranked[:2], *ranked[middle - 1 : middle + 1], *ranked[-2:]]
    return list(dict.fromkeys(chosen))


def student_configs(
    student: TrainConfig,
    teacher: str,
    ranked: Sequence[int],
    rates: Sequence[float],
    seeds: Sequence[int],
) -> list[TrainConfig]:
    """The students of a teacher, in the order in which they are trained.

    Args:
        student: What they learn, with the shape of the teacher's mixers.
        teacher: Folder of its checkpoint.
        ranked: Its layers, best first.
        rates: Learning rates of every arm.
        seeds: Seeds of every arm.
    """
    of_teacher = dataclasses.replace(student, init="transplant", teacher=teacher)

    def grown(layers: Sequence[int], **control: Any) -> list[TrainConfig]:
        return [dataclasses.replace(of_teacher, teacher_layer=n, **control) for n in layers]

    alone = dataclasses.replace(student, init="mimetic")
    every, some = sorted(ranked), sorted(six(ranked))
    first = [
        *grown(every),
        student,
        alone,
        dataclasses.replace(alone, components=("A",)),
        *grown(every, shuffled=True),
    ]
    last = [arm for control in CONTROLS_OF_SIX for arm in grown(some, control=control)]
    return [
        dataclasses.replace(arm, learning_rate=rate, seed=seed)
        for arms in (first, last)
        for seed in seeds
        for arm in arms
        for rate in rates
    ]
