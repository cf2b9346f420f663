"""After the scan: the change of the mixer's output that a change of y causes.

Gate and norm are computed for both sides, edited and unedited. The last projection is linear, so it runs once, on their
difference. Without a norm, the gate is linear in y too: then the change alone is enough, and y itself is not needed.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.find import MixerSite
from ssmlens.models.projections import group_rms_norm
from ssmlens.models.submodules import hooked_layers, is_plain
from ssmlens.scan.operator import Operator, scan_dtype


def is_linear(site: MixerSite, before: Operator, after: Operator) -> bool:
    """Whether the output is linear in y: there is no norm, both gates are one tensor, the last projection is plain."""
    around = before.surroundings
    return (
        around is not None
        and around.norm_weight is None
        and before.gate is after.gate
        and before.offset is None
        and _is_plain_linear(site.adapter.out_projection(site.module))
    )


def finish_change(
    site: MixerSite, change: Float[Tensor, "batch token head headdim"], o: Operator
) -> Float[Tensor, "batch token d_model"]:
    """The change of the output for a change of y, if `is_linear`: W (change · activation(gate)), without bias."""
    return _project(site, _gate(change, o), o)


def finish_both(
    site: MixerSite,
    edited: Float[Tensor, "batch token head headdim"],
    after: Operator,
    unedited: Float[Tensor, "batch token head headdim"],
    before: Operator,
) -> Float[Tensor, "batch token d_model"]:
    """finish(edited) − finish(unedited).

    If the last projection is plain and the mixer has no hooked layer, it projects the difference once.
    """
    around, last = before.surroundings, site.adapter.out_projection(site.module)
    plain = around is not None and before.offset is after.offset is None and _is_plain_linear(last)
    if plain and next(hooked_layers(site.module), None) is None:
        return _project(site, _gate(edited, after) - _gate(unedited, before), before)
    one = site.adapter.finish(site.module, edited, after)
    other = site.adapter.finish(site.module, unedited, before)
    return one - other.to(scan_dtype(one))


def _gate(
    y: Float[Tensor, "batch token head headdim"], o: Operator
) -> Float[Tensor, "batch token channel"]:
    """y after gate and norm, which are those of `o.surroundings`."""
    around, flat = o.surroundings, y.flatten(2)
    assert around is not None
    if around.norm_weight is not None and around.norm_before_gate:
        flat = group_rms_norm(flat, around.norm_weight, around.norm_groups, around.norm_eps)
    if o.gate is not None:
        branch = o.gate[..., -flat.shape[2] :]  # the channels of a gated MLP come first
        flat = flat * around.gate_activation(branch.to(flat.dtype))
    if around.norm_weight is not None and not around.norm_before_gate:
        flat = group_rms_norm(flat, around.norm_weight, around.norm_groups, around.norm_eps)
    return flat


def _project(
    site: MixerSite, gated: Float[Tensor, "batch token channel"], o: Operator
) -> Float[Tensor, "batch token d_model"]:
    """The last projection without its bias. Its input is rounded to the mixer's dtype first."""
    weight = site.adapter.out_projection(site.module).weight[:, -gated.shape[2] :]
    return F.linear(gated.to(weight.dtype if o.gate is None else o.gate.dtype), weight)


def _is_plain_linear(last: nn.Module | None) -> bool:
    return isinstance(last, nn.Linear) and is_plain(last)
