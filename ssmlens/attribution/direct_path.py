"""The direct path from every module to a logit: what its output at one position is multiplied with on the way.

The model runs once. Each module that adds to the residual stream (embedding, mixer, attention, MLP) puts out what it
computed plus a zero that is tracked, and what happens inside of it is not. So all that autograd sees is how the blocks
put their modules' outputs together: sums, multipliers, norms after the block. Norms are frozen at their value, as are
the weights of hyper-connections. The stream is then linear in the zeros, and one backward pass tells for each module
how far a unit of its output reaches. Nothing of this knows a family.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from ssmlens.adapters.blocks import Block, find_blocks
from ssmlens.attribution.readout import Readout, find_final_norm, find_head, read_out
from ssmlens.attribution.tracer import Tracer
from ssmlens.errors import UnsupportedModelError
from ssmlens.recorder.calls import MixerCall, logits_of
from ssmlens.recorder.hooks import hooked


@dataclasses.dataclass(frozen=True)
class Part:
    """What one module adds to a logit.

    Attributes:
        layer: Index of its block; −1 for an embedding.
        kind: "embedding", a kind of block such as "mamba", "mlp", or "bias" of a norm on the stream.
        module: Its dotted name.
        output: What it put out at the position; of a norm, its bias.
        reach: What a unit of each entry of that adds to the logit.
        call: What mixed the tokens, where that can be read.
    """

    layer: int
    kind: str
    module: str
    output: Float64[Tensor, " d_model"]
    reach: Float64[Tensor, " d_model"]
    call: MixerCall | None

    @property
    def value(self) -> float:
        """What it adds."""
        return float(self.reach @ self.output)


@dataclasses.dataclass(frozen=True)
class DirectPath:
    """What makes a logit.

    Attributes:
        parts: Every module with a direct path to it, in the order they ran.
        readout: From the stream to the logit.
        token: Which logit.
        against: Whose logit is taken away, or None.
        unexplained: For each block, what it added to the logit beyond its parts.
    """

    parts: list[Part]
    readout: Readout
    token: int
    against: int | None
    unexplained: dict[int, float]


Choose = Callable[[Tensor], tuple[int, int | None]]
"""From the logits to the token whose logit is split, and the one whose logit is taken away."""


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
        position: The token whose next one the logit is of.
        choose: Which logit, from all of them.
        mask: 1 at real tokens, 0 at padding.

    Raises:
        UnsupportedModelError: Something in the model stands between its modules and its logits; says what.
    """
    blocks = find_blocks(model)
    if same := [block.layer for block in blocks if block.turns > 1]:
        raise UnsupportedModelError(
            f"layers {', '.join(map(str, same))} are one module: what each adds to a logit cannot be told apart"
        )
    head, norm = find_head(model), find_final_norm(model, blocks)
    tracer = Tracer(model, blocks, position)
    options: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    calls: dict[tuple[int, nn.Module], MixerCall] = {}

    def on_call(call: MixerCall) -> None:
        if call.number:
            raise UnsupportedModelError(
                f"layer {call.site.layer}: {call.site.name} runs more than once in a forward: "
                "what each run adds to a logit cannot be told apart"
            )
        calls[call.site.layer, call.site.module] = call.copied()

    with torch.inference_mode(False), torch.enable_grad():
        with hooked(model, blocks, on_call), tracer.attached(norm, head):
            output = model(ids, **options)
        logits = logits_of(output)
        stream, given, raw = tracer.read()
        readout = read_out(model, norm, head, stream[0, position], given, raw, logits[0, position])
        token, against = choose(readout.logits)
        reach = readout.norm.pull_back(readout.row(token, against))
        at = stream[0, position]
        if not at.requires_grad:
            raise UnsupportedModelError(
                f"{type(model).__name__} hands on a residual stream that does not come from its modules"
            )
        tracer.stages.append((at * reach.to(at.dtype)).sum().detach())
        zeros = [leaf.zero for leaf in tracer.leaves]
        found = torch.autograd.grad(at, zeros, reach.to(at.dtype), allow_unused=True)
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
        for leaf, reach in zip(tracer.leaves, found, strict=True)
        if reach is not None
    ]
    return DirectPath(parts, readout, token, against, _unexplained(blocks, parts, tracer.stages))


def _unexplained(blocks: list[Block], parts: list[Part], stages: list[Tensor]) -> dict[int, float]:
    """For each block: what the logit owes to the stream after it, less that before it, less its parts."""
    at = [float(stage) for stage in stages]
    added = {block.layer: at[n + 1] - at[n] for n, block in enumerate(blocks)}
    for part in parts:
        if part.layer >= 0:
            added[part.layer] -= part.value
    if parts and blocks:  # the first block is given the embedding
        added[-1] = at[0] - sum(part.value for part in parts if part.layer < 0)
    return added
