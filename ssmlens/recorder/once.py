"""Does every layer mix its tokens once in a forward? A file has room for one call of each."""

from collections.abc import Sequence

import torch
from torch import nn

from ssmlens.adapters.blocks import Block
from ssmlens.errors import UsageError
from ssmlens.models.submodules import has_hooks
from ssmlens.recorder.calls import MixerCall, without_cache
from ssmlens.recorder.hooks import hooked


def check_runs_once(model: nn.Module, blocks: Sequence[Block], tokens: Sequence[int]) -> None:
    """Run the model on a few tokens, and raise UsageError for a block that mixes its tokens more than once.

    A model with hooks is not run: they may count forwards, or expect more tokens than these few. A model whose weights
    are on the meta device is not run either. The CPU's random numbers go on as if nothing had run; a GPU's do not.

    Raises:
        UsageError: Such a block, by the name of its module; or one that cannot be recorded.
    """
    if any(map(has_hooks, model.modules())) or any(p.is_meta for p in model.parameters()):
        return
    device = next(model.parameters()).device
    ids = torch.tensor([list(tokens)], device=device)
    with torch.random.fork_rng(devices=[]), hooked(model, blocks, check_first), torch.no_grad():
        model(ids, **without_cache(model))


def check_first(call: MixerCall) -> None:
    """Raise UsageError where this is not the first call of its layer in the forward."""
    if call.number:
        layer = call.site.layer
        raise UsageError(
            f"layer {layer}: {call.site.name} runs more than once in a forward, and a capture stores one call: "
            f"read them with ssmlens.recording, whose rec.calls({layer}) has each"
        )
