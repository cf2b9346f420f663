"""The part of a config for evaluation."""

import dataclasses

from ssmlens.errors import UsageError
from ssmlens.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Evaluation: what is measured, and when.

    Attributes:
        eval_lengths: Lengths to measure accuracy at. Default: `length` and twice that.
        eval_every: Steps between measurements.
        eval_count: Held-out examples of each length.
        free_running: Also measure accuracy while the model reads its own answers: char_free and string_free.
        capture_at: Steps at which the layers are captured, into captures/step-N.h5.
    """

    eval_lengths: tuple[int, ...] = ()
    eval_every: int = option(200, least=1)
    eval_count: int = option(128, least=1)
    free_running: bool = False
    capture_at: tuple[int, ...] = ()


def check_evaluation(options: EvaluationOptions, steps: int) -> None:
    """Raise UsageError if a capture is requested at a step outside the run."""
    for step in options.capture_at:
        if not 0 <= step <= steps:
            raise UsageError(f"`capture_at` {step} is not a step of this run: 0..{steps}")
