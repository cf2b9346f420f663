"""What a selective scan reads: one layout for every generation of Mamba."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.mixing import TokenMixing


def scan_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that a scan of `tensor` computes in: float32, as in the reference kernels; float64 stays."""
    return torch.promote_types(tensor.dtype, torch.float32)


_PER_TOKEN = ("delta", "B", "C", "x", "gate", "log_decay", "write", "write_now")


@dataclasses.dataclass(frozen=True)
class ScanOperands:
    """Operands of the scan y[i] = Σ_j M[i,j] x[j] + D x[i], for a batch of sequences (paper eqs. 1-8).

    A Mamba-1 channel is a head with headdim 1, and there is one group. In Mamba-2 a head has `headdim` channels that
    share one Δ and one scalar A (`A_state` is 1). Heads are split evenly and in order over groups: head h reads group
    h // (heads // groups).

    In Mamba-3 the decay depends on the data (`log_decay` instead of ΔA), and a token's write has two weights: `write`
    in what later tokens read, `write_now` in what it reads itself; elsewhere both are Δ:

        M[i,j] = C_i · (exp(Σ_{j<k≤i} ΔA_k) ⊙ B_j) · write_j   (j < i),     M[i,i] = C_i · B_i · write_now_i

    Attributes:
        delta: Δ, the step AFTER softplus and clamp; dimensionless, ≥ 0.
        A: Continuous-time decay, negative, float32. None where it depends on the data: see `log_decay`.
        B: Write vectors, after any norm of the family (Mamba-3: with bias, rotated).
        C: Read vectors, after any norm of the family (Mamba-3: with bias, rotated).
        x: Input of the scan, after convolution and SiLU. None where only maps are wanted.
        D: Skip weights. None where the layer has no skip.
        gate: z, the gate's branch before its SiLU. None where the layer has no gate.
        log_decay: Log of each token's decay, ≤ 0, in place of ΔA. Given exactly where A is None.
        write: Weight of a token's B x in what later tokens read. None: Δ.
        write_now: Weight of a token's B x in what it reads itself. None: Δ.
        mixing: What surrounds the scan in the block, for `channel_maps(fold=...)`. None where only the scan is known,
            as in a file.
    """

    delta: Float[Tensor, "batch token head"]
    A: Float[Tensor, "head A_state"] | None
    B: Float[Tensor, "batch token group state"]
    C: Float[Tensor, "batch token group state"]
    x: Float[Tensor, "batch token head headdim"] | None = None
    D: Float[Tensor, "head #headdim"] | None = None
    gate: Float[Tensor, "batch token d_inner"] | None = None
    log_decay: Float[Tensor, "batch token head"] | None = None
    write: Float[Tensor, "batch token head"] | None = None
    write_now: Float[Tensor, "batch token head"] | None = None
    mixing: TokenMixing | None = None

    def __post_init__(self):
        if self.delta.shape[2] % max(1, self.B.shape[2]):
            raise ValueError(
                f"{self.delta.shape[2]} heads do not divide over {self.B.shape[2]} groups of B and C"
            )
        if (self.A is None) == (self.log_decay is None):
            raise ValueError("a scan decays by A or by log_decay: give one of them")
        if self.A is not None and self.A.shape[1] not in (1, self.B.shape[3]):
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
        """The weights of a token's B x in what later tokens read, and in what it reads itself: Δ twice by default."""
        return (
            self.delta if self.write is None else self.write,
            self.delta if self.write_now is None else self.write_now,
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> "ScanOperands":
        """The same operands with `function` applied to every tensor, such as `lambda t: t.double()`."""
        tensors: dict[str, Tensor] = {
            f.name: function(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        mixing = None if self.mixing is None else self.mixing.map(function)
        return dataclasses.replace(self, **tensors, mixing=mixing)

    def sequence(self, index: int, length: int | None = None) -> "ScanOperands":
        """One sequence of the batch (a batch of one), cut to its first `length` tokens."""
        cut: dict[str, Tensor] = {
            name: value[index : index + 1, :length]
            for name in _PER_TOKEN
            if (value := getattr(self, name)) is not None
        }
        mixing = None if self.mixing is None else self.mixing.sequence(index, length)
        return dataclasses.replace(self, **cut, mixing=mixing)

    def only_maps(self) -> "ScanOperands":
        """What maps read, in the scan's precision (float64 stays, all else float32): no x, D, gate or mixing."""
        dtype = scan_dtype(self.delta)
        bare = dataclasses.replace(self, x=None, D=None, gate=None, mixing=None)
        return bare.map(lambda tensor: tensor.to(dtype))

    def select_heads(self, heads: list[int]) -> "ScanOperands":
        """Only these heads, in this order, each with its own copy of its group's B and C (groups = heads).

        Without gate and mixing, whose channels are not split by heads.
        """
        group = [h // (self.heads // self.groups) for h in heads]
        chosen: dict[str, Tensor] = {
            name: value[:, :, heads]
            for name in ("delta", "x", "log_decay", "write", "write_now")
            if (value := getattr(self, name)) is not None
        }
        return ScanOperands(
            **chosen,
            A=None if self.A is None else self.A[heads],
            B=self.B[:, :, group],
            C=self.C[:, :, group],
            D=None if self.D is None else self.D[heads],
            mixing=None,
        )
