"""The teacher, the students' task, and the grid."""

from ssmlens.training.config import TrainConfig

TEACHER = "copy-mamba1-mimetic"
"""Four layers of width 192, state 32; 6000 steps on strings of 5 to 50 of 26 letters."""

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = 3

STUDENT = TrainConfig(
    task="copy",
    letters=40,
    length=40,
    min_length=5,
    n_layer=2,
    steps=1500,
    precision="bf16",
    eval_lengths=(40, 80),
    eval_every=500,
)
"""Half as many layers as the teacher, more and other letters, and another length. The mixers have the same shape."""
