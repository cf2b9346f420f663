"""Training runs side by side as a few lines of text: the curve of accuracy and its last values."""

from collections.abc import Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def curves(runs: Sequence[Any]) -> str:
    """Return one line per run: arm, curve of the share of characters right at the training length, last values."""
    from ssmlens.runs.arms import lengths, training_length
    from ssmlens.runs.measures import BITS

    arms = [run.arm for run in runs]
    width = max(map(len, arms))
    trained = training_length(runs, lengths(runs))
    lines = [f"characters right at length {trained}, from the first step to the last"]
    for run in runs:
        length = training_length([run], lengths([run])) or 0
        values = _reached(run, length)
        others = [n for n in run.metrics.lengths() if n != length]
        values += "".join(f"   at {n} {_reached(run, n)}" for n in others)
        bits = run.metrics.final(BITS, length)
        values += f"   {bits:.2f} bits per byte" if bits == bits else ""
        bars = _bars(run.metrics.curve("char", "eval", length)[1])
        lines.append(f"  {run.arm:{width}}  {bars}  {values}   ({run.status.seconds:.0f} s)")
    return "\n".join(lines)


def _reached(run: Any, length: int) -> str:
    """Return the last share of characters right, with that of the free-running model if it was measured."""
    free = run.metrics.final("char_free", length)
    suffix = "" if free != free else f" (free-running {share(free)})"
    return share(run.metrics.final("char", length)) + suffix


def plain(run: Any) -> dict[str, Any]:
    """Convert a run to plain values, for JSON."""
    from ssmlens.runs.measures import WORDS

    lengths = run.metrics.lengths()
    measures = dict.fromkeys([*WORDS, *run.metrics.measures()])
    return {
        "out": str(run.path),
        "arm": run.arm,
        "seed": run.seed,
        "state": run.status.state,
        "error": run.status.error,
        "steps": run.status.steps,
        "seconds": run.status.seconds,
        "accuracy": {
            str(n): {name: run.metrics.final(name, n) for name in measures} for n in lengths
        },
        "curve": {
            str(n): [
                [int(step), float(value)]
                for step, value in zip(*run.metrics.curve("char", "eval", n), strict=True)
            ]
            for n in lengths
        },
    }


def _bars(shares: Any) -> str:
    """Draw shares in 0..1 as a row of bars, at most 40 of them, the last one included."""
    step = -(-len(shares) // _WIDTH)
    thinned = shares[::-1][:: max(step, 1)][::-1]
    return "".join(
        " " if share != share else _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]
        for share in thinned
    )


def share(value: float) -> str:
    """Format a number to three decimals; "-" for NaN, which means not measured yet."""
    return "-" if value != value else f"{value:.3f}"
