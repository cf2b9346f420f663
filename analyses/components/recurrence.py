"""Mamba mixers that take one token per call and keep the state of each row."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def recurrence_of(mixer: Any) -> "Recurrence":
    """Return the replacement of a mixer's forward, by its generation."""
    return Mamba1Recurrence(mixer) if hasattr(mixer, "x_proj") else Mamba2Recurrence(mixer)


class Recurrence(ABC):
    """A mixer's convolution, and the parts that both generations share.

    Args:
        mixer: A mixer of mamba_ssm or ssmlens. A and the taps are copied now.
    """

    def __init__(self, mixer: Any):
        self._mixer = mixer
        self._A = -torch.exp(mixer.A_log.float())
        self._taps = mixer.conv1d.weight[:, 0].float()
        self._window: Tensor | None = None
        self._state: Tensor | None = None

    @abstractmethod
    def __call__(
        self, hidden_states: Float[Tensor, "row 1 d_model"], **_: Any
    ) -> Float[Tensor, "row 1 d_model"]:
        """Return the mixer's output at the next token of each row."""

    def keep(self, rows: int) -> None:
        """Drop the state of all rows after the first `rows`."""
        if self._window is not None and self._state is not None:
            self._window, self._state = self._window[:rows], self._state[:rows]

    def _convolve(self, x: Float[Tensor, "row channel"]) -> Float[Tensor, "row channel"]:
        """SiLU of the convolution at this token, in x's dtype."""
        window = self._window
        if window is None:
            window = self._taps.new_zeros(*x.shape, self._taps.shape[1])
        self._window = window = torch.cat([window[..., 1:], x.float()[..., None]], dim=-1)
        bias = self._mixer.conv1d.bias
        summed = (window * self._taps).sum(-1)
        return F.silu(summed if bias is None else summed + bias.float()).to(x.dtype)


class Mamba1Recurrence(Recurrence):
    """Algorithm 2 of Gu and Dao, 2023, one token per call."""

    def __call__(
        self, hidden_states: Float[Tensor, "row 1 d_model"], **_: Any
    ) -> Float[Tensor, "row 1 d_model"]:
        """See `Recurrence`."""
        mixer, states = self._mixer, self._A.shape[1]
        x, z = mixer.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)
        u = self._convolve(x)
        dt, B, C = mixer.x_proj(u).split((mixer.dt_rank, states, states), dim=-1)
        step = F.softplus(F.linear(dt, mixer.dt_proj.weight).float() + mixer.dt_proj.bias.float())
        state = self._A.new_zeros(*x.shape, states) if self._state is None else self._state
        write = (step * u.float())[..., None] * B.float()[:, None]
        self._state = state = torch.exp(step[..., None] * self._A) * state + write
        y = (state * C.float()[:, None]).sum(-1) + mixer.D.float() * u.float()
        return mixer.out_proj((y * F.silu(z.float())).to(x.dtype))[:, None]


class Mamba2Recurrence(Recurrence):
    """Dao and Gu, 2024, with the gated norm and d_ssm = d_inner, one token per call.

    It changes the state in place, since the state is the largest tensor here.
    """

    def __call__(
        self, hidden_states: Float[Tensor, "row 1 d_model"], **_: Any
    ) -> Float[Tensor, "row 1 d_model"]:
        """See `Recurrence`."""
        mixer, rows, heads = self._mixer, len(hidden_states), len(self._A)
        width, groups, states = mixer.d_ssm, mixer.ngroups, mixer.d_state
        d_BC = groups * states
        z, xBC, dt = mixer.in_proj(hidden_states[:, 0]).split(
            [width, width + 2 * d_BC, heads], dim=-1
        )
        x, B, C = self._convolve(xBC).float().split([width, d_BC, d_BC], dim=-1)
        x = x.view(rows, heads, -1)
        B, C = (
            it.view(rows, groups, states).repeat_interleave(heads // groups, 1) for it in (B, C)
        )
        step = F.softplus(dt.float() + mixer.dt_bias.float()).clamp(*mixer.dt_limit)
        if self._state is None:
            self._state = x.new_zeros(*x.shape, states)
        self._state *= torch.exp(step * self._A)[..., None, None]
        self._state.addcmul_((step[..., None] * x)[..., None], B[:, :, None])
        with torch.autocast(x.device.type, enabled=False):
            read = (self._state @ C[..., None])[..., 0]
        y = (read + mixer.D.float()[:, None] * x).flatten(1).to(z.dtype)
        return mixer.out_proj(mixer.norm(y[:, None], z[:, None]))
