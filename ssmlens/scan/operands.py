"""What a selective scan reads: one layout for every generation of Mamba."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def scan_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that a scan of `tensor` computes in: float32, as in the reference kernels; float64 stays."""
    return torch.promote_types(tensor.dtype, torch.float32)


@dataclasses.dataclass(frozen=True)
class ScanOperands:
    """Operands of the scan y[i] = Σ_j M[i,j] x[j] + D x[i], for a batch of sequences (paper eqs. 1-8).

    A Mamba-1 channel is a head with headdim 1, and there is one group. In Mamba-2 a head has `headdim` channels that
    share one Δ and one scalar A (`A_state` is 1). Heads are split evenly and in order over groups: head h reads group
    h // (heads // groups).

    Attributes:
        delta: Δ, the step AFTER softplus and clamp; dimensionless, ≥ 0.
        A: Continuous-time decay, negative, float32.
        B: Write vectors, after any norm of the family.
        C: Read vectors, after any norm of the family.
        x: Input of the scan, after convolution and SiLU. None where only maps are wanted.
        D: Skip weights. None where the layer has no skip.
        gate: z, the gate's branch before its SiLU. None where the layer has no gate.
    """

    delta: Float[Tensor, "batch token head"]
    A: Float[Tensor, "head A_state"]
    B: Float[Tensor, "batch token group state"]
    C: Float[Tensor, "batch token group state"]
    x: Float[Tensor, "batch token head headdim"] | None = None
    D: Float[Tensor, "head #headdim"] | None = None
    gate: Float[Tensor, "batch token d_inner"] | None = None

    def __post_init__(self):
        if self.delta.shape[2] % max(1, self.B.shape[2]):
            raise ValueError(
                f"{self.delta.shape[2]} heads do not divide over {self.B.shape[2]} groups of B and C"
            )
        if self.A.shape[1] not in (1, self.B.shape[3]):
            raise ValueError(
                f"A has {self.A.shape[1]} states and B has {self.B.shape[3]}: A must have as many, or one (Mamba-2)"
            )

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.delta.shape[0]

    @property
    def tokens(self) -> int:
        """Length of the sequences."""
        return self.delta.shape[1]

    @property
    def heads(self) -> int:
        """Number of heads: of distinct matrices M."""
        return self.delta.shape[2]

    @property
    def groups(self) -> int:
        """Number of groups that share B and C."""
        return self.B.shape[2]

    @property
    def states(self) -> int:
        """State size N of a head."""
        return self.B.shape[3]

    def map(self, function: Callable[[Tensor], Tensor]) -> "ScanOperands":
        """The same operands with `function` applied to every tensor, such as `lambda t: t.double()`."""
        values: dict[str, Tensor] = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return dataclasses.replace(self, **values)

    def sequence(self, index: int, length: int | None = None) -> "ScanOperands":
        """One sequence of the batch (a batch of one), cut to its first `length` tokens."""
        cut: dict[str, Tensor] = {
            name: value[index : index + 1, :length]
            for name in ("delta", "B", "C", "x", "gate")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **cut)

    def select_heads(self, heads: list[int]) -> "ScanOperands":
        """Only these heads, in this order, each with its own copy of its group's B and C (groups = heads). No gate."""
        group = [h // (self.heads // self.groups) for h in heads]
        return ScanOperands(
            delta=self.delta[:, :, heads],
            A=self.A[heads],
            B=self.B[:, :, group],
            C=self.C[:, :, group],
            x=None if self.x is None else self.x[:, :, heads],
            D=None if self.D is None else self.D[heads],
        )
