"""Operands of a decay scan, in one layout for every generation of Mamba and for linear attention."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.names import GROUP, HEAD, PROMPT, STATE, TOKEN
from ssmlens.scan.operator import Operator

# The log of a decay that leaves nothing. −∞ would make differences of running sums NaN.
NOTHING_LEFT = -200.0


@dataclasses.dataclass(frozen=True, repr=False)
class DecayOperands(Operator):
    """Operands of the scan y[i] = Σ_j M[i,j] x[j] + D x[i], for a batch of sequences (paper eqs. 1-8).

    A Mamba-1 channel is a head with headdim 1, and there is one group. In Mamba-2 a head has `headdim` channels that
    share one Δ and one scalar A (`A_state` is 1).

    In Mamba-3 the decay depends on the data (`log_decay` instead of ΔA), and a token's write has two weights: `write`
    for later tokens, `write_now` for the token itself. In other generations both are Δ.

        M[i,j] = C_i · (exp(Σ_{j<k≤i} ΔA_k) ⊙ B_j) · write_j   (j < i),     M[i,i] = C_i · B_i · write_now_i

    `operators.decay_scan` computes with them.

    Attributes:
        delta: Δ, the step AFTER softplus and clamp; dimensionless, ≥ 0.
        A: Continuous-time decay, negative, float32. None if the decay depends on the data: see `log_decay`.
        B: Write vectors, after any norm of the family (Mamba-3: with bias, rotated).
        C: Read vectors, after any norm of the family (Mamba-3: with bias, rotated).
        log_decay: Log of each token's decay, ≤ 0, in place of ΔA. None if A is given, and only then.
        write: Weight of a token's B x when later tokens read it. None: Δ.
        write_now: Weight of a token's B x when the token itself reads it. None: Δ.
    """

    delta: Float[Tensor, "batch token head"]
    A: Float[Tensor, "head A_state"] | None
    B: Float[Tensor, "batch token group state"]
    C: Float[Tensor, "batch token group state"]
    log_decay: Float[Tensor, "batch token head"] | None = None
    write: Float[Tensor, "batch token head"] | None = None
    write_now: Float[Tensor, "batch token head"] | None = None

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "delta": (PROMPT, TOKEN, HEAD),
        "A": (HEAD, STATE),
        "B": (PROMPT, TOKEN, GROUP, STATE),
        "C": (PROMPT, TOKEN, GROUP, STATE),
        "log_decay": (PROMPT, TOKEN, HEAD),
        "write": (PROMPT, TOKEN, HEAD),
        "write_now": (PROMPT, TOKEN, HEAD),
    }
    may_drop_the_last_axis: ClassVar[tuple[str, ...]] = ("A",)

    def __post_init__(self):
        if self.delta.shape[2] % max(1, self.B.shape[2]):
            raise ValueError(
                f"{self.delta.shape[2]} heads do not divide over {self.B.shape[2]} groups of B and C"
            )
        if (self.A is None) == (self.log_decay is None):
            raise ValueError("a scan decays by A or by log_decay: pass exactly one of them")
        if self.A is not None and self.A.shape[1] not in (1, self.B.shape[3]):
            raise ValueError(
                f"A has {self.A.shape[1]} states, but B has {self.B.shape[3]}: A must have as many, or one (Mamba-2)"
            )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor | None]) -> "DecayOperands":
        """See `Operator.from_arrays`. Without A, the decay depends on the data."""
        return super().from_arrays({"A": None, **arrays})

    @classmethod
    def missing(cls, present: Collection[str], *, first: bool = True) -> list[str]:
        """See `Operator.missing`. A has no prompt axis, so it is stored with the first prompts only."""
        absent = [name for name in ("delta", "B", "C") if name not in present]
        one_decay = ("A" in present) != ("log_decay" in present)
        return absent if one_decay or not first else [*absent, "exactly one of A and log_decay"]

    @property
    def like(self) -> Tensor:
        """See `Operator.like`."""
        return self.delta

    @property
    def groups(self) -> int:
        """Number of groups that share B and C."""
        return self.B.shape[2]

    @property
    def states(self) -> int:
        """State size N of a head."""
        return self.B.shape[3]

    @property
    def scalar_decay(self) -> bool:
        """Whether a head has one decay for all its states (Mamba-2, Mamba-3)."""
        return self.A is None or self.A.shape[1] == 1

    @property
    def decay(self) -> tuple[Float[Tensor, "batch token head"], Float[Tensor, "head A_state"]]:
        """(steps, rate) such that token k's decay is exp(steps[k] · rate): Δ and A, or −log_decay and −1."""
        if self.log_decay is None:
            assert self.A is not None
            return self.delta, self.A
        return -self.log_decay, -torch.ones_like(self.log_decay[0, :1]).mT

    @property
    def writes(self) -> tuple[Float[Tensor, "batch token head"], Float[Tensor, "batch token head"]]:
        """The weights of a token's B x for later tokens and for the token itself; both are Δ by default."""
        return (
            self.delta if self.write is None else self.write,
            self.delta if self.write_now is None else self.write_now,
        )

    @property
    def quantities(self) -> tuple[str, ...]:
        """See `Operator.quantities`. Also log_decay if the decay is ΔA."""
        own = super().quantities
        return own if "log_decay" in own else (*own, "log_decay")

    def quantity(self, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """See `Operator.quantity`."""
        if name != "log_decay" or self.A is None:
            return super().quantity(name)
        log_decay = self.delta.unsqueeze(3) * self.A
        if self.scalar_decay:
            return log_decay.squeeze(3), self.axes["log_decay"]
        return log_decay, (*self.axes["log_decay"], STATE)

    def with_quantity(self, name: str, value: Tensor) -> "DecayOperands":
        """See `Operator.with_quantity`. A new log decay does not change the writes.

        Raises:
            UsageError: The log decay of a Mamba-1 layer is not one step times A: a head has one step for all states.
        """
        if name == "log_decay":
            value = value.masked_fill(value == -torch.inf, NOTHING_LEFT)
        if name != "log_decay" or self.A is None:
            return super().with_quantity(name, value)
        write, write_now = self.writes
        if self.scalar_decay:
            return dataclasses.replace(
                self, A=None, log_decay=value, write=write, write_now=write_now
            )
        # Computes the difference, so that an unchanged log decay does not change the step.
        change = value - self.delta.unsqueeze(3) * self.A
        steps = self.delta + (change * self.A).sum(3) / self.A.square().sum(1).clamp(min=1e-30)
        if not torch.allclose(steps.unsqueeze(3) * self.A, value, rtol=1e-4):
            raise UsageError(
                "a head of this scan has one step for all its states: scale log_decay for all of them, or change A"
            )
        return dataclasses.replace(self, delta=steps, write=write, write_now=write_now)
