"""`ssmlens train`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ssmlens.cli.command import Result
from ssmlens.cli.config_options import FIRST_PAGE, ConfigCommand, config_of
from ssmlens.cli.curves import curves, plain, share
from ssmlens.cli.progress import progress
from ssmlens.errors import UsageError
from ssmlens.options import flag
from ssmlens.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class TrainCommand(ConfigCommand):
    """Train a model on a recall task, into a run folder with curve and checkpoints.

    Start with: ssmlens train --preset copy-in-a-minute

    Then: ssmlens train --length 50 --init mimetic --learning-rate 3e-3
    """

    first_page: ClassVar = (*FIRST_PAGE, "preset", "seed", "out", "resume")

    preset: str | None = None
    """Ready-made runs to compare: copy-in-a-minute."""
    out: Path | None = None
    """Folder of the run (with --preset, of the runs). Default: runs/ and a name from task, arm, rate and seed."""
    resume: bool = False
    """Resume a stopped run with the config in its folder."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is cuda if available."""
    threads: int | None = None
    """CPU threads. Default: OMP_NUM_THREADS.
    If that is not set: 1 for a model narrower than 256 (more would slow it down), all cores for others."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: bool = False
    """Keep every checkpoint (checkpoints/step-N), not only the last."""
    tracker: tuple[str, ...] = ()
    """Also log to trackio, wandb or tensorboard."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Train, and return the curves."""
        if self.checkpoint_every < 1:
            raise UsageError(f"--checkpoint-every is at least 1, not {self.checkpoint_every}")
        if self.preset is not None:
            return self._run_preset(self.preset)
        config = config_of(self)
        out = self.out or Path("runs") / config.name
        if self.resume:
            config = self._stored(config, out)
        run = self._train(config, out)
        text = f"{curves([run])}\n{run.path}: open it with ssmlens dashboard {run.path}"
        return Result({"runs": [plain(run)]}, text)

    def _run_preset(self, name: str) -> Result:
        from ssmlens.training.presets import find_preset

        preset = find_preset(name)
        changed = _changed(config_of(self), TrainConfig())
        if changed:
            raise UsageError(f"--preset {name} sets its own {flag(changed)}; leave that option out")
        out = self.out or Path("runs") / name
        runs = [self._train(c, out / c.name) for c in preset.configs]
        text = f"{curves(runs)}\n{preset.note}\n{out}: open them with ssmlens dashboard {out}"
        return Result({"runs": [plain(run) for run in runs], "note": preset.note}, text)

    def _stored(self, requested: TrainConfig, out: Path) -> TrainConfig:
        from ssmlens.runs.run import CONFIG

        if not out.is_dir():
            raise UsageError(f"--resume: there is no run in {out}; give its folder with --out")
        stored = TrainConfig.read(out / CONFIG)
        for name in _all_changed(requested, TrainConfig()):
            value = stored.to_dict()[name]
            if requested.to_dict()[name] != value:
                raise UsageError(
                    f"{out} was started with {flag(name)} {value}; leave that option out"
                )
        return stored

    def _train(self, config: TrainConfig, out: Path) -> Any:
        from ssmlens.training.loop import train
        from ssmlens.training.threads import use_threads, usual_threads

        threads = usual_threads(config) if self.threads is None else self.threads
        with use_threads(threads), progress(f"{config.task}, {config.arm_name}") as tell:

            def show(now: Any) -> None:
                tell(now.step, now.steps, f"loss {share(now.loss)}, accuracy {share(now.char)}")

            return train(
                config,
                out,
                resume=self.resume,
                device=self.device,
                checkpoint_every=self.checkpoint_every,
                keep_checkpoints=self.keep_checkpoints,
                trackers=self.tracker,
                progress=show,
            )


def _all_changed(config: TrainConfig, other: TrainConfig) -> Sequence[str]:
    ours, theirs = config.to_dict(), other.to_dict()
    return [name for name, value in ours.items() if value != theirs[name]]


def _changed(config: TrainConfig, other: TrainConfig) -> str | None:
    return next(iter(_all_changed(config, other)), None)


COMMAND = TrainCommand
