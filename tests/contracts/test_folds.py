"""The whole token mixing as matrix and offset: every family's, against the mixer's own output and parts of it."""

import dataclasses
import functools
import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICE, closure_tolerance, runnable
from mixers import build_mixer
from oracles import mixed_by_definition, relative
from tiny_models import tiny_model_of

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.find import find_mixers
from ssmlens.errors import UsageError
from ssmlens.scan.operators.delta_rule import DeltaRule

pytestmark = pytest.mark.device

FAMILIES = {adapters[path].family: (adapters[path], path) for path in adapters}
HERE = runnable(FAMILIES)
FOLDS = ("conv", "gate", "skip")
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(FOLDS, n)]
# By family; elsewhere both are SiLU.
GATES = dict.fromkeys(("Kimi", "Bailing", "Glm", "Qwen4", "MiniMax", "Rwkv"), torch.sigmoid)
GATES["fla KimiDelta"] = torch.sigmoid
GATES["RecurrentGemma"] = functools.partial(F.gelu, approximate="tanh")
ACTIVATIONS = {"RecurrentGemma": lambda v: v}
OPTIONS = [
    ("Mamba", {"d_conv": 3, "bias": True}),
    ("Mamba", {"conv_bias": False}),
    ("Mamba2", {"bias": True}),
    ("Mamba2", {"norm_before_gate": True, "ngroups": 2}),
    ("Mamba2", {"rmsnorm": False}),
    ("Mamba2", {"D_has_hdim": True, "ngroups": 3, "conv_bias": False}),
    ("Mamba2", {"d_ssm": 16, "ngroups": 2, "bias": True, "norm_before_gate": True}),
    ("Mamba3", {"d_state": 6, "ngroups": 2}),
    ("Mamba3", {"is_outproj_norm": True}),
]


def spread(model):
    """Every parameter away from the values of its default draw, where mistakes do not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=HERE)
def recorded(request):
    """The records of every Mamba layer of the family's tiny model; transformers' with padding on the left."""
    adapter, _ = FAMILIES[request.param]
    torch.manual_seed(0)
    model = spread(tiny_model_of(adapter).eval()).to(DEVICE)
    ids = torch.randint(0, 32, (3, 11), device=DEVICE)
    options = {}
    if "use_cache" in inspect.signature(model.forward).parameters:
        mask = torch.ones(3, 11, dtype=torch.long, device=DEVICE)
        mask[1, :5] = mask[2, :1] = 0
        options = {"attention_mask": mask, "use_cache": False}
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(ids, **options)
    return [rec[site.layer] for site in find_mixers(model)]


def of_family(functions, record):
    """What a table of functions by family has for this record."""
    family = record.call.site.adapter.family
    return next((f for name, f in functions.items() if name in family), F.silu)


def there(o):
    """What of FOLDS a mixer has."""
    parts = {"conv": o.surroundings.u, "gate": o.gate, "skip": o.D}
    if o.gate is None:
        parts["gate"] = o.surroundings.norm_weight  # a norm by itself
    return tuple(part for part in FOLDS if parts[part] is not None)


def applied(o, fold):
    """matrix @ input + offset for every channel, [batch token channel] in float64."""
    with torch.no_grad():
        found = ssmlens.channel_maps(o, fold=fold)
    matrix, offset = found if fold else (found, torch.zeros(1, 1, device=DEVICE))
    given = o.surroundings.u if "conv" in fold else o.x.flatten(2)
    return torch.einsum("bcij,bjc->bic", matrix.double(), given.double()) + offset.double().mT


def by_definition(o, fold, gate=F.silu):
    """The same by a sequential scan in float64 and what surrounds it."""
    y = mixed_by_definition(o).flatten(2)
    scale = torch.ones_like(y)
    if "gate" in fold:
        m, z = o.surroundings, torch.ones_like(y)
        if o.gate is not None:
            z = gate(o.gate[..., -y.shape[2] :].double())
        scale = z
        if m.norm_weight is not None:
            part = (y if m.norm_before_gate else y * z).unflatten(2, (m.norm_groups, -1))
            rms = (part.square().mean(3, keepdim=True) + m.norm_eps).sqrt().expand_as(part)
            scale = z * m.norm_weight.double() / rms.flatten(2)
    if "skip" not in fold:
        y = mixed_by_definition(dataclasses.replace(o, D=None)).flatten(2)
    return scale * y


def test_everything_folded_and_projected_is_the_mixers_output(recorded):
    assert recorded
    for record in recorded:
        o, site = record.operands, record.call.site
        out_proj = site.adapter.out_projection(site.module)
        result = applied(o, there(o)).to(out_proj.weight.dtype)
        if o.offset is not None:
            result = result + o.offset.flatten(2)
        assert relative(out_proj(result), record.call.output) < closure_tolerance(site.adapter)


def test_every_subset_is_what_its_parts_compute(recorded):
    o, gate = recorded[0].operands, of_family(GATES, recorded[0])
    for fold in SUBSETS:
        if set(fold) <= set(there(o)):
            assert relative(applied(o, fold), by_definition(o, fold, gate)) < 1e-5, fold


def test_x_is_the_activated_convolution_of_u(recorded):
    """By torch's own convolution: a wrong u would go unnoticed above, for x is divided by its convolution."""
    for record in recorded:
        o, m = record.operands, record.operands.surroundings
        if m.u is None:
            pytest.skip("no convolution")
        width, taps = m.conv_weight.shape
        convolution = torch.nn.Conv1d(
            width, width, taps, groups=width, padding=taps - 1, bias=m.conv_bias is not None
        ).to(DEVICE, torch.float64)
        with torch.no_grad():
            convolution.weight.copy_(m.conv_weight.unsqueeze(1))
            if m.conv_bias is not None:
                convolution.bias.copy_(m.conv_bias)
            v = convolution(m.u.double().mT)[..., : o.tokens].mT
        x = of_family(ACTIVATIONS, record)(v)
        if record.call.given.token_mask is not None and not isinstance(o, DeltaRule):
            x = x * record.call.given.token_mask.unsqueeze(2)
        assert relative(o.x.flatten(2), x) < 1e-5


