"""The direct path from every module to a logit: what its output at one position is multiplied with on the way.

The model runs once. Each module that adds to the residual stream (embedding, mixer, attention, MLP) puts out what it
computed plus a zero that is tracked, and what happens inside of it is not. So all that autograd sees is how the blocks
put their modules' outputs together: sums, multipliers, norms after the block. Norms are frozen at their value, as are
the weights of hyper-connections. The stream is then linear in the zeros, and one backward pass tells for each module
how far a unit of its output reaches. Nothing of this knows a family.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from ssmlens import names
from ssmlens.adapters.adapter import arguments
from ssmlens.adapters.blocks import Block, find_blocks
from ssmlens.attribution.frozen_norm import freeze_norm
from ssmlens.attribution.readout import Readout, find_final_norm, find_head, read_out
from ssmlens.edits.module_calls import (
    first_input,
    first_output,
    hands_on_residual,
    with_first_output,
)
from ssmlens.errors import UnsupportedModelError
from ssmlens.recorder.calls import MixerCall
from ssmlens.recorder.hooks import hooked

EMBEDDING = "embedding"
_NORM = re.compile(r"Norm$")
# What computes from the streams how they are mixed; it hands no stream on.
_STREAM_WEIGHTS = re.compile(r"HyperConnection$")


@dataclasses.dataclass(frozen=True)
class Part:
    """What one module adds to a logit.

    Attributes:
        layer: Index of its block; −1 for an embedding.
        kind: "embedding", "mamba", "delta rule", "attention", "mlp" or "moe".
        module: Its dotted name.
        output: What it put out at the position.
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


@dataclasses.dataclass(frozen=True)
class _Leaf:
    layer: int
    kind: str
    module: nn.Module
    output: Tensor
    zero: Tensor


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
    head, norm = find_head(model), find_final_norm(model, blocks)
    tracer = _Tracer(model, blocks, position)
    options: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    calls: dict[tuple[int, nn.Module], MixerCall] = {}

    def on_call(call: MixerCall) -> None:
        calls[call.site.layer, call.site.module] = call.detached()

    with torch.inference_mode(False), torch.enable_grad():
        with hooked(blocks, on_call), tracer.attached(norm, head):
            output = model(ids, **options)
        logits = output.logits if hasattr(output, "logits") else first_output(output)
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


