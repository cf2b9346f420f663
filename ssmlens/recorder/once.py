"""Does every layer mix its tokens once in a forward? A file has room for one call of each."""

from collections.abc import Sequence

import torch
from torch import nn

from ssmlens.adapters.blocks import Block
from ssmlens.errors import UsageError
from ssmlens.recorder.calls import MixerCall, without_cache
from ssmlens.recorder.hooks import hooked


def check_runs_once(model: nn.Module, blocks: Sequence[Block], tokens: Sequence[int]) -> None:
    """Run the model on a few tokens, and raise UsageError for a block that calls what mixes its tokens twice.

    Random numbers are as they were afterwards, as far as the CPU draws them.

    Raises:
        UsageError: Such a block, by the name of its module; or one that cannot be recorded.
    """

    def on_call(call: MixerCall) -> None:
        if call.number:
            raise UsageError(
                f"layer {call.site.layer}: {call.site.name} runs more than once in a forward, and a capture stores one "
                f"call: read them with ssmlens.recording, whose rec.calls({call.site.layer}) has each"
            )

    device = next(model.parameters()).device
    ids = torch.tensor([list(tokens)], device=device)
    with torch.random.fork_rng(devices=[]), hooked(model, blocks, on_call), torch.no_grad():
        model(ids, **without_cache(model))