@pytest.mark.parametrize(("layer", "options"), OPTIONS, ids=str)
def test_options_of_mamba_ssm(layer, options):
    torch.manual_seed(1)
    sizes = {"d_state": 4} | ({} if layer == "Mamba" else {"headdim": 4})
    mixer = spread(build_mixer(layer, d_model=12, **(sizes | options)))
    with torch.no_grad(), ssmlens.recording(mixer) as rec:
        mixer(torch.randn(2, 13, 12))
    (record,) = rec
    o, weights = record.operands, mixer.weights()
    result = applied(o, there(o))
    if "d_ssm" in options:  # the gated MLP's channels come first; it mixes no tokens
        z0, x0, _ = o.gate.split([weights.d_mlp, weights.d_mlp, weights.d_ssm], dim=-1)
        result = torch.cat([(F.silu(z0) * x0).double(), result], dim=2)
    assert relative(mixer.out_proj(result.float()), record.call.output) < 1e-5
    for fold in SUBSETS:
        if set(fold) <= set(there(o)):
            assert relative(applied(o, fold), by_definition(o, fold)) < 1e-5, fold


def test_mamba3_has_no_convolution_to_fold():
    mixer = build_mixer("Mamba3", d_model=8, d_state=4, headdim=4)
    with ssmlens.recording(mixer) as rec:
        mixer(torch.randn(1, 3, 8))
    (record,) = rec
    with pytest.raises(UsageError, match="this mixer has no convolution: leave 'conv' out of fold"):
        ssmlens.channel_maps(record.operands, fold=FOLDS)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("layer", ["Mamba", "Mamba2"])
def test_bfloat16(layer, autocast):
    torch.manual_seed(2)
    mixer = spread(build_mixer(layer, d_model=64, d_state=8))
    hidden = torch.randn(2, 17, 64)
    if not autocast:
        mixer, hidden = mixer.bfloat16(), hidden.bfloat16()
    precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast)
    with torch.no_grad(), ssmlens.recording(mixer) as rec, precision:
        mixer(hidden)
    (record,) = rec
    result = applied(record.operands, FOLDS)
    assert relative(result, by_definition(record.operands, FOLDS)) < 1e-5
    weight = mixer.out_proj.weight.float()
    assert relative(F.linear(result.float(), weight), record.call.output) < 2e-2
