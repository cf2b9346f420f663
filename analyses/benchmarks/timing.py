"""Side-by-side timing: what is compared takes turns, so that a busy machine slows all of it alike."""

import dataclasses
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of the repetitions of one thing, sorted."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle repetition (of an even number, the later of the two)."""
        return self.seconds[len(self.seconds) // 2]

    @property
    def spread(self) -> float:
        """(slowest − fastest) / median: how far to trust the median."""
        return (self.seconds[-1] - self.seconds[0]) / self.median

    def __str__(self) -> str:
        digits = 3 if self.median < 1 else 2
        return f"{self.median:.{digits}f} s ({self.seconds[0]:.{digits}f}–{self.seconds[-1]:.{digits}f})"

    def record(self) -> dict[str, float]:
        """What results/*.json keeps of it."""
        return {"median_s": self.median, "min_s": self.seconds[0], "max_s": self.seconds[-1]}


def take_turns(
    things: Mapping[str, Callable[[], object]], repetitions: int, *, warm_up: bool = True
) -> dict[str, Timing]:
    """Call every thing once unmeasured (unless told not to), then all of them in turn, `repetitions` times over."""
    if warm_up:
        for thing in things.values():
            thing()
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repetitions):
        for name, thing in things.items():
            start = time.perf_counter()
            thing()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(sorted(taken))) for name, taken in seconds.items()}
