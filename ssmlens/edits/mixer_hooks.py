"""Apply the edits of one mixer, or of softmax attention: to its input, inside it, and to its output."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.adapters.adapter import CallRefusedError, MixerInput
from ssmlens.adapters.find import MixerSite
from ssmlens.edits.edit import Edit, Stage
from ssmlens.edits.forward import Forward
from ssmlens.edits.mixing import difference
from ssmlens.edits.module_calls import (
    first_input,
    first_output,
    with_first_input,
    with_first_output,
)
from ssmlens.edits.value import ValueEdit
from ssmlens.errors import UsageError
from ssmlens.recorder.forwards import Forwards


def runs_again_error(edit: Edit, what: str) -> UsageError:
    """The error for a module that runs a second time in one forward."""
    return UsageError(
        f"{edit}: {what} runs more than once in a forward, and an edit does not say which run it changes"
    )


def stream_edits(edits: Sequence[Edit], stage: Stage) -> list[ValueEdit]:
    """The edits of this stage, which changes a hidden state."""
    return [edit for edit in edits if edit.stage is stage and isinstance(edit, ValueEdit)]


def edit_stream(edits: Sequence[ValueEdit], value: Tensor, forward: Forward) -> Tensor:
    """Apply these edits to a hidden state one after another. Works in cached steps too."""
    for edit in edits:
        value = edit.apply(value, forward.place(edit.what, value))
    return value


class MixerHooks:
    """Hooks that apply the edits of one mixer, or of softmax attention."""

    def __init__(
        self,
        site: MixerSite,
        edits: Sequence[Edit],
        forward: Forward,
        running: Callable[[], bool],
        forwards: Forwards,
    ):
        self._site, self._forward, self._running = site, forward, running
        self._forwards, self._edit = forwards, edits[0]
        self._input = stream_edits(edits, Stage.INPUT)
        self._inside = [edit for edit in edits if Stage.OPERANDS <= edit.stage <= Stage.SCAN_OUTPUT]
        self._output = stream_edits(edits, Stage.OUTPUT)
        self._given: MixerInput | None = None

    def attach(self, stack: ExitStack) -> None:
        """Hook the module; `stack` unhooks it."""
        module = self._site.module
        if self._input or self._inside:
            before = module.register_forward_pre_hook(self._before, with_kwargs=True)
            stack.callback(before.remove)
        after = module.register_forward_hook(self._after)
        stack.callback(after.remove)

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Before the mixer runs: change its input. Raises UsageError for a cached step that an edit inside refuses."""
        if not self._running():
            return None
        site, changed = self._site, None
        if self._inside and (reason := site.adapter.refusal(module, args, kwargs)):
            raise self._refused(reason)
        if self._input:
            _, hidden = first_input(module, args, kwargs)
            new = edit_stream(self._input, hidden, self._forward)
            args, kwargs = changed = with_first_input(module, args, kwargs, new)
        if self._inside:
            self._given = site.adapter.read_input(module, args, kwargs)
        return changed

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """After the mixer ran: add the change by the edits inside it, then apply the edits of its output."""
        if not self._running():
            return None
        if self._forwards.count((self._site.layer, module)):
            raise runs_again_error(self._edit, self._site.name)
        first = first_output(output)
        if self._inside:
            first = self._edited(module, first, output)
        first = edit_stream(self._output, first, self._forward)
        return with_first_output(output, first)

    def _edited(self, module: nn.Module, first: Tensor, output: Any) -> Tensor:
        site, given = self._site, self._given
        self._given = None
        assert given is not None
        try:
            given, _ = site.adapter.read_output(module, given, output)
        except CallRefusedError as refused:
            raise self._refused(str(refused)) from None
        device = self._device(first)
        given = given.map(lambda tensor: tensor.to(device))
        positions = self._forward.positions(given.hidden, given.token_mask)
        for edit in self._inside:
            edit.check_tokens(positions)
        change = difference(site, given, positions, self._inside)
        return first if change is None else (first + change.to(first.device)).to(first.dtype)

    def _device(self, output: Tensor) -> torch.device:
        """The device that computes the call again. `block_hooks` has checked that all weights are on it."""
        weight = next(self._site.module.parameters(), output)
        return (
            weight.device if self._site.adapter.needs_weights(self._site.module) else output.device
        )

    def _refused(self, reason: str) -> UsageError:
        if "cached" in reason:
            reason = (
                "it applies in the prefill, but this is a cached step: generate with use_cache=False, "
                "or edit the mixer's input or output"
            )
        return UsageError(f"{self._inside[0]}: {reason.replace('recorded', 'edited')}")
