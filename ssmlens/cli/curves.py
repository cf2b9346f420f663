"""Training runs side by side, in a few lines of text: how accuracy went, and where it ended."""

from collections.abc import Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def curves(runs: Sequence[Any]) -> str:
    """A line a run: its arm, the share of characters right at the training length as it rose, and the last values."""
    from ssmlens.runs.arms import lengths, training_length
    from ssmlens.runs.measures import BITS

    arms = [run.arm for run in runs]
    width = max(map(len, arms))
    shown = training_length(runs, lengths(runs))
    lines = [f"characters right at length {shown}, from the first step to the last"]
    for run in runs:
        length = training_length([run], lengths([run])) or 0
        told = _reached(run, length)
        others = [n for n in run.metrics.lengths() if n != length]
        told += "".join(f"   at {n} {_reached(run, n)}" for n in others)
        bits = run.metrics.final(BITS, length)
        told += f"   {bits:.2f} bits a byte" if bits == bits else ""
        rise = _bars(run.metrics.curve("char", "eval", length)[1])
        lines.append(f"  {run.arm:{width}}  {rise}  {told}   ({run.status.seconds:.0f} s)")
    return "\n".join(lines)


def _reached(run: Any, length: int) -> str:
    """The last share of characters right, and that of the model running freely where it was measured."""
    freely = run.metrics.final("char_free", length)
    told = "" if freely != freely else f" (freely {share(freely)})"
    return share(run.metrics.final("char", length)) + told


def plain(run: Any) -> dict[str, Any]:
    """A run in plain values, for JSON."""
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
    """Shares in 0..1 as a row of bars, at most 40 of them, the last one kept."""
    step = -(-len(shares) // _WIDTH)
    kept = shares[::-1][:: max(step, 1)][::-1]
    return "".join(
        " " if share != share else _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)]
        for share in kept
    )


def share(value: float) -> str:
    """A number to three places; "-" for NaN, where nothing is measured yet."""
    return "-" if value != value else f"{value:.3f}"
