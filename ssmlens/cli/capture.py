"""`ssmlens capture`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ssmlens.cli.command import Result
from ssmlens.cli.model_options import ModelOptions, load_requested
from ssmlens.cli.progress import progress
from ssmlens.cli.shard import parse_shard
from ssmlens.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptureCommand(ModelOptions):
    """Run prompts through a model and store, layer by layer, what its layers attend to, with the closure of each.

    Without a prompt: the copy task for shipped models; else a passage of text and four random sequences, each repeated.
    """

    prompt: tuple[str, ...] = ()
    """Prompts, as text."""
    prompts: Path | None = None
    """File of prompts: .txt (one prompt per line) or .jsonl (one {"text": …} or {"tokens": […]} per line)."""
    task: str | None = None
    """Make prompts of a task."""
    length: int | None = None
    """Length of the task's strings in letters (recall: in pairs).
    Default: 40 (repeat 64, recall 16), or as many as the letters allow."""
    count: int | None = None
    """Number of prompts that the task makes. Default: 4."""
    text: Path | None = None
    """Folder of text for the task bytes."""
    seed: int = 0
    """Seed of the task."""
    out: Path | None = None
    """NAME.h5 for one file; any other name for a folder of files. Default: the model's name with .h5."""
    layers: tuple[int, ...] = ()
    """Layers to capture, by block index. Default: all whose mixer or attention weights can be read."""
    channels: tuple[int, ...] = ()
    """Heads (channels in Mamba-1) to store separate maps of. Default: the four that write most, in each layer."""
    resume: bool = False
    """Resume a stopped capture."""
    overwrite: bool = False
    """Replace the output if it exists."""
    shard: str | None = None
    """i/N: capture shard i of N (by layer), for N machines that share the output folder."""
    keep_going: bool = False
    """Store layers whose closure fails, instead of stopping at the first."""
    store_discretized: bool = False
    """Store the discretised A and B too. By default the reader computes them when needed."""
    effects: bool = False
    """Store the effects at the prompts' targets of ablating each mixer (zero, mean) and of cutting its cross-talk."""
    json: bool = False
    """Print the result as JSON."""

    @classmethod
    def help_page(cls, words: Sequence[str]) -> type:
        """Return the command with the names of all tasks in its help."""
        from ssmlens.tasks.task import tasks

        about = (
            f"Make prompts of a task: {', '.join(tasks)}. repeat (random tokens, repeated) is for every model, "
            "bytes for models of bytes, the others for models whose tokens are letters."
        )
        task: Any = Annotated[str | None, tyro.conf.arg(help=about)]
        field = ("task", task, dataclasses.field(default=None))
        page = dataclasses.make_dataclass(cls.__name__, [field], bases=(cls,), frozen=True)
        page.__doc__ = cls.__doc__
        return page

    def run(self) -> Result:
        """Capture, and describe the capture."""
        from ssmlens.recorder.capture import capture

        shard = parse_shard(self.shard)
        self._check_options()
        model = load_requested(self)
        out = self.out or Path(f"{Path(self.model).name}.h5")
        with progress(f"capturing {self.model}") as tell:
            captured = capture(
                model,
                self._prompts(model),
                out,
                layers=self.layers or None,
                channels=self.channels or None,
                shard=shard,
                resume=self.resume,
                overwrite=self.overwrite,
                keep_going=self.keep_going,
                store_discretized=self.store_discretized,
                further=self._further(),
                progress=tell,
                command=shlex.join(["ssmlens", *sys.argv[1:]]),
            )
        if captured is None:
            text = f"this shard of {out} is done; the capture is complete when all shards are"
            return Result({"out": str(out), "complete": False}, text)
        with captured:
            return describe(captured, out)

    def _further(self) -> Any:
        if not self.effects:
            return None
        from ssmlens.effect.layers import LayerEffects

        return LayerEffects

    def _check_options(self) -> None:
        sources = [
            name
            for name, value in (
                ("--prompt", self.prompt),
                ("--prompts", self.prompts),
                ("--task", self.task),
            )
            if value
        ]
        if len(sources) > 1:
            raise UsageError(f"give one of {' and '.join(sources)}, not both")
        if self.task is None and (self.length is not None or self.count is not None):
            raise UsageError("--length and --count go with --task")
        if (self.text is not None) != (self.task == "bytes"):
            raise UsageError("--text FOLDER and --task bytes go together")
        if self.task == "bytes" and self.length is not None:
            raise UsageError("--length does not go with --task bytes: its rows have 1024 bytes")

    def _prompts(self, model: Any) -> Any:
        from ssmlens.recorder import prompts

        if self.prompt:
            return prompts.texts_for(model, self.prompt)
        if self.prompts is not None:
            return prompts.file_for(model, self.prompts)
        if self.task is not None:
            text = None if self.text is None else str(self.text)
            values = {"length": self.length, "count": self.count, "text": text}
            options = {name: value for name, value in values.items() if value is not None}
            return prompts.from_named_task(self.task, model, options, self.seed)
        return None


def describe(captured: Any, out: Path) -> Result:
    """A finished capture in a line for people, and in full for --json."""
    errors, marks = {}, {}
    for index in captured.layers:
        layer = captured.layer(index)
        if "closure_error" in layer.verdict.errors:
            errors[index] = layer.verdict.errors["closure_error"]
        if not layer.finite:
            marks[index] = f"{layer.state}: {layer.attributes['reason']}"
    of_finite = [error for index, error in errors.items() if index not in marks]
    attention = sum(not captured.layer(index).has_operands for index in captured.layers)
    parts = [_layers(len(captured.layers) - attention, attention)]
    parts.append(_count(len(captured.length), "prompt"))
    if errors:
        worst = max(of_finite, key=lambda error: (error != error, error), default=None)  # NaN first
        allowed = f"({captured.closure_tolerance:.0e} allowed)"
        known = (
            "no finite layer" if worst is None else f"closure error at most {worst:.1e} {allowed}"
        )
        parts.append(known)
    lines = [f"{out}: {', '.join(parts)}"]
    lines += [f"layer {index} is not finite ({why})" for index, why in marks.items()]
    data = {
        "out": str(out),
        "complete": True,
        "digest": captured.digest,
        "prompts": captured.prompts,
        "closure_error": {str(index): error for index, error in errors.items()},
        "not_finite": {str(index): why for index, why in marks.items()},
    }
    return Result(data, "\n".join(lines))


def _layers(mamba: int, attention: int) -> str:
    if not attention:
        return _count(mamba, "layer")
    if not mamba:
        return f"{_count(attention, 'layer')} of softmax attention"
    return f"{_count(mamba, 'layer')} and {attention} of softmax attention"


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


COMMAND = CaptureCommand
