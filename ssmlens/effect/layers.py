"""The effect of every layer on the right next token; a capture stores it beside the layer's maps."""

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
    is the mean over its queries with a target, in nats, after the edit minus before it: negative if the layer helps,
    NaN if the prompt has no target. The edits are

    - `ablation_effect`: set the mixer's output to 0;
    - `mean_ablation_effect`: set it at every token to its mean over the prompt's real tokens, so that a prompt's value
      does not depend on the other prompts of its batch;
    - `cross_talk_effect`: keep only the diagonal of M, `KnockOut(lags="1:")`; the convolution still mixes tokens.

    In a block without a mixer, the softmax attention is edited. Layers run from the edited one on; the outputs of all
    blocks stay in memory for the prompts of a batch.

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
                "effects are measured at the prompts' targets, and no prompt has one: "
                "use the prompts of a task, such as copy or repeat, or pass targets"
            )
        self._model, self._target = model, target
        self._tokens, self._length = prompts.padded(), torch.tensor(prompts.length)
        self._batch: _Batch | None = None

    def __call__(
        self, prompts: range, layer: int
    ) -> tuple[Mapping[str, Float[np.ndarray, " prompt"]], Mapping[str, str]]:
        """Measure the effects of a layer on some prompts.

        Returns:
            An array for each of `names`, NaN if the layer does not allow that edit; then `<name>_reason` says why.
        """
        if self._batch is None or self._batch.prompts != prompts:
            self._batch = None  # frees its memory before the next batch
            span = slice(prompts.start, prompts.stop)
            rows = self._tokens[span], self._target[span], self._length[span]
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
    """Prompts of one forward pass, padded on the right, and their run without edits."""

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
        options = {**without_cache(model), **padding_mask(model, self._real)}
        self._unedited = UneditedRun(model, tokens.to(device), **options)
        self._before = self._log_probability(self._unedited.output)
        self._unedited.output = None  # logits of every token: as large as the rest together

    def edits(self, layer: int) -> dict[str, Edit]:
        """The edits of a layer, by the names of their effects."""
        return {
            "ablation_effect": Ablate(layer=layer),
            "mean_ablation_effect": Apply(layer=layer, what="output", function=self._mean),
            "cross_talk_effect": KnockOut(layer=layer, lags="1:"),
        }

    def effect(self, edit: Edit) -> Float[np.ndarray, " prompt"]:
        """Mean change of the right token's log-probability. Raises UsageError if the layer does not allow the edit."""
        with torch.no_grad():
            after = self._log_probability(self._unedited.edited(edit))
        changes = torch.zeros(len(self.prompts), dtype=torch.double)
        changes.index_add_(0, self._row, after - self._before)
        return (changes / self._row.bincount(minlength=len(changes))).float().numpy()

    def _log_probability(self, output: Any) -> Float[Tensor, " target"]:
        logits = logits_of(output)
        at_targets = logits[self._row.to(logits.device), self._query.to(logits.device)].double()
        if len(self._right) and int(self._right.max()) >= logits.shape[-1]:
            raise UsageError(
                f"effects are measured on the next token, and this model returns {logits.shape[-1]} numbers per token, "
                "not one for each token of its input"
            )
        right = self._right.to(logits.device)
        none = torch.full_like(right, -1)
        readout = Readout(at_targets, at_targets, right, none)
        return MEASURES["log_probability"].measure(readout).cpu()

    def _mean(
        self, output: Float[Tensor, "prompt token d_model"]
    ) -> Float[Tensor, "prompt token d_model"]:
        """The mean over each prompt's real tokens, at every token."""
        wide = torch.promote_types(output.dtype, torch.float32)
        real = self._real.to(output.device, wide).unsqueeze(2)
        mean = (output.to(wide) * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return mean.to(output.dtype).expand_as(output)
