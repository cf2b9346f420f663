"""`ssmlens sweep`."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ssmlens.cli.command import Result
from ssmlens.cli.config_options import FIRST_PAGE, config_of
from ssmlens.cli.progress import progress
from ssmlens.cli.sweep_options import SweepOptions
from ssmlens.errors import UsageError
from ssmlens.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class SweepCommand(SweepOptions):
    """Train many runs: all combinations of some axes, or a Python file's configs.

    The same command resumes a stopped sweep. Next: ssmlens compare FOLDER
    """

    first_page: ClassVar = (*FIRST_PAGE, "axis", "out", "workers")

    axis: tuple[str, ...] = ()
    """Axes: name=value,value,... such as init=mamba-ssm,mimetic learning-rate=1e-3,3e-3 seed=0,1,2.
    Join parts of a list by +, as in components=A,A+BC."""
    configs: Path | None = None
    """A Python file that defines configs, a list of TrainConfig.
    Each worker runs it too, so it may register tasks and inits."""
    out: Path | None = None
    """Folder of the run folders. Default: sweeps/ and the name of the task or of the Python file."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Train the runs and return their summary."""
        from ssmlens.training.sweep import sweep

        configs, name = self._configs()
        out = self.out or Path("sweeps") / name
        files = () if self.configs is None else (self.configs.resolve(),)
        with progress(f"sweeping {out}") as tell:
            runs = sweep(configs, out, files=files, progress=tell, **self.sweep_arguments())
        return summary(runs, out)

    def _configs(self) -> tuple[list[TrainConfig], str]:
        base = config_of(self)
        if self.configs is None:
            if not self.axis:
                raise UsageError(
                    "there is no axis: give --axis learning-rate=1e-3,3e-3, or --configs"
                )
            return combinations(base, self.axis), base.task
        if self.axis or base != TrainConfig():
            raise UsageError("--configs does not go with --axis or with options of a config")
        return _from_file(self.configs), self.configs.stem


def combinations(base: TrainConfig, axes: tuple[str, ...]) -> list[TrainConfig]:
    """Return the configs for every combination of the axes' values; the last axis varies fastest.

    Raises:
        UsageError: An axis is not name=value,value, or its name or a value is unknown.
    """
    named = [_axis(text) for text in axes]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UsageError(f"--axis {' '.join(names)}: a name is repeated; join its values by commas")
    points = itertools.product(*(values for _, values in named))
    return [dataclasses.replace(base, **dict(zip(names, p, strict=True))) for p in points]


def summary(runs: list[Any], out: Path) -> Result:
    """Summarise a sweep: one line, plus one for each failed run; all runs for --json; exit code 1 if any failed."""
    from ssmlens.cli.curves import plain

    states = [run.status.state for run in runs]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    text = f"{out}: {len(runs)} runs, {', '.join(parts) or 'none started'}"
    failed = failures(runs)
    lines = [text, *failed, f"compare its arms: ssmlens compare {out}"]
    data = {"out": str(out), "runs": [plain(run) for run in runs]}
    return Result(data, "\n".join(lines), exit_code=int(bool(failed)))


def failures(runs: Sequence[Any]) -> list[str]:
    """Return a line for each failed run: its folder's name and the error."""
    return [f"{r.name}: {r.status.error}" for r in runs if r.status.state == "failed"]


def _axis(text: str) -> tuple[str, list[Any]]:
    """Parse an axis into its name and values, converted as the command line converts the option."""
    from ssmlens.cli.command import parse_options

    flag, equals, values = text.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    if not equals or not values:
        raise UsageError(f"--axis {text!r} is not name=value,value")
    if name not in {field.name for field in dataclasses.fields(TrainConfig)}:
        raise UsageError(f"--axis {text!r}: there is no option --{name.replace('_', '-')}")
    parsed = []
    for value in values.split(","):
        words = [f"--{name.replace('_', '-')}", *value.split("+")]
        parsed.append(getattr(parse_options(TrainConfig, "sweep --axis", words), name))
    return name, parsed


def _from_file(path: Path) -> list[TrainConfig]:
    import runpy
    import traceback

    if not path.is_file():
        raise UsageError(f"--configs {path}: there is no such file")
    try:
        configs = runpy.run_path(str(path)).get("configs")
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        at = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"--configs {path}{at}: {type(error).__name__}: {error}") from None
    is_list = isinstance(configs, list) and all(isinstance(c, TrainConfig) for c in configs)
    if not configs or not is_list:
        raise UsageError(f"--configs {path}: it must define configs, a list of TrainConfig")
    return configs


COMMAND = SweepCommand
