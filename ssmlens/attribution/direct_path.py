"""The direct path from every module to a logit: the logit's gradient with respect to its output at one position.

The model runs once. A tracked zero is added to the output of each module that adds to the residual stream (embedding,
mixer, attention, MLP); the computation inside the module is not tracked. So autograd sees only how blocks combine their
modules' outputs: sums, multipliers, norms after the block. Norms are frozen at their value, and so are the weights of
hyper-connections. The stream is then linear in the zeros, and one backward pass gives the gradient for each module.
This works for every family.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from ssmlens.adapters.blocks import Block, find_blocks
from ssmlens.attribution.tracer import Tracer
from ssmlens.attribution.unembedding import (
    Unembedding,
    find_final_norm,
    find_head,
    find_unembedding,
)
from ssmlens.errors import UnsupportedModelError
from ssmlens.recorder.calls import MixerCall, logits_of
from ssmlens.recorder.hooks import hooked


@dataclasses.dataclass(frozen=True)
class Part:
    """The contribution of one module to a logit.

    Attributes:
        layer: Index of its block; −1 for an embedding.
        kind: "embedding", a kind of block such as "mamba", "mlp", or "bias" of a norm on the stream.
        module: Its dotted name.
        output: The module's output at the position; for a norm, its bias.
        reach: The gradient of the logit with respect to that output.
        call: The call of its mixer, if an adapter can read it.
    """

    layer: int
    kind: str
    module: str
    output: Float64[Tensor, " d_model"]
    reach: Float64[Tensor, " d_model"]
    call: MixerCall | None

    @property
    def value(self) -> float:
        """The module's contribution to the logit."""
        return float(self.reach @ self.output)


@dataclasses.dataclass(frozen=True)
class DirectPath:
    """The direct paths to a logit.

    Attributes:
        parts: Every module with a direct path to the logit, in the order they ran.
        unembedding: The map from the stream to the logit.
        token: The token of the logit.
        against: The token whose logit is subtracted, or None.
        unexplained: For each block, its contribution to the logit that its parts do not explain.
    """

    parts: list[Part]
    unembedding: Unembedding
    token: int
    against: int | None
    unexplained: dict[int, float]


Choose = Callable[[Tensor], tuple[int, int | None]]
"""From the logits, choose the token whose logit is split, and the token whose logit is subtracted."""


def trace(
    model: Any,
    ids: Int[Tensor, "1 token"],
    position: int,
    choose: Choose,
    mask: Tensor | None = None,
) -> DirectPath:
    """Run the model and find every direct path to a logit.

    Args:
        model: The model.
        ids: Token ids of one prompt.
        position: The token whose next token the logit predicts.
        choose: Chooses the logit, given all of them.
        mask: 1 at real tokens, 0 at padding.

    Raises:
        UnsupportedModelError: The path from the modules to the logits cannot be traced; the message says why.
    """
    blocks = find_blocks(model)
    if same := [block.layer for block in blocks if block.turns > 1]:
        raise UnsupportedModelError(
            f"layers {', '.join(map(str, same))} share one module: their contributions to a logit cannot be separated"
        )
    head, norm = find_head(model), find_final_norm(model, blocks)
    tracer = Tracer(model, blocks, position)
    with torch.inference_mode(False), torch.enable_grad():
        logits, calls = _run(model, blocks, tracer.attached(norm, head), ids, mask)
        stream, head_input, raw = tracer.read()
        unembedding = find_unembedding(
            model, norm, head, stream[0, position], head_input, raw, logits[0, position]
        )
        token, against = choose(unembedding.logits)
        reach = unembedding.norm.pull_back(unembedding.row(token, against))
        at = stream[0, position]
        if not at.requires_grad:
            raise UnsupportedModelError(
                f"the residual stream of {type(model).__name__} does not come from its modules"
            )
        tracer.stages.append((at * reach.to(at.dtype)).sum().detach())
        zeros = [leaf.zero for leaf in tracer.leaves]
        gradients = torch.autograd.grad(at, zeros, reach.to(at.dtype), allow_unused=True)
    all_names = {module: name for name, module in model.named_modules()}
    parts = [
        Part(
            leaf.layer,
            leaf.kind,
            all_names[leaf.module],
            leaf.output.double(),
            reach.flatten().double(),
            calls.get((leaf.layer, leaf.module)),
        )
        for leaf, reach in zip(tracer.leaves, gradients, strict=True)
        if reach is not None
    ]
    return DirectPath(
        parts, unembedding, token, against, _unexplained(blocks, parts, tracer.stages)
    )


def _run(
    model: Any,
    blocks: Sequence[Block],
    traced: AbstractContextManager[None],
    ids: Int[Tensor, "1 token"],
    mask: Tensor | None,
) -> tuple[Tensor, dict[tuple[int, nn.Module], MixerCall]]:
    """Run the model once, without a cache; return its logits and each mixer's call by layer and module."""
    options: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    calls: dict[tuple[int, nn.Module], MixerCall] = {}

    def on_call(call: MixerCall) -> None:
        if call.number:
            raise UnsupportedModelError(
                f"layer {call.site.layer}: {call.site.name} runs more than once in a forward: "
                "the runs' contributions to a logit cannot be separated"
            )
        calls[call.site.layer, call.site.module] = call.copied()

    with hooked(model, blocks, on_call), traced:
        return logits_of(model(ids, **options)), calls


def _unexplained(blocks: list[Block], parts: list[Part], stages: list[Tensor]) -> dict[int, float]:
    """For each block: the logit's part from the stream after it, minus that before it, minus the block's parts."""
    at = [float(stage) for stage in stages]
    added = {block.layer: at[n + 1] - at[n] for n, block in enumerate(blocks)}
    for part in parts:
        if part.layer >= 0:
            added[part.layer] -= part.value
    if parts and blocks:  # the first block's input is the embedding
        added[-1] = at[0] - sum(part.value for part in parts if part.layer < 0)
    return added
