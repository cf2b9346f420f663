"""Store training runs in one small file: the data of tables and figures, and the course of each run.

`keep` writes the file. `restore` turns it back into run folders, without checkpoints. A sweep over restored folders
trains only the missing runs, so an experiment can continue on another machine.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmlens.files.new import write_file
from ssmlens.files.strict_json import without_nan
from ssmlens.runs.metrics import EVAL, TRAIN, Metrics
from ssmlens.runs.run import Run, find_runs, open_run
from ssmlens.training.config import TrainConfig
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path

_ENDED = ("done", "failed")
_POINTS = 30  # most points of a run's training loss
_DIGITS = 5


def keep(runs: Iterable[Run], file: Path, about: Mapping[str, Any]) -> int:
    """Write the runs that have ended to a file; return their number.

    Args:
        runs: Runs of `TrainConfig`s.
        file: The file; it is replaced in one step.
        about: Plain values that belong to all runs.
    """
    ended = [run for run in runs if run.status.state in _ENDED]
    configs = [dict(run.config) for run in ended]
    first = configs[0] if configs else {}
    common = {k: v for k, v in first.items() if all(k in c and c[k] == v for c in configs)}
    entries = [
        {"config": {k: v for k, v in config.items() if k not in common}, **plain_run(run)}
        for run, config in zip(ended, configs, strict=True)
    ]
    lines = ",\n".join(json.dumps(run, allow_nan=False) for run in entries)
    head = json.dumps({"about": dict(about), "common": common}, allow_nan=False)[:-1]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, f'{head}, "runs": [\n{lines}\n]}}\n'.encode())
    return len(ended)


def restore(file: Path, out: Path) -> dict[str, Any]:
    """Make run folders below `out` from a file's runs, unless one with the same config exists; return `about`."""
    saved = json.loads(file.read_text(encoding="utf-8"))
    for run in saved["runs"]:
        config = TrainConfig.from_dict(saved["common"] | run["config"])
        path = run_path(out, config)
        if path.exists() and open_run(path).status.state in _ENDED:
            continue
        with RunFolder(path, config) as folder:
            folder.cut_back(-1)
            for split, length, step, values in _lines(run):
                folder.measure(step, split, length, **values)
            if "scores" in run:
                scores = {k: np.nan if v is None else v for k, v in run["scores"].items()}
                folder.write_scores(config.teacher_layer or 0, scores)
            folder.write_status(**run["status"])
    return saved["about"]


def runs_below(out: Path) -> list[Run]:
    """Open the runs in an experiment's folder; empty if the folder does not exist."""
    return [open_run(path) for path in find_runs(out)] if out.is_dir() else []


def plain_run(run: Run) -> dict[str, Any]:
    """Return a run without its config as plain values."""
    status = run.status
    entry: dict[str, Any] = {
        "status": {
            "state": status.state,
            "step": status.step,
            "steps": status.steps,
            "seconds": plain(status.seconds) or 0.0,
            "error": status.error,
        },
        "train": _curves(run.metrics, TRAIN, None, _POINTS),
        "eval": _by_length(run.metrics, EVAL),
    }
    exams = [split for split in run.metrics.splits if split not in (TRAIN, EVAL)]
    if exams:
        entry["exams"] = {split: _by_length(run.metrics, split) for split in exams}
    if run.teacher_scores:
        entry["scores"] = {name: plain(value) for name, value in run.teacher_scores.items()}
    return entry


def _by_length(metrics: Metrics, split: str) -> dict[str, Any]:
    return {str(n): _curves(metrics, split, n, None) for n in metrics.lengths(split)}


def _curves(metrics: Metrics, split: str, length: int | None, most: int | None) -> dict[str, Any]:
    """Return the measures by step, at about `most` steps including the last."""
    steps = metrics.curve("loss", split, length)[0]  # the same for every measure
    every = max(1, -(-len(steps) // most)) if most else 1
    points = np.arange(len(steps))[::-1][::every][::-1]
    curves = {
        name: metrics.curve(name, split, length)[1][points] for name in metrics.measures(split)
    }
    measured = {k: [plain(v) for v in c] for k, c in curves.items() if np.isfinite(c).any()}
    return {"step": [int(step) for step in steps[points]], **measured}


def _lines(run: Mapping[str, Any]) -> Sequence[tuple[str, int | None, int, dict[str, float]]]:
    """List split, length, step and measures of each line, as in metrics.jsonl."""
    groups = [(TRAIN, None, run["train"])]
    splits = {EVAL: run["eval"], **run.get("exams", {})}
    groups += [
        (s, int(n), curves) for s, lengths in splits.items() for n, curves in lengths.items()
    ]
    lines = []
    for split, length, curves in groups:
        names = [name for name in curves if name != "step"]
        for place, step in enumerate(curves["step"]):
            values = {n: v for n in names if (v := curves[n][place]) is not None}
            lines.append((split, length, step, values))
    return sorted(lines, key=lambda line: line[2])


def plain(value: float) -> float | None:
    """A number as the file stores it: rounded to five digits, or None for NaN."""
    return without_nan(float(f"{value:.{_DIGITS}g}"))
