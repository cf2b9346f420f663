"""How well a layer's queries match its keys: scores of W_B and W_C, which need no prompt.

With C_i = W_C u_i and B_j = W_B u_j a query reads u_iᵀ W_Cᵀ W_B u_j (paper eq. 12): the closer W_Cᵀ W_B is to a
multiple of the identity, the more a token attends to tokens like itself. That product is never formed: all scores here
are functions of the rows of W_B and W_C, or of N×N Gram matrices.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score


class Effective(NamedTuple):
    """`bc_effective`, and its shift r between query and key."""

    value: float
    shift: int


def bc_correlation(
    W_B: Float[np.ndarray, "group state input"], W_C: Float[np.ndarray, "group state input"]
) -> float:
    """Correlation of write and read weights: ⟨W_B, W_C⟩ / (‖W_B‖ ‖W_C‖), mean over groups.

    It is the normalised trace of W_Cᵀ W_B: 1 for W_C = W_B, .71 after the mimetic mix W_C = ½(W'_C
    + W_B) (paper §3).

    Returns:
        A value in [-1, 1]; NaN when a group's weights are all zero.
    """
    B, C = W_B.astype(np.float64), W_C.astype(np.float64)
    return _mean_ratio((B * C).sum((1, 2)), _norm(B) * _norm(C))


def bc_z(value: float, groups: int, states: int, inputs: int) -> float:
    """z-score of a `bc_correlation` under Gaussian weights: value · √(groups · states · inputs)."""
    return value * math.sqrt(groups * states * inputs)


def bc_effective(
    W_B: Float[np.ndarray, "group state input"],
    W_C: Float[np.ndarray, "group state input"],
    conv_B: Float[np.ndarray, "group state tap"],
    conv_C: Float[np.ndarray, "group state tap"],
) -> Effective:
    """Correlation of write and read weights, convolutions included, at the best shift.

    Where B and C pass a convolution (Mamba-2), C_i[n] = Σ_a κ_C[n,a] ⟨W_C[n], u_{i−a}⟩ and
    B_j[n] = Σ_b κ_B[n,b] ⟨W_B[n], u_{j−b}⟩ (bias and SiLU aside), so C_iᵀ B_j weighs equal tokens
    u_{i−a} = u_{j−b} by the sum over a − b = r of

        Σ_n ⟨W_B[n], W_C[n]⟩ Σ_a κ_C[n,a] κ_B[n,a−r],   over ‖κ_C ⊗ W_C‖ ‖κ_B ⊗ W_B‖,

    averaged over groups; the highest over r in −(K−1) … K−1 is the score (the smallest |r| among
    equals). κ[n,a] is the tap at token t − a: conv1d with left padding is a cross-correlation, so
    its weight's last tap is a = 0.

    Args:
        W_B: Write weights.
        W_C: Read weights.
        conv_B: Taps of the channels of B in the order of conv1d.weight; one tap of 1 means no
            convolution, and the score is then `bc_correlation` with shift 0.
        conv_C: Taps of the channels of C, as many as of B.

    Returns:
        A value in [-1, 1], NaN when a group's weights or taps are all zero; and the best shift r: a query at i then
        matches its own token best at key j = i − r.
    """
    B, C = W_B.astype(np.float64), W_C.astype(np.float64)
    overlaps, scale = _overlaps(conv_B, conv_C), _scale(B, C, conv_B, conv_C)
    rows = (B * C).sum(2)
    values = {r: _mean_ratio((rows * taps).sum(1), scale) for r, taps in overlaps.items()}
    best = max(values, key=lambda shift: values[shift])
    return Effective(values[best], best)


def bc_effective_by_chance(
    W_B: Float[np.ndarray, "group state input"],
    W_C: Float[np.ndarray, "group state input"],
    conv_B: Float[np.ndarray, "group state tap"],
    conv_C: Float[np.ndarray, "group state tap"],
    draws: int = 1000,
) -> float:
    """Mean `bc_effective` of rows that point anywhere, with their own lengths and taps; the draws are always the same.

    Above 0 where there is a convolution, for it is the best of several shifts. ⟨W_B[n], W_C[n]⟩ of rows in random
    directions is about ‖W_B[n]‖ ‖W_C[n]‖ z/√input with z normal.

    Args:
        W_B: As for `bc_effective`; likewise the others.
        W_C: Read weights.
        conv_B: Taps of the channels of B.
        conv_C: Taps of the channels of C.
        draws: How often rows are drawn.
    """
    B, C = W_B.astype(np.float64), W_C.astype(np.float64)
    z = np.random.default_rng(0).standard_normal((draws, *B.shape[:2])) / math.sqrt(B.shape[2])
    rows = z * (_row_norm(B) * _row_norm(C))[..., 0]
    scale = _scale(B, C, conv_B, conv_C)
    if not scale.all():
        return math.nan
    overlaps = _overlaps(conv_B, conv_C).values()
    shifts = [((rows * taps).sum(2) / scale).mean(1) for taps in overlaps]
    return float(np.max(shifts, axis=0).mean()) if len(shifts) > 1 else 0.0


def _overlaps(
    conv_B: Float[np.ndarray, "group state tap"], conv_C: Float[np.ndarray, "group state tap"]
) -> dict[int, Float[np.ndarray, "group state"]]:
    """Σ_a κ_C[n,a] κ_B[n,a−r] by shift r, the smallest |r| first."""
    kappa_B, kappa_C = (taps[..., ::-1].astype(np.float64) for taps in (conv_B, conv_C))
    last = kappa_C.shape[2] - 1

    def at(shift: int) -> Float[np.ndarray, "group state"]:
        read = kappa_C[..., max(0, shift) : last + 1 + min(0, shift)]
        written = kappa_B[..., max(0, -shift) : last + 1 - max(0, shift)]
        return (read * written).sum(2)

    return {shift: at(shift) for shift in sorted(range(-last, last + 1), key=abs)}


def _scale(
    B: Float[np.ndarray, "group state input"],
    C: Float[np.ndarray, "group state input"],
    conv_B: Float[np.ndarray, "group state tap"],
    conv_C: Float[np.ndarray, "group state tap"],
) -> Float[np.ndarray, " group"]:
    """‖κ_C ⊗ W_C‖ ‖κ_B ⊗ W_B‖ of each group."""
    kappa_B, kappa_C = conv_B.astype(np.float64), conv_C.astype(np.float64)
    return _norm(kappa_B * _row_norm(B)) * _norm(kappa_C * _row_norm(C))


def bc_identity(
    W_B: Float[np.ndarray, "group state input"], W_C: Float[np.ndarray, "group state input"]
) -> float:
    """How close W_Cᵀ W_B is to a projection: tr(W_Cᵀ W_B) / (√N ‖W_Cᵀ W_B‖), mean over groups.

    A product of rank N has |tr| ≤ √N ‖·‖, with equality only for a multiple of an orthogonal
    projection: the closest that a product of rank N comes to the paper's identity (§3). Computed from
    Gram matrices: ‖W_Cᵀ W_B‖² = ⟨W_B W_Bᵀ, W_C W_Cᵀ⟩.

    Returns:
        A value in [-1, 1]; NaN when a group's product is zero.
    """
    B, C = W_B.astype(np.float64), W_C.astype(np.float64)
    gram_B, gram_C = B @ B.swapaxes(1, 2), C @ C.swapaxes(1, 2)
    product = np.sqrt(np.maximum((gram_B * gram_C).sum((1, 2)), 0.0))
    return _mean_ratio((B * C).sum((1, 2)), math.sqrt(B.shape[1]) * product)


def _norm(array: Float[np.ndarray, "group a b"]) -> Float[np.ndarray, " group"]:
    return np.sqrt(np.square(array).sum((1, 2)))


def _row_norm(weight: Float[np.ndarray, "group state input"]) -> Float[np.ndarray, "group state 1"]:
    return np.sqrt(np.square(weight).sum(2, keepdims=True))


def _mean_ratio(above: Float[np.ndarray, " group"], below: Float[np.ndarray, " group"]) -> float:
    """Mean over groups of ratios, which exceed 1 only by rounding; NaN if a denominator is 0."""
    if not below.all():
        return math.nan
    return float(np.clip(above / below, -1.0, 1.0).mean())


def _pair(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """W_B and W_C; in a delta rule W_k and W_q: keys write, queries read."""
    W_B, W_C = reading.weight("W_B"), reading.weight("W_C")
    if W_B.shape != W_C.shape:
        raise NotApplicable(f"W_B is {list(W_B.shape)} and W_C {list(W_C.shape)}: shapes differ")
    return W_B, W_C


def _correlation(reading: Reading) -> Measured:
    W_B, W_C = _pair(reading)
    value = bc_correlation(W_B, W_C)
    return Measured(value, detail=bc_z(value, *W_B.shape))


def _effective(reading: Reading) -> Measured:
    value, shift = bc_effective(*_convolved(reading))
    return Measured(value, detail=float(shift))


def _convolved(reading: Reading) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """W_B, W_C and their taps; one tap of 1 where they pass no convolution."""
    W_B, W_C = _pair(reading)
    if reading.has("conv_B"):
        return W_B, W_C, reading.weight("conv_B"), reading.weight("conv_C")
    one = np.ones((*W_B.shape[:2], 1))
    return W_B, W_C, one, one


def _only(details: list[float]) -> float:
    (detail,) = details
    return detail


SCORES.register("bc_correlation")(
    Score(
        description="correlation of the write weights W_B and the read weights W_C",
        measure=_correlation,
        reads="weights",
        range=(-1.0, 1.0),
        companions={"bc_z": _only},
        formula="⟨W_B, W_C⟩ / (‖W_B‖ ‖W_C‖): the cosine of write and read weights; mean over groups",
        chance=lambda reading: 0.0,
        chance_in_words="0: weights drawn at random; bc_z is how many standard deviations the score is from that",
    )
)
SCORES.register("bc_effective")(
    Score(
        description="correlation of W_B and W_C through their convolutions, at the best shift",
        measure=_effective,
        reads="weights",
        range=(-1.0, 1.0),
        companions={"bc_shift": _only},
        formula="the same cosine counted through the convolutions of B and C, at the shift between query and key where "
        "it is highest; without such convolutions bc_correlation",
        chance=lambda reading: bc_effective_by_chance(*_convolved(reading)),
        chance_in_words="0 without such convolutions, else slightly above: the best shift of rows in random directions",
    )
)
SCORES.register("bc_identity")(
    Score(
        description="how close W_Cᵀ W_B is to a multiple of an orthogonal projection",
        measure=lambda reading: Measured(bc_identity(*_pair(reading))),
        reads="weights",
        range=(-1.0, 1.0),
        formula="tr(W_Cᵀ W_B) / (√N ‖W_Cᵀ W_B‖): 1 where the product of the N read and write rows is a multiple of an "
        "orthogonal projection; mean over groups",
        chance=lambda reading: 0.0,
        chance_in_words="0: weights drawn at random",
    )
)
