"""Time calls in turns, so that a busy machine slows all of them equally."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of each repetition of a call."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median repetition."""
        return statistics.median(self.seconds)

    def ratio(self, other: "Timing") -> float:
        """Return the ratio of this time to `other`: the median over turns, each compared with its neighbour."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))

    def __str__(self) -> str:
        digits = 3 if self.median < 1 else 2
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.median:.{digits}f} s ({low:.{digits}f}–{high:.{digits}f})"

    def record(self) -> dict[str, float]:
        """Return the values for results/*.json."""
        return {"median_s": self.median, "min_s": min(self.seconds), "max_s": max(self.seconds)}


def take_turns(
    things: Mapping[str, Callable[[], object]],
    repetitions: int,
    *,
    warm_up: bool = True,
    prepare: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Run each call once without timing (optional), then all in turn, `repetitions` times.

    Before each timed call, `prepare` is called, untimed.
    """
    if warm_up:
        for thing in things.values():
            thing()
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repetitions):
        for name, thing in things.items():
            if prepare is not None:
                prepare()
            start = time.perf_counter()
            thing()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}
