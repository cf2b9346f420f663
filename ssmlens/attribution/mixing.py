"""What one module that mixes tokens adds to a logit, by head, by the token it comes from, by tap of its convolution."""

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
    """The parts of what a mixer adds; all of them sum to it.

    Attributes:
        by_head: What each head adds.
        by_tap: What comes from each token, by tap. Tap a is that of the token a places back; without taps there is
            one, and the tokens are those of x, after the convolution.
        by_head_and_source: Heads and tokens together, where asked for.
        offset: What the convolution's bias adds; 0 without taps where it is part of x.
        bias: What out_proj's bias adds.
        beside: What the gated MLP beside the heads adds.
    """

    by_head: Float64[Tensor, " head"]
    by_tap: Float64[Tensor, "tap source"]
    by_head_and_source: Float64[Tensor, "head source"] | None
    offset: float
    bias: float
    beside: float

    @property
    def own(self) -> float:
        """What the heads add."""
        return float(self.by_head.sum())

    @property
    def whole(self) -> float:
        """Everything."""
        return self.own + self.offset + self.bias + self.beside


def split_mixing(
    call: MixerCall,
    position: int,
    reach: Float64[Tensor, " d_model"],
    taps: bool = False,
    joint: bool = False,
) -> Split:
    """Split what a mixer adds to a logit.

    Its output at p is W_out diag(r) (M + D) x + biases, r being gate and norm, frozen. With taps, x is
    s ⊙ (Σ_a κ_a u[j − a] + b), s being what the activation multiplies with, frozen (`scan.fold`).

    Args:
        call: The mixer's call, of one sequence.
        position: The token p.
        reach: What a unit of each entry of the mixer's output there adds to the logit.
        taps: Whether to take x apart into taps of the convolution.
        joint: Whether to give heads and sources together, too.
    """
    with torch.no_grad():
        o = call.operands()
        out = call.site.adapter.out_projection(call.site.module)
        bias = 0.0 if out.bias is None else float(reach @ out.bias.double())
        read = _read(o, out.weight.double(), position, reach)
        beside = 0.0
        if out.in_features > read.numel():
            beside = _of_nothing(call, o, position, reach) - bias
        assert o.x is not None
        given = _taps(o) if taps else [o.x[0].double()]
        constant = _of_bias(o) if taps else None
        added = _added(o, position, read, given if constant is None else [*given, constant])
        offset = 0.0 if constant is None else float(added[:, -1].sum())
        if o.offset is not None:
            offset += float((read * o.offset[0, position].double()).sum())
        added = added[:, : len(given)]
    # What tap a reads at token j stands a places before j.
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
    """What a unit of each channel of y at the position adds to the logit, through gate, norm and out_proj."""
    assert o.x is not None
    heads, headdim = o.x.shape[2:]
    # Attention has its MLP after its heads, a mixer before them.
    last = o.kind != "softmax"
    columns = weight[:, -heads * headdim :] if last else weight[:, : heads * headdim]
    read = reach @ columns
    if o.surroundings is not None:
        read = read * output_scale(o, torch.float64)[0, position]
    return read.unflatten(0, (heads, headdim))


def _added(
    o: Operator,
    position: int,
    read: Float64[Tensor, "head headdim"],
    given: list[Float64[Tensor, "token head headdim"]],
) -> Float64[Tensor, "head tap token"]:
    """read · (M + D)[p, j] x_j for every head and token, x being a sum of several."""
    written = torch.stack([torch.einsum("hp,thp->ht", read, x) for x in given], 1)
    written *= matrix_row(o, position)[0].double().unsqueeze(1)
    if o.D is not None:
        through = read * o.D.double()
        own = [(through * x[position]).sum(1) for x in given]
        written[:, :, position] += torch.stack(own, 1)
    return written


def _taps(o: Operator) -> list[Float64[Tensor, "token head headdim"]]:
    """What each tap of the convolution brings to x, at the token that reads it; x itself where there is none."""
    around = o.surroundings
    assert o.x is not None
    if around is None or around.u is None or around.conv_weight is None:
        return [o.x[0].double()]
    scale, u = activation_scale(o, torch.float64)[0], around.u[0].double()
    kernel = around.conv_weight.double().flip(1).unbind(1)
    back = [F.pad(u, (0, 0, a, 0))[: len(u)] for a in range(len(kernel))]
    shape = o.x.shape[2:]
    return [(scale * tap * x).unflatten(1, shape) for tap, x in zip(kernel, back, strict=True)]


def _of_bias(o: Operator) -> Float64[Tensor, "token head headdim"] | None:
    around = o.surroundings
    if around is None or around.u is None or around.conv_bias is None:
        return None
    assert o.x is not None
    of_bias = activation_scale(o, torch.float64)[0] * around.conv_bias.double()
    return of_bias.unflatten(1, o.x.shape[2:])


def _of_nothing(
    call: MixerCall, o: Operator, position: int, reach: Float[Tensor, " d_model"]
) -> float:
    """What the mixer adds where its heads put out 0."""
    assert o.x is not None
    with call.precision():
        output = call.site.adapter.finish(call.site.module, torch.zeros_like(o.x), o)
    return float(reach @ output[0, position].double())
