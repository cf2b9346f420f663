"""What every layer does for the right next token: stored by a capture beside what the layer looks at."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssmlens.edits.ablate import Ablate
from ssmlens.edits.apply import Apply
from ssmlens.edits.edit import Edit
from ssmlens.edits.knock_out import KnockOut
from ssmlens.edits.resume import UneditedRun
from ssmlens.effect.measure import MEASURES, Readout
from ssmlens.errors import UsageError
from ssmlens.names import ARRAYS, EFFECT
from ssmlens.recorder.calls import logits_of, padding_mask, without_cache
from ssmlens.recorder.prompts import Prompts


class LayerEffects:
    """Effects of edits of one layer on the log-probability of the right next token: `capture(…, further=LayerEffects)`.

    The right next token at a query with a target is the token at the target: `tokens[target[query]]`. A prompt's value
    is the mean over its queries with a target, in nats, after the edit minus before it: negative where the layer
    helps; NaN where the prompt has no target. The edits are

    - `ablation_effect`: what the layer's mixer puts out is 0;
    - `mean_ablation_effect`: at every token it is its mean over the prompt's own real tokens, so that a prompt's value
      does not depend on the prompts beside it;
    - `cross_talk_effect`: M is its diagonal alone, `KnockOut(lags="1:")`; the convolution still mixes.

    A block without a mixer has its softmax attention edited. Layers run from the edited one on; the outputs of all
    blocks are held for the prompts of a batch.

    Args:
        model: The model.
        prompts: All prompts of the capture.

    Raises:
        UsageError: No prompt has a target.
    """

    names: tuple[str, ...] = tuple(ARRAYS[EFFECT])

    def __init__(self, model: nn.Module, prompts: Prompts):
        target = prompts.padded_target()
        if target is None or not bool((target >= 0).any()):
            raise UsageError(
                "effects are measured at the prompts' targets, and no prompt has any: "
                "take those of a task, such as copy or repeat, or give each its target"
            )
        self._model, self._target = model, target
        self._tokens, self._length = prompts.padded(), torch.tensor(prompts.length)
        self._batch: _Batch | None = None

    def __call__(
        self, prompts: range, layer: int
    ) -> tuple[Mapping[str, Float[np.ndarray, " prompt"]], Mapping[str, str]]:
        """The effects of a layer on some prompts, and why a layer cannot be edited in one of the ways.

        Returns:
            An array for each of `names`, NaN where the layer cannot be edited so; and then `<name>_reason`.
        """
        if self._batch is None or self._batch.prompts != prompts:
            self._batch = None  # before the next is made
            here = slice(prompts.start, prompts.stop)
            rows = self._tokens[here], self._target[here], self._length[here]
            self._batch = _Batch(self._model, prompts, *rows)
        effects, reasons = {}, {}
        for name, edit in self._batch.edits(layer).items():
            try:
                effects[name] = self._batch.effect(edit)
            except UsageError as error:
                effects[name] = np.full(len(prompts), np.nan, np.float32)
                reasons[f"{name}_reason"] = str(error)
        return effects, reasons


class _Batch:
    """Prompts that go through the model at once, padded on the right, and their forward without edits."""

    def __init__(
        self,
        model: nn.Module,
        prompts: range,
        tokens: Int[Tensor, "prompt token"],
        target: Int[Tensor, "prompt token"],
        length: Int[Tensor, " prompt"],
    ):
        self.prompts = prompts
        self._row, self._query = (target >= 0).nonzero(as_tuple=True)
        self._right = tokens[self._row, target[self._row, self._query]]
        self._real = torch.arange(tokens.shape[1]) < length.unsqueeze(1)
        device = next(model.parameters()).device
        how = {**without_cache(model), **padding_mask(model, self._real)}
        self._unedited = UneditedRun(model, tokens.to(device), **how)
        self._before = self._log_probability(self._unedited.output)
        self._unedited.output = None  # logits of every token: as large as all else together

    def edits(self, layer: int) -> dict[str, Edit]:
        """The edits of a layer, by the names of their effects."""
        return {
            "ablation_effect": Ablate(layer=layer),
            "mean_ablation_effect": Apply(layer=layer, what="output", function=self._mean),
            "cross_talk_effect": KnockOut(layer=layer, lags="1:"),
        }

    def effect(self, edit: Edit) -> Float[np.ndarray, " prompt"]:
        """Mean change of the right token's log-probability. Raises UsageError where the layer cannot be edited so."""
        with torch.no_grad():
            after = self._log_probability(self._unedited.edited(edit))
        changes = torch.zeros(len(self.prompts), dtype=torch.double)
        changes.index_add_(0, self._row, after - self._before)
        return (changes / self._row.bincount(minlength=len(changes))).float().numpy()

    def _log_probability(self, output: Any) -> Float[Tensor, " target"]:
        logits = logits_of(output)
        said = logits[self._row.to(logits.device), self._query.to(logits.device)].double()
        if len(self._right) and int(self._right.max()) >= logits.shape[-1]:
            raise UsageError(
                f"effects are measured on the next token, and this model puts out {logits.shape[-1]} numbers a token, "
                "not one for each token that it reads"
            )
        right = self._right.to(logits.device)
        none = torch.full_like(right, -1)
        return MEASURES["log_probability"].measure(Readout(said, said, right, none)).cpu()

    def _mean(
        self, output: Float[Tensor, "prompt token d_model"]
    ) -> Float[Tensor, "prompt token d_model"]:
        """At every token the mean over the prompt's real ones."""
        wide = torch.promote_types(output.dtype, torch.float32)
        real = self._real.to(output.device, wide).unsqueeze(2)
        mean = (output.to(wide) * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return mean.to(output.dtype).expand_as(output)
