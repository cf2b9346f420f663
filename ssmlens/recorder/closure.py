"""Closure: the difference between a layer's output and the output recomputed from its operands."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ssmlens.adapters.adapter import Adapter
from ssmlens.scan.fold import output_scale
from ssmlens.scan.operator import Operator
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.store.verdict import ROUNDINGS

# Largest closure error that passes, by the precision of the layer.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True)
class Closure:
    """Difference between a layer's output and the output recomputed from its operands.

    Attributes:
        error: ‖recomputed − output‖ / ‖output‖ over each sequence's real tokens; NaN if either is not finite.
        map_error: ‖recomputed − output‖ / ‖out_proj(r ⊙ (y − D x))‖: the same difference, relative to what the map
            alone contributes, with gate and norm r frozen at this input (`scan.fold`). If a skip or a bias dominates
            the output, `error` hides a wrong map, and this does not. NaN if the parts are not known.
        map_rounding: ε ‖output‖ / ‖out_proj(r ⊙ (y − D x))‖, with the ε of the output's dtype, float32's at
            least: the `map_error` that rounding alone can cause. NaN as above.
        worst_token: The token with the largest difference.
        reason: Why the output cannot be recomputed, so that every error is NaN; else empty.
    """

    error: Float[Tensor, " batch"]
    map_error: Float[Tensor, " batch"]
    map_rounding: Float[Tensor, " batch"]
    worst_token: Tensor
    reason: str = ""


def closure(
    adapter: Adapter,
    mixer: nn.Module,
    operands: Operator,
    output: Float[Tensor, "batch token d_model"],
    length: Tensor | None = None,
    y: Float[Tensor, "batch token head headdim"] | None = None,
) -> Closure:
    """Scan the operands, finish as the mixer does, and compare with its `output`.

    Args:
        adapter: The mixer's adapter.
        mixer: The mixer, for the weights that `finish` uses.
        operands: `adapter.project` of the mixer's input.
        output: The mixer's output.
        length: Real tokens of each sequence; the rest is padding on the right. None: all.
        y: The scan of the operands, if it is already computed.
    """
    if reason := adapter.unclosable(mixer):
        unknown = output.new_full(output.shape[:1], torch.nan, dtype=torch.float32)
        first_token = torch.zeros_like(unknown, dtype=torch.long)
        return Closure(unknown, unknown, unknown, first_token, reason)
    y = selective_scan(operands) if y is None else y
    recomputed = adapter.finish(mixer, y, operands)
    difference = (recomputed.float() - output.float()).norm(dim=2)
    size = output.float().norm(dim=2)
    contribution = _contribution(adapter, mixer, operands, y)
    if length is not None:
        padding = ~real_tokens(length, output.shape[1]).to(output.device)
        difference, size = difference.masked_fill(padding, 0), size.masked_fill(padding, 0)
        contribution = contribution.masked_fill(padding, 0)
    zero = (size == 0).all(1) & (difference == 0).all(1)  # both outputs are 0
    error = (difference.norm(dim=1) / size.norm(dim=1)).masked_fill(zero, 0)
    worst = difference.nan_to_num(nan=torch.inf).argmax(dim=1)
    # The recomputation is float32 at best.
    epsilon = max(torch.finfo(dtype).eps for dtype in (output.dtype, torch.float32))
    rounding = epsilon * size.norm(dim=1)
    map_error, map_rounding = (
        (amount / contribution.norm(dim=1)).masked_fill(
            (amount == 0) & ~contribution.isnan().any(1), 0
        )
        for amount in (difference.norm(dim=1), rounding)
    )
    return Closure(error, map_error, map_rounding, worst)


def _contribution(
    adapter: Adapter,
    mixer: nn.Module,
    operands: Operator,
    y: Float[Tensor, "batch token head headdim"],
) -> Float[Tensor, "batch token"]:
    """‖out_proj(r ⊙ (y − D x))‖ of each token: what reaches the output through the map. NaN if it is not known."""
    weight, x = _out_weight(adapter, mixer), operands.x
    known = operands.surroundings is not None or operands.gate is None
    if weight is None or x is None or not known:
        return y.new_full(y.shape[:2], torch.nan, dtype=torch.float32)
    written = (y if operands.D is None else y - operands.D * x).float().flatten(2)
    if operands.surroundings is not None:
        written = written * output_scale(operands, torch.float32, y)
    columns = weight[:, -written.shape[2] :].float()
    return F.linear(written, columns).float().norm(dim=2)


def unseen_heads(adapter: Adapter, mixer: nn.Module, operands: Operator) -> Int[Tensor, ""]:
    """Count the heads with only zero columns in the last projection: what they mix does not reach the output."""
    weight = _out_weight(adapter, mixer)
    if weight is None or operands.x is None:
        return operands.like.new_zeros((), dtype=torch.long)
    heads, headdim = operands.x.shape[2:]
    columns = weight.detach()[:, -heads * headdim :].unflatten(1, (heads, headdim))
    return (columns == 0).all(2).all(0).sum()


def _out_weight(adapter: Adapter, mixer: nn.Module) -> Float[Tensor, "d_model channel"] | None:
    """The weight of the last projection; None if there is none, or it is quantised."""
    weight = getattr(adapter.out_projection(mixer), "weight", None)
    return weight if weight is not None and weight.is_floating_point() else None


def real_tokens(length: Int[Tensor, " prompt"], tokens: int) -> Bool[Tensor, "prompt token"]:
    """Which tokens are real, in prompts padded on the right to `tokens`."""
    return torch.arange(tokens, device=length.device) < length[:, None]


def failed_error(closed: Closure, limit: float) -> str:
    """Name the error that is above its tolerance; "" if none is. A map error that rounding explains does not count."""
    if closed.reason or not closed.error.numel():
        return ""
    error = closed.error.max()
    if not error <= limit:  # so that NaN fails
        return f"closure error {error:.1e}, above {limit:.0e}"
    wrong = (closed.map_error > limit) & (closed.map_error > ROUNDINGS * closed.map_rounding)
    if bool(wrong.any()):
        return f"map_closure {closed.map_error[wrong].max():.1e}, above {limit:.0e}"
    return ""


def tolerance(output: Tensor, adapter: Adapter) -> float:
    """The largest closure error that passes for the precision of this mixer."""
    if output.dtype in (torch.bfloat16, torch.float16):
        return TOLERANCE["bfloat16"]
    if output.is_cuda and adapter.tf32_kernels:
        return TOLERANCE["tf32"]
    return TOLERANCE["float32"]
