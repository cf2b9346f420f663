"""The contribution of one mixer to a logit, by head, by source token and by tap of its convolution."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from ssmlens.recorder.calls import MixerCall
from ssmlens.scan.fold import activation_scale, output_scale
from ssmlens.scan.operator import Operator
from ssmlens.scan.row import matrix_row


@dataclasses.dataclass(frozen=True)
class Split:
    """The parts of a mixer's contribution. `by_head`, `offset`, `bias` and `beside` sum to it.

    Attributes:
        by_head: Contribution of each head.
        by_tap: Contribution of each source token, by tap. Tap a reads the token a places back. Without taps there is
            one row, and sources are the tokens of x, after the convolution.
        by_head_and_source: Contribution by head and token together, if requested.
        offset: Contribution of the convolution's bias; 0 without taps, since it is then part of x.
        bias: Contribution of out_proj's bias.
        beside: Contribution of the gated MLP beside the heads.
    """

    by_head: Float64[Tensor, " head"]
    by_tap: Float64[Tensor, "tap source"]
    by_head_and_source: Float64[Tensor, "head source"] | None
    offset: float
    bias: float
    beside: float

    @property
    def heads(self) -> float:
        """Contribution of all heads."""
        return float(self.by_head.sum())

    @property
    def total(self) -> float:
        """The mixer's contribution: the sum of all parts."""
        return self.heads + self.offset + self.bias + self.beside


def split_mixing(
    call: MixerCall,
    position: int,
    reach: Float64[Tensor, " d_model"],
    taps: bool = False,
    joint: bool = False,
) -> Split:
    """Split a mixer's contribution to a logit.

    Its output at p is W_out diag(r) (M + D) x + biases; r is gate and norm, frozen. With taps, x is
    s ⊙ (Σ_a κ_a u[j − a] + b); s is the frozen scale of the activation (`scan.fold`).

    Args:
        call: The mixer's call, of one sequence.
        position: The token p.
        reach: The gradient of the logit with respect to the mixer's output at p.
        taps: Whether to split x into the taps of the convolution.
        joint: Whether to return heads and sources together too.
    """
    with torch.no_grad():
        o = call.operands()
        out = call.site.adapter.out_projection(call.site.module)
        bias = 0.0 if out.bias is None else float(reach @ out.bias.double())
        read = _read(o, out.weight.double(), position, reach)
        beside = 0.0
        if out.in_features > read.numel():
            beside = _contribution_without_heads(call, o, position, reach) - bias
        assert o.x is not None
        inputs = _tap_inputs(o) if taps else [o.x[0].double()]
        constant = _bias_input(o) if taps else None
        added = _contributions(
            o, position, read, inputs if constant is None else [*inputs, constant]
        )
        offset = 0.0 if constant is None else float(added[:, -1].sum())
        if o.offset is not None:
            offset += float((read * o.offset[0, position].double()).sum())
        added = added[:, : len(inputs)]
    # At token j, tap a reads token j − a.
    moved = [F.pad(part[:, a:], (0, min(a, o.tokens))) for a, part in enumerate(added.unbind(1))]
    return Split(
        by_head=added.sum((1, 2)),
        by_tap=torch.stack([part.sum(0) for part in moved]),
        by_head_and_source=sum(moved[1:], moved[0]) if joint else None,
        offset=offset,
        bias=bias,
        beside=beside,
    )


def _read(
    o: Operator,
    weight: Float64[Tensor, "d_model d_inner"],
    position: int,
    reach: Float64[Tensor, " d_model"],
) -> Float64[Tensor, "head headdim"]:
    """The gradient of the logit with respect to y at the position, through gate, norm and out_proj."""
    assert o.x is not None
    heads, headdim = o.x.shape[2:]
    # In out_proj's columns, attention has its MLP after its heads, a mixer before them.
    last = o.kind != "softmax"
    columns = weight[:, -heads * headdim :] if last else weight[:, : heads * headdim]
    read = reach @ columns
    if o.surroundings is not None:
        read = read * output_scale(o, torch.float64)[0, position]
    return read.unflatten(0, (heads, headdim))


def _contributions(
    o: Operator,
    position: int,
    read: Float64[Tensor, "head headdim"],
    inputs: list[Float64[Tensor, "token head headdim"]],
) -> Float64[Tensor, "head tap token"]:
    """read · (M + D)[p, j] x_j for every head and token, for each of the inputs that sum to x."""
    written = torch.stack([torch.einsum("hp,thp->ht", read, x) for x in inputs], 1)
    written *= matrix_row(o, position)[0].double().unsqueeze(1)
    if o.D is not None:
        through = read * o.D.double()
        skip = [(through * x[position]).sum(1) for x in inputs]
        written[:, :, position] += torch.stack(skip, 1)
    return written


def _tap_inputs(o: Operator) -> list[Float64[Tensor, "token head headdim"]]:
    """The part of x from each tap of the convolution, at the token that reads it; x itself without a convolution."""
    around = o.surroundings
    assert o.x is not None
    if around is None or around.u is None or around.conv_weight is None:
        return [o.x[0].double()]
    scale, u = activation_scale(o, torch.float64)[0], around.u[0].double()
    kernel = around.conv_weight.double().flip(1).unbind(1)
    back = [F.pad(u, (0, 0, a, 0))[: len(u)] for a in range(len(kernel))]
    shape = o.x.shape[2:]
    return [(scale * tap * x).unflatten(1, shape) for tap, x in zip(kernel, back, strict=True)]


def _bias_input(o: Operator) -> Float64[Tensor, "token head headdim"] | None:
    """The part of x from the convolution's bias; None without one."""
    around = o.surroundings
    if around is None or around.u is None or around.conv_bias is None:
        return None
    assert o.x is not None
    part = activation_scale(o, torch.float64)[0] * around.conv_bias.double()
    return part.unflatten(1, o.x.shape[2:])


def _contribution_without_heads(
    call: MixerCall, o: Operator, position: int, reach: Float[Tensor, " d_model"]
) -> float:
    """The mixer's contribution if the output of its heads is 0."""
    assert o.x is not None
    with call.precision():
        output = call.site.adapter.finish(call.site.module, torch.zeros_like(o.x), o)
    return float(reach @ output[0, position].double())
