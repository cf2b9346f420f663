"""Check that every layer mixes its tokens once in a forward: a capture stores one call of each."""

from collections.abc import Sequence

import torch
from torch import nn

from ssmlens.adapters.blocks import Block
from ssmlens.errors import UsageError
from ssmlens.models.submodules import has_hooks
from ssmlens.recorder.calls import MixerCall, without_cache
from ssmlens.recorder.hooks import hooked


def check_runs_once(model: nn.Module, blocks: Sequence[Block], tokens: Sequence[int]) -> None:
    """Run the model on a few tokens, and raise UsageError if a block mixes its tokens more than once.

    A model with hooks is not run: they may count forwards, or expect more tokens. A model with weights on the meta
    device is not run either. The CPU's random state does not change; a GPU's does.

    Raises:
        UsageError: A block does so (the message names its module), or cannot be recorded.
    """
    if any(map(has_hooks, model.modules())) or any(p.is_meta for p in model.parameters()):
        return
    device = next(model.parameters()).device
    ids = torch.tensor([list(tokens)], device=device)
    with torch.random.fork_rng(devices=[]), hooked(model, blocks, check_first), torch.no_grad():
        model(ids, **without_cache(model))


def check_first(call: MixerCall) -> None:
    """Raise UsageError if this is not the first call of its layer in the forward."""
    if call.number:
        layer = call.site.layer
        raise UsageError(
            f"layer {layer}: {call.site.name} runs more than once in a forward, and a capture stores one call: "
            f"read every call with ssmlens.recording and rec.calls({layer})"
        )
