"""A layer in float64, token by token, for tests of edits: what it puts out when something in it is changed.

Written from the families' formulas, sharing no code with `ssmlens.edits` or the fast scans: only the adapters'
projections before the mixing and their gates and norms after it, in float64.
"""

import copy
import dataclasses
import math

import torch


class EditedLayer:
    """One call of a mixer, to be changed.

    Attributes:
        arrays: What its mixing is made of, by name, every head having its own; in Mamba-3 before the rotation.
    """

    def __init__(self, site, given):
        self._adapter, self._module = site.adapter, copy.deepcopy(site.module).double()
        with torch.no_grad():
            wide = given.map(lambda t: t.double() if t.is_floating_point() else t)
            self._operands = self._adapter.project(self._module, wide)
        o = self._operands
        self.arrays = {}
        for name in o.quantities:
            value, axes = o.quantity(name)
            if "group" in axes:
                value = value.repeat_interleave(o.heads // o.groups, dim=axes.index("group"))
            if name == "gate":
                value = value.unflatten(2, o.x.shape[2:])
            self.arrays[name] = value

    @torch.no_grad()
    def put_out(self, change=None, *, matrix=None, state=None, scanned=None):
        """The mixer's output.

        Args:
            change: Name of an array → what it becomes.
            matrix: M [batch head query key] → what it becomes.
            state: Token → what the state after its write becomes; −1: the one before the first token.
            scanned: y with D x → what it becomes.
        """
        change = change or {}
        a = {n: change.get(n, lambda v: v)(v) for n, v in self.arrays.items()}
        x = a["x"]
        if "A" in a and "log_decay" not in change:
            a["log_decay"] = a["delta"].unsqueeze(3) * a["A"]
        if "rate" in a and "log_decay" not in change:
            a["log_decay"] = -a["delta"] * a["rate"]
        y = self._mix(a, x, state or {})
        if matrix is not None:
            tokens = x.shape[1]
            basis = torch.eye(tokens, dtype=x.dtype, device=x.device)[None, :, None].expand(
                *x.shape[:3], tokens
            )
            M = self._mix(a, basis, {}).permute(0, 2, 1, 3)
            y = y + torch.einsum("bhij,bjhp->bihp", matrix(M) - M, x)
        y = y + a.get("D", 0) * x
        if scanned is not None:
            y = scanned(y)
        gate = a["gate"].flatten(2) if "gate" in a else None
        return self._adapter.finish(self._module, y, dataclasses.replace(self._operands, gate=gate))

    @torch.no_grad()
    def states(self):
        """The state after every token, [batch token head headdim state]."""
        seen, a = [], dict(self.arrays)
        if "A" in a:
            a["log_decay"] = a["delta"].unsqueeze(3) * a["A"]
        tokens = a["x"].shape[1]
        self._mix(a, a["x"], {t: lambda S: seen.append(S) or S for t in range(tokens)})
        return torch.stack(seen, dim=1)

    def _mix(self, a, x, state):
        if "weights" in a:
            return torch.einsum("bhij,bjhp->bihp", a["weights"], x)
        if "beta" in a:
            return delta_rule(a, x, state)
        if "q" in a:
            scores = torch.einsum("bihd,bjhd->bhij", a["q"], a["k"]) * self._operands.scale
            later = torch.ones_like(scores).triu(1).bool()
            return torch.einsum(
                "bhij,bjhp->bihp", scores.masked_fill(later, -torch.inf).softmax(3), x
            )
        if "taps" in a:
            return gated_convolution(a, x, state)
        if "share" in a:
            return mamba3(a, x, state)
        if "delta" not in a:  # a vector decay scan: every token writes with weight 1
            one = torch.ones_like(a["log_decay"][..., 0])
            return decay_scan(a["log_decay"], one, one, a["B"], a["C"], x, state)
        write, now = a.get("write", a["delta"]), a.get("write_now", a["delta"])
        reads_own = self._operands.kind != "normalised decay scan"
        return decay_scan(a["log_decay"], write, now, a["B"], a["C"], x, state, reads_own)


def decay_scan(log_decay, write, write_now, B, C, x, state, reads_own=True):
    """h_t = exp(log decay) h_{t−1} + write B x; y_t reads h_t, but its own write with another weight.

    `reads_own`: whether y_t also reads what an edit makes of h_t after that write.
    """
    log_decay = log_decay if log_decay.ndim == 4 else log_decay.unsqueeze(3)
    h = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3])
    h, y = state.get(-1, lambda S: S)(h), torch.zeros_like(x)
    for t in range(x.shape[1]):
        put = x[:, t, :, :, None] * B[:, t, :, None, :]
        h = log_decay[:, t].exp().unsqueeze(2) * h
        y[:, t] = ((h + write_now[:, t, :, None, None] * put) * C[:, t, :, None]).sum(3)
        h = h + write[:, t, :, None, None] * put
        if t in state:
            new = state[t](h)
            if reads_own:
                y[:, t] += ((new - h) * C[:, t, :, None]).sum(3)
            h = new
    return y


def mamba3(a, x, state):
    """The trapezoid rule, k and q being turned by θ_t:

        H_t = α_t (H_{t−1} + (1 − λ_t) Δ_t x_{t−1} k_{t−1}ᵀ) + λ_t Δ_t x_t k_tᵀ.

    The state after token t is H_t with what the token still writes at t + 1.
    """
    angle = math.pi * a["angle"].tanh().unsqueeze(2) * a["delta"].unsqueeze(3)
    turn = torch.polar(torch.ones_like(angle), angle.cumsum(1))

    def turned(v):
        pairs = turn.shape[3]
        first = torch.view_as_complex(v[..., : 2 * pairs].unflatten(3, (-1, 2)).contiguous())
        return torch.cat([torch.view_as_real(first * turn).flatten(3), v[..., 2 * pairs :]], 3)

    delta, share = a["delta"], a["share"]
    later = torch.zeros_like(delta)
    later[:, :-1] = ((1 - share) * delta)[:, 1:]
    now = share * delta
    return decay_scan(a["log_decay"], now + later, now, turned(a["B"]), turned(a["C"]), x, state)


def gated_convolution(a, x, state):
    """The values B x of the last tokens, the latest first, move on by one with every token."""
    taps = a["taps"].flip(1)
    h = x.new_zeros(*x[:, 0].shape, taps.shape[1])
    h, y = state.get(-1, lambda S: S)(h), torch.zeros_like(x)
    for t in range(x.shape[1]):
        h = torch.cat([(a["B"][:, t] * x[:, t]).unsqueeze(3), h[..., :-1]], dim=3)
        h = state.get(t, lambda S: S)(h)
        y[:, t] = a["C"][:, t] * (h * taps.unsqueeze(1)).sum(3)
    return y


def delta_rule(a, x, state):
    """S_t = α_t S_{t−1} + β_t (v_t − α_t S_{t−1} k_t) k_tᵀ, o_t = S_t q_t."""
    S = x.new_zeros(x.shape[0], *x.shape[2:], a["k"].shape[3])
    S, y = state.get(-1, lambda S: S)(S), torch.zeros_like(x)
    for t in range(x.shape[1]):
        k, q = a["k"][:, t, :, None], a["q"][:, t, :, None]
        S = S * a["log_decay"][:, t].exp().unsqueeze(2)
        erased = x[:, t] - (S * k).sum(3)
        S = S + a["beta"][:, t, :, None, None] * erased.unsqueeze(3) * k
        S = state.get(t, lambda S: S)(S)
        y[:, t] = (S * q).sum(3)
    return y
