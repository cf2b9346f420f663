"""The output of a mixer's scan, from its operands."""

from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import Operator, scan_dtype


def selective_scan(operands: Operator) -> Float[Tensor, "batch token head headdim"]:
    """Mix the tokens: y = M x + D x, by the operator's recurrence (Mamba: h[t] = Ā[t] h[t−1] + B̄[t] x[t]; eqs. 1-2).

    It computes in float32, or in float64 for float64 operands, and returns that dtype.

    Args:
        operands: Operands with `x`, of any family. The gate is not applied.

    Raises:
        ValueError: The operands have no `x`.
    """
    if operands.x is None:
        raise ValueError("a scan needs operands.x")
    x = operands.x.to(scan_dtype(operands.like))
    y = operands(x)
    return y if operands.D is None else y + operands.D.to(x.dtype) * x
