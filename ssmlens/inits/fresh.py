"""Check that a model is fresh, as its library drew it: mimetic initialisation is defined only then."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.find import MixerSite
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.errors import UsageError
from ssmlens.inits.init import is_norm, mark_of
from ssmlens.inits.mixer_weights import log_n

# Independent draws exceed this z-score once in 10⁹ layers; W_C = ½(W'_C + W_B) has .71·√(entries).
_LARGEST_Z = 6.0


def require_fresh(model: nn.Module, sites: Sequence[MixerSite]) -> None:
    """Raise UsageError, naming the layer or norm, unless these mixers are as their library drew them.

    Norm weights have the library's initial value (1, or 0 if it adds 1) and D is 1; A_log is log n in Mamba-1, log
    U(1, 16) in Mamba-2 (not transformers' log(1..heads): the same c would mean other decays) and at most log 16 in a
    delta rule; W_B and W_C are unrelated; ssmlens has not initialised the mixer before.
    """
    for site in sites:
        why = _why_stale(site)
        if why is not None:
            raise UsageError(f"layer {site.layer}: {why}; force=True goes on regardless")
    starts = {start for site in sites for start in site.adapter.fresh_norms}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if is_norm(module) and weight is not None and not any(_all(weight, s) for s in starts):
            one = " or ".join(f"{start:g}" for start in sorted(starts))
            raise UsageError(
                f"{name}.weight is not all {one}: the model is trained, not fresh; "
                "force=True goes on regardless"
            )


def _why_stale(site: MixerSite) -> str | None:
    if (before := mark_of(site)) is not None:
        return f"already initialised ({before}); a second time would not have the same effect"
    views = site.adapter.weights(site.module)
    if views.D is not None and (views.D != 1).any():
        return "D is not all 1: the model is trained, not fresh"
    if views.A_log is not None and (why := _why_stale_decay(site, views.A_log)) is not None:
        return why
    if _z_score(views) > _LARGEST_Z:
        return "W_B and W_C are already related, not independent draws"
    return None


def _why_stale_decay(site: MixerSite, A_log: Float[Tensor, "head A_state"]) -> str | None:
    if site.adapter.fresh_A_log is None:
        if _is(A_log, log_n(A_log)):
            return None
        return "A_log is not log n: the model is trained, not fresh"
    least, most = site.adapter.fresh_A_log
    if least == 0 and _is(A_log, log_n(A_log.T).T):
        return (
            "A_log is log(1..heads), transformers' own, on which c means other decays than on "
            "mamba_ssm's log U(1, 16); apply the init 'mamba-ssm' first"
        )
    if not ((A_log >= least) & (A_log <= most + 1e-2)).all():
        low, high = math.exp(least), math.exp(most)
        return f"A_log is not log U({low:g}, {high:g}): the model is trained, not fresh"
    return None


def _all(weight: Tensor, start: float) -> bool:
    return bool((weight == start).all())


def _is(values: Tensor, expected: Tensor) -> bool:
    """Tell whether the values are the expected ones, up to the precision of their dtype."""
    return torch.allclose(values.double(), expected, rtol=torch.finfo(values.dtype).eps, atol=1e-6)


def _z_score(views: WeightViews) -> float:
    """Return the correlation of W_B and W_C times √entries: standard normal for independent draws."""
    if views.W_B is None or views.W_C is None:
        return 0.0
    B, C = views.W_B.detach().double().flatten(), views.W_C.detach().double().flatten()
    return abs(float(B @ C / (B.norm() * C.norm()) * math.sqrt(len(B))))
