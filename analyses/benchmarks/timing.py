"""Side-by-side timing: what is compared takes turns, so that a busy machine slows all of it alike."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of the repetitions of one thing, turn by turn."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle repetition."""
        return statistics.median(self.seconds)

    def ratio(self, other: "Timing") -> float:
        """How many times as long as `other` this took: the median over turns, each compared with its neighbour."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def __str__(self) -> str:
        digits = 3 if self.median < 1 else 2
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.median:.{digits}f} s ({low:.{digits}f}–{high:.{digits}f})"

    def record(self) -> dict[str, float]:
        """What results/*.json keeps of it."""
        return {"median_s": self.median, "min_s": min(self.seconds), "max_s": max(self.seconds)}


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
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}
