"""`ssmlens edit`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssmlens.cli.command import Result
from ssmlens.cli.model_options import ModelOptions, load_requested
from ssmlens.cli.progress import progress
from ssmlens.errors import UsageError
from ssmlens.text_table import text_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditCommand(ModelOptions):
    """Run a prompt with some layers edited; show its most likely next tokens before and after.

    --edit 'knock-out layer=17 queries=64: keys=0:64'    cut the edges from keys to queries ("lags=1:": all cross-talk)
    --edit 'ablate layer=3 [heads=0:4] [what=mlp]'       also how=mean, or how=resample source="another prompt"
    --edit 'scale layer=3 what=delta factor=.5'          scale an operand, the gate or a state; `set` takes value=
    --edit 'swap layer=3 what=B source="another prompt"' patch a path
    --edit 'set layer=3 what=state tokens=40 value=0'    reset the state; later tokens read only later writes

    Tokens count from 0; ranges are as in Python.
    """

    prompt: tuple[str, ...] = ()
    """Prompts, as text; each runs separately."""
    prompts: Path | None = None
    """File of prompts: .txt (one prompt per line) or .jsonl (one {"text": …} or {"tokens": […]} per line)."""
    edit: tuple[str, ...] = ()
    """Edits; several are applied together."""
    edits: Path | None = None
    """File of edits: a JSON list, such as [{"edit": "knock-out", "layer": 17, "keys": "0:64"}]."""
    position: int = -1
    """Position whose next token is predicted; negative positions count from the end."""
    top: int = 5
    """Number of tokens to show."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Run each prompt without and with the edits, and return the tables."""
        import torch

        from ssmlens.recorder.prompts import vocabulary_size

        if self.top < 1:
            raise UsageError("--top is at least 1")
        edits = self._edits()
        model = load_requested(self)
        prompts = self._prompts(model)
        prompts.check_vocabulary(vocabulary_size(model))
        edits = [_with_source(edit, model) for edit in edits]
        rows = list(zip(prompts.tokens, prompts.texts, strict=True))
        with progress("editing") as tell, torch.no_grad():
            compared = []
            for n, (tokens, text) in enumerate(rows):
                compared.append(self._compare(model, edits, tokens, text))
                tell(n + 1, len(rows))
        data = {"edits": [str(edit) for edit in edits], "prompts": compared}
        return Result(data, "\n\n".join(_page(one) for one in compared))

    def _edits(self) -> list[Any]:
        from ssmlens.edits.edit import from_json, from_text

        edits = [from_text(text) for text in self.edit]
        if self.edits is not None:
            try:
                data = json.loads(self.edits.read_text(encoding="utf-8"))
            except OSError as error:
                raise UsageError(f"cannot read {self.edits}: {error.strerror}") from None
            except ValueError as error:
                raise UsageError(f"{self.edits} is not JSON ({error})") from None
            if not isinstance(data, list):
                raise UsageError(f"{self.edits}: edits are a list of objects")
            edits += [from_json(edit) for edit in data]
        if not edits:
            raise UsageError("give at least one --edit (see ssmlens edit --help)")
        return edits

    def _prompts(self, model: Any) -> Any:
        from ssmlens.recorder import prompts

        if bool(self.prompt) == (self.prompts is not None):
            raise UsageError("give prompts with --prompt or with --prompts")
        if self.prompts is not None:
            return prompts.file_for(model, self.prompts)
        return prompts.texts_for(model, self.prompt)

    def _compare(
        self, model: Any, edits: list[Any], tokens: Sequence[int], text: str
    ) -> dict[str, Any]:
        """Compare the model's predictions for a prompt before and after the edits."""
        from ssmlens.edits.context import editing
        from ssmlens.recorder.calls import logits_of

        if not -len(tokens) <= self.position < len(tokens):
            raise UsageError(
                f"--position {self.position} is out of range: there are {len(tokens)} tokens"
            )
        ids = _ids(model, tokens)
        before = logits_of(model(ids))[0, self.position].double().log_softmax(0)
        with editing(model, edits):
            after = logits_of(model(ids))[0, self.position].double().log_softmax(0)
        kl = float((before.exp() * (before - after)).nansum())
        return {
            "prompt": text or list(tokens),
            "position": self.position % len(tokens),
            "before": _top(model, before, before, self.top),
            "after": _top(model, after, before, self.top),
            "kl": kl if kl == kl else None,
        }


def _ids(model: Any, tokens: Sequence[int]) -> Any:
    import torch

    return torch.tensor([tokens], device=next(model.parameters()).device)


def _with_source(edit: Any, model: Any) -> Any:
    """Replace an edit's source prompt by a recording of that prompt."""
    import torch

    from ssmlens.recorder.prompts import texts_for
    from ssmlens.recorder.recording import recording

    source = getattr(edit, "source", None)
    if not isinstance(source, str):
        return edit
    prompt = texts_for(model, [source])
    with torch.no_grad(), recording(model, edit.layer) as rec:
        model(_ids(model, prompt.tokens[0]))
    return dataclasses.replace(edit, source=rec)


def _top(model: Any, log_probabilities: Any, before: Any, count: int) -> list[dict[str, Any]]:
    """Return the most likely tokens, with the change of their log probability by the edits."""
    tokenizer = getattr(model, "tokenizer", None)
    best = log_probabilities.topk(min(count, len(log_probabilities)))
    return [
        {
            "id": token,
            "token": str(token) if tokenizer is None else tokenizer.decode([token]),
            "probability": float(log_probabilities[token].exp()),
            "log_probability_change": float(log_probabilities[token] - before[token]),
        }
        for token in best.indices.tolist()
    ]


def _page(compared: dict[str, Any]) -> str:
    rows: list[Sequence[str]] = [
        ("rank", "before", "probability", "after", "probability", "change of log p")
    ]
    for n, (before, after) in enumerate(zip(compared["before"], compared["after"], strict=True), 1):
        rows.append(
            (
                str(n),
                repr(before["token"]),
                f"{before['probability']:.3f}",
                repr(after["token"]),
                f"{after['probability']:.3f}",
                f"{after['log_probability_change']:+.3f}",
            )
        )
    kl = compared["kl"]
    divergence = "not finite" if kl is None else f"{kl:.4g} nats"
    return "\n".join(
        [
            f"after token {compared['position']} of {compared['prompt']!r}; "
            f"KL(before ‖ after) = {divergence}",
            text_table(rows, left=(1, 3)),
        ]
    )


COMMAND = EditCommand
