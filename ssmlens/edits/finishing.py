"""After the scan: what a change of y adds to the mixer's output.

Gate and last projection are linear in y unless a norm stands between them. Then a change of y passes through both by
itself, and nobody need know what y was.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.find import MixerSite
from ssmlens.models.submodules import is_plain
from ssmlens.scan.operator import Operator, scan_dtype


def is_linear(site: MixerSite, before: Operator, after: Operator) -> bool:
    """Whether the mixer's output changes in proportion to y: no norm, the same gate, a plain last projection."""
    around, last = before.surroundings, site.adapter.out_projection(site.module)
    return (
        around is not None
        and around.norm_weight is None
        and before.gate is after.gate
        and before.offset is None
        and isinstance(last, nn.Linear)
        and is_plain(last)
    )


def finish_change(
    site: MixerSite, change: Float[Tensor, "batch token head headdim"], o: Operator
) -> Float[Tensor, "batch token d_model"]:
    """What a change of y adds to the output where that `is_linear`: W (change · activation(gate)), without its bias."""
    last, around = site.adapter.out_projection(site.module), o.surroundings
    assert around is not None
    flat = change.flatten(2)
    if o.gate is not None:
        branch = o.gate[..., -flat.shape[2] :]  # a gated MLP's channels come before
        flat = (flat * around.gate_activation(branch.to(flat.dtype))).to(o.gate.dtype)
    weight = last.weight[:, -flat.shape[2] :]
    return F.linear(flat if o.gate is not None else flat.to(weight.dtype), weight)


def finish_both(
    site: MixerSite,
    edited: Float[Tensor, "batch token head headdim"],
    after: Operator,
    unedited: Float[Tensor, "batch token head headdim"],
    before: Operator,
) -> Float[Tensor, "batch token d_model"]:
    """finish(edited) − finish(unedited), in float32 at least."""
    one = site.adapter.finish(site.module, edited, after)
    other = site.adapter.finish(site.module, unedited, before)
    return one - other.to(scan_dtype(one))
