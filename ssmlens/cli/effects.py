"""`ssmlens effects`."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssmlens.cli.command import Result
from ssmlens.cli.model_options import ModelOptions, load_requested
from ssmlens.cli.progress import progress
from ssmlens.errors import UsageError
from ssmlens.text_table import text_table

_EVERY_LAYER = re.compile(r"\blayer=\*(?=\s|$)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EffectsCommand(ModelOptions):
    """Measure how edits change the model's predictions at the targets of its prompts.

    --edit 'ablate layer=*'                       ablate every layer, one at a time
    --edit 'knock-out layer=* lags=1:'            cut the cross-talk of every layer
    --edit 'swap layer=* what=output source=corrupted'   patch from the corrupted twin of each prompt (probes have one)

    Other edits are as in ssmlens edit. Only the edited layer and those after it run again.
    """

    edit: tuple[str, ...] = ("ablate layer=*",)
    """Edits, each measured separately; layer=* stands for every layer."""
    probe: str | None = None
    """Make prompts of a probe: repeat (random tokens, repeated), retrieval (key: value lines) or ioi (two names)."""
    task: str | None = None
    """Make prompts of a task, such as copy. Default: copy for models of letters, else the probe repeat."""
    prompts: Path | None = None
    """File of prompts with targets: .jsonl."""
    length: int | None = None
    """Length of a prompt: letters of a task, tokens that repeat repeats, or lines of retrieval."""
    count: int = 8
    """Number of prompts that the task or probe makes."""
    seed: int = 0
    """Seed of the prompts."""
    measure: str = "log_probability"
    """log_probability or logit of the right token, logit_difference (probes), accuracy, rank or kl."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Measure every edit and return the table."""
        from ssmlens.edits.edit import from_text
        from ssmlens.effect.effects import effects
        from ssmlens.effect.measure import MEASURES

        sources = [name for name in ("probe", "task", "prompts") if getattr(self, name) is not None]
        if len(sources) > 1:
            names = " and ".join(f"--{name}" for name in sources)
            raise UsageError(f"give one of {names}, not both")
        _ = MEASURES[self.measure]
        model = load_requested(self)
        texts = [text for edit in self.edit for text in _expand(edit, model)]
        edits = [from_text(text) for text in texts]
        prompts = self._prompts(model)
        with progress("editing") as tell:
            measured = effects(model, prompts, edits, self.measure, progress=tell)
        return _result(measured)

    def _prompts(self, model: Any) -> Any:
        from ssmlens.effect.probe import probe
        from ssmlens.models.tokenizers import Vocabulary
        from ssmlens.recorder import prompts

        tokenizer = getattr(model, "tokenizer", None)
        if self.prompts is not None:
            return prompts.file_for(model, self.prompts)
        letters = isinstance(tokenizer, Vocabulary)
        task = self.task or ("copy" if letters and self.probe is None else None)
        if task is not None:
            values = {"length": self.length, "count": self.count}
            options = {name: value for name, value in values.items() if value is not None}
            return prompts.from_named_task(task, model, options, self.seed)
        kind = self.probe or "repeat"
        return probe(kind, model, count=self.count, length=self.length, seed=self.seed)


def _expand(text: str, model: Any) -> list[str]:
    """Expand an edit of every layer (layer=*) into one edit per layer."""
    from ssmlens.adapters.blocks import find_blocks

    if not _EVERY_LAYER.search(text):
        return [text]
    layers = [block.layer for block in find_blocks(model) if block.sites]
    return [_EVERY_LAYER.sub(f"layer={layer}", text) for layer in layers]


def _result(measured: Any) -> Result:
    import numpy as np

    rows: list[Sequence[str]] = [("edit", "before", "after", "effect", "±")]
    data = []
    for edit, after, effect in zip(
        measured["edit"].values, measured["after"].values, measured["effect"].values, strict=True
    ):
        real = np.isfinite(effect)
        means = [
            float(np.mean(values[real])) if real.any() else math.nan
            for values in (measured["before"].values, after, effect)
        ]
        spread = float(np.std(effect[real])) if real.any() else math.nan
        rows.append((str(edit), *(_shown(value) for value in (*means, spread))))
        data.append(
            {
                "edit": str(edit),
                **dict(zip(("before", "after", "effect"), means, strict=True)),
                "spread": spread,
                "effects": effect,
            }
        )
    name = measured["effect"].attrs["long_name"]
    page = f"{name}, mean over {measured.sizes['prompt']} prompts\n{text_table(rows)}"
    return Result({"measure": measured.attrs["measure"], "edits": data}, page)


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


COMMAND = EffectsCommand
