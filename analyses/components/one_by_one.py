"""A Mamba-1 model that reads one token at a time: what it costs to run freely does not grow with what it has read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssmlens.tasks.rows import NO_LABEL, TaskBatch


@torch.no_grad()
def run_freely(model: Any, batches: Sequence[TaskBatch]) -> list[Int[Tensor, "example token"]]:
    """`tasks.metrics.free_running` of several batches at once, by recurrence.

    A token costs the same wherever it stands, and rows of all batches go through the model together.

    Args:
        model: A language model of Mamba-1 layers, mamba_ssm's or `MambaLM`, in eval mode.
        batches: Rows whose labels are the next token (`TaskBatch.fed_back`), of any lengths.
    """
    width = max(batch.tokens.shape[1] for batch in batches)
    tokens = torch.cat([_widen(b.tokens, width, 0) for b in batches])
    asked = torch.cat([_widen(b.labels, width, NO_LABEL) for b in batches]) != NO_LABEL
    said = torch.full_like(tokens, NO_LABEL)
    with _recurrent(model):
        for column in range(width - 1):
            pick = model(tokens[:, column : column + 1]).logits[:, -1].argmax(-1)
            here = asked[:, column]
            said[:, column] = torch.where(here, pick, NO_LABEL)
            tokens[:, column + 1] = torch.where(here, pick, tokens[:, column + 1])
    parts = said.split([len(batch.tokens) for batch in batches])
    return [part[:, : batch.tokens.shape[1]] for part, batch in zip(parts, batches, strict=True)]


@contextmanager
def _recurrent(model: nn.Module) -> Iterator[None]:
    """Within it the model's mixers take the next token of the rows that they have read so far."""
    mixers: list[Any] = [block.mixer for block in getattr(model, "backbone").layers]  # noqa: B009
    before = [mixer.__dict__.get("forward") for mixer in mixers]
    try:
        for mixer in mixers:
            mixer.forward = _Recurrence(mixer)
        yield
    finally:
        for mixer, own in zip(mixers, before, strict=True):
            del mixer.forward
            if own is not None:
                mixer.forward = own


class _Recurrence:
    """A Mamba-1 mixer with the state of the rows read so far: algorithm 2 of Gu and Dao, 2023, a token a call."""

    def __init__(self, mixer: Any):
        self._mixer = mixer
        self._A = -torch.exp(mixer.A_log.float())
        self._taps = mixer.conv1d.weight[:, 0].float()
        self._window: Tensor | None = None
        self._state: Tensor | None = None

    def __call__(
        self, hidden_states: Float[Tensor, "row 1 d_model"], **_: Any
    ) -> Float[Tensor, "row 1 d_model"]:
        mixer, (taps, states) = self._mixer, (self._taps.shape[1], self._A.shape[1])
        x, z = mixer.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)
        window, state = self._window, self._state
        if window is None or state is None:
            window = self._taps.new_zeros(*x.shape, taps)
            state = self._A.new_zeros(*x.shape, states)
        self._window = window = torch.cat([window[..., 1:], x.float()[..., None]], dim=-1)
        bias = 0 if mixer.conv1d.bias is None else mixer.conv1d.bias.float()
        u = F.silu((window * self._taps).sum(-1) + bias).to(x.dtype)
        sizes = (mixer.dt_rank, states, states)
        dt, B, C = mixer.x_proj(u).split(sizes, dim=-1)
        step = F.softplus(F.linear(dt, mixer.dt_proj.weight).float() + mixer.dt_proj.bias.float())
        write = (step * u.float())[..., None] * B.float()[:, None]
        self._state = state = torch.exp(step[..., None] * self._A) * state + write
        y = (state * C.float()[:, None]).sum(-1) + mixer.D.float() * u.float()
        return mixer.out_proj((y * F.silu(z.float())).to(x.dtype))[:, None]


def _widen(rows: Int[Tensor, "example token"], width: int, fill: int) -> Int[Tensor, "example _"]:
    return F.pad(rows, (0, width - rows.shape[1]), value=fill)