class _Tracer:
    """The hooks.

    Attributes:
        leaves: The modules that have run, in order.
        stages: What the logit owes to the stream before every block, once the backward pass has been there.
    """

    def __init__(self, model: nn.Module, blocks: list[Block], position: int):
        self.leaves: list[_Leaf] = []
        self.stages: list[Tensor] = []
        self._model, self._blocks, self._position = model, blocks, position
        self._block: Block | None = None
        self._grad: list[bool] = []  # what the modules that are running found
        self._stream: Tensor | None = None
        self._given: Tensor | None = None
        self._raw: Tensor | None = None
        self._kinds: dict[tuple[int, nn.Module], str] = {}

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """The final norm's input, and at the position what the head was given and put out."""
        if self._stream is None or self._given is None or self._raw is None:
            raise UnsupportedModelError(
                f"{type(self._model).__name__} did not run its blocks and its head: there is no logit to split"
            )
        return self._stream, self._given, self._raw

    @contextmanager
    def attached(self, norm: nn.Module, head: nn.Module) -> Iterator[None]:
        """Hook the model; the hooks are gone afterwards."""
        with ExitStack() as stack:

            def before(module: nn.Module, hook: Any, **options: Any) -> None:
                handle = module.register_forward_pre_hook(hook, with_kwargs=True, **options)
                stack.callback(handle.remove)

            def after(module: nn.Module, hook: Any, **options: Any) -> None:
                stack.callback(module.register_forward_hook(hook, **options).remove)

            def untracked(module: nn.Module, hook: Any) -> None:
                before(module, self._stop_tracking)
                after(module, hook)

            whole: dict[nn.Module, None] = {}  # modules that are hooked as a whole
            for block in self._blocks:
                before(block.module, partial(self._enter, block), prepend=True)
                after(block.module, self._leave)
                for module, kind in _modules(block):
                    self._kinds[block.layer, module] = kind
                    whole[module] = None
            for module in whole:
                untracked(module, self._after_part)
            inside = {id(m) for module in whole for m in module.modules()}
            for module in _others_in(self._blocks, inside, _STREAM_WEIGHTS):
                untracked(module, self._after_untracked)
                inside |= {id(m) for m in module.modules()}
            for module in _others_in(self._blocks, inside, _NORM):
                untracked(module, self._after_norm)
            for module in _embeddings(self._model, self._blocks):
                untracked(module, self._after_part)
            before(norm, self._before_final_norm)
            before(head, self._before_head)
            after(head, self._after_head)
            yield

    def _stop_tracking(self, *_: Any) -> None:
        self._grad.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)

    def _after_untracked(self, *_: Any) -> None:
        torch.set_grad_enabled(self._grad.pop())

    def _enter(self, block: Block, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._block = block
        _, hidden = first_input(module, args, kwargs)
        streams: list[Any] = [hidden]
        if hands_on_residual(module):
            streams.append(arguments(module, args, kwargs).get("residual"))
        stage = len(self.stages)
        self.stages.append(hidden.new_zeros((), dtype=torch.double))
        for stream in streams:
            if isinstance(stream, Tensor) and stream.requires_grad:
                value = stream[:, self._position].detach()
                stream.register_hook(partial(self._reached, stage, value))

    def _reached(self, stage: int, value: Tensor, gradient: Tensor) -> None:
        owed = (gradient[:, self._position].double() * value.double()).sum()
        self.stages[stage] = self.stages[stage] + owed

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._block = None
        hidden = first_output(output)
        self._stream = hidden + output[1] if hands_on_residual(module) else hidden  # pyright: ignore

    def _after_part(self, module: nn.Module, args: tuple, output: Any) -> Any:
        self._after_untracked()
        hidden = first_output(output)
        layer = -1 if self._block is None else self._block.layer
        kind = self._kinds.get((layer, module), EMBEDDING)
        here = slice(self._position, self._position + 1)
        if hidden.ndim < 3 or hidden.shape[0] != 1 or hidden.shape[1] <= self._position:
            raise UnsupportedModelError(
                f"layer {layer}: {type(module).__name__} puts out {tuple(hidden.shape)}, not a vector a token"
            )
        zero = torch.zeros_like(hidden[:, here]).requires_grad_()
        tracked = hidden.detach().clone()
        tracked[:, here] += zero
        at = hidden[0, self._position].detach().flatten()
        self.leaves.append(_Leaf(layer, kind, module, at, zero))
        return with_first_output(output, tracked)

    def _after_norm(self, module: nn.Module, args: tuple, output: Any) -> Any:
        self._after_untracked()
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and isinstance(output, Tensor) and x.requires_grad):
            return None
        at = self._position
        frozen = freeze_norm(module, x[0, at], output[0, at]) if x.ndim == 3 else None
        if frozen is None:
            return None
        here = x[:, at]
        tracked = output.detach().clone()
        tracked[:, at] += frozen.linear(here - here.detach()).to(output.dtype)
        return tracked

    def _before_final_norm(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if args and isinstance(args[0], Tensor):
            self._stream = args[0]

    def _before_head(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._given = args[0][0, self._position].detach()

    def _after_head(self, _: nn.Module, args: tuple, output: Tensor) -> None:
        self._raw = output[0, self._position].detach()


def _modules(block: Block) -> Iterator[tuple[nn.Module, str]]:
    """What of a block may add to the stream, with its kind; also what mixes tokens but cannot be read."""
    for site in (block.mixer, block.attention):
        if site is not None:
            yield site.module, site.adapter.block_kind
    for module in block.mlps:
        yield module, names.MLP


def _others_in(blocks: list[Block], inside: set[int], pattern: re.Pattern) -> list[nn.Module]:
    """The modules of the blocks of a class that bears this name, but for those inside of others."""
    found = {
        module: None
        for block in blocks
        for module in block.module.modules()
        if pattern.search(type(module).__name__) and id(module) not in inside
    }
    return list(found)


def _embeddings(model: nn.Module, blocks: list[Block]) -> list[nn.Module]:
    inside = {id(module) for block in blocks for module in block.module.modules()}
    modules = model.modules()
    return [m for m in modules if isinstance(m, nn.Embedding) and id(m) not in inside]
