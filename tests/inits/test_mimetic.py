"""Mimetic initialisation, by the parameters of each library and the numbers of ../shared/REFERENCE.md section 4.

Slices are cut here from the raw parameters by that table, not through the adapters' views.
"""

import copy
import math

import pytest
import torch
from devices import runnable
from layer_changes import changed, state_of

import ssmlens
from ssmlens.adapters.adapter import MixerInput, adapters
from ssmlens.adapters.delta_shared import DeltaAdapter
from ssmlens.adapters.find import find_mixers
from ssmlens.adapters.fla_shared import FlaAdapter
from ssmlens.adapters.generations import Mamba1Adapter, Mamba2Adapter
from ssmlens.errors import UsageError
from ssmlens.inits.init import inits
from ssmlens.inits.mimetic import Mimetic

MAMBA1 = ["ssmlens mamba", "transformers mamba", "mamba_ssm mamba"]
MAMBA2 = ["ssmlens mamba2", "transformers mamba2", "mamba_ssm mamba2"]
ALL = MAMBA1 + MAMBA2


@pytest.fixture
def fresh(build):
    """A model that mimetic_ takes: transformers' Mamba-2 drawn as mamba_ssm draws it."""

    def make(family, **options):
        model = build(family, **options)
        if family == "transformers mamba2":
            inits["mamba-ssm"]().apply_(model, 0)
        return model

    return make


def rows_of(mixer, second):
    """(W_B, W_C, W_dt rows or dt_proj, dt_bias) of a mixer of either generation."""
    n = mixer.A_log.shape[-1] if not second else None
    if not second:
        weight = mixer.x_proj.weight
        rank = len(weight) - 2 * n
        B, C = weight[rank : rank + n], weight[rank + n :]
        return B, C, mixer.dt_proj.weight, mixer.dt_proj.bias
    heads = len(mixer.A_log)
    weight = mixer.in_proj.weight
    d_inner = mixer.out_proj.weight.shape[1]
    d_BC = (len(weight) - 2 * d_inner - heads) // 2
    B, C, dt = weight[2 * d_inner :].split([d_BC, d_BC, heads])
    return B, C, dt, mixer.dt_bias


@pytest.mark.parametrize("family", MAMBA1)
@pytest.mark.parametrize(
    ("c", "by_state"),
    [
        (2, {1: -1, 2: -0.25, 3: -0.111, 8: -0.0156, 32: -9.8e-4}),
        (4, {1: -1, 2: -0.0625, 3: -0.0123, 8: -2.4e-4}),
        (8, {1: -1, 2: -0.0039, 3: -1.5e-4, 8: -6e-8, 32: -9e-13}),
    ],
)
def test_A_by_state(fresh, mixers, family, c, by_state):
    model = fresh(family, d_state=32)
    ssmlens.mimetic_(model, c=c)
    for mixer in mixers(model):
        A = -torch.exp(mixer.A_log.double())
        for n, value in by_state.items():
            assert A[:, n - 1].tolist() == pytest.approx([value] * len(A), rel=0.04)
            assert A[:, n - 1].tolist() == pytest.approx([-(n**-c)] * len(A), rel=1e-5)


def mean_mask(model, tokens):
    """The attention mask of the first layer on random input, at each lag below `tokens`."""
    site = find_mixers(model)[0]
    width = site.module.out_proj.weight.shape[0]
    hidden = torch.randn(1, tokens, width).to(site.module.out_proj.weight)
    with torch.no_grad():
        operands = site.adapter.project(site.module, MixerInput(hidden))
        return ssmlens.attention_mask(operands)[0, :, 0].cpu(), operands


@pytest.mark.parametrize("family", MAMBA1)
@pytest.mark.parametrize(
    ("states", "c", "masks"),
    [
        (32, 2, {100: 0.556, 300: 0.332, 1000: 0.098}),
        (32, 4, {100: 0.895, 300: 0.856, 1000: 0.801}),
        (32, 8, {100: 0.958, 300: 0.946, 1000: 0.933}),
        (16, 2, {100: 0.281, 300: 0.078, 1000: 0.003}),
        (16, 4, {100: 0.790, 300: 0.714, 1000: 0.605}),
        (16, 8, {100: 0.916, 300: 0.891, 1000: 0.866}),
    ],
)
def test_mean_masks_of_mamba1(fresh, mixers, family, states, c, masks):
    model = fresh(family, d_state=states)
    ssmlens.mimetic_(model, c=c)
    A = -torch.exp(mixers(model)[0].A_log.detach().double())
    for lag, value in masks.items():
        assert float(torch.exp(A * lag).mean()) == pytest.approx(value, abs=6e-4)
    mask, operands = mean_mask(model, 101)
    torch.testing.assert_close(operands.delta, torch.ones_like(operands.delta))
    assert float(mask[100]) == pytest.approx(masks[100], abs=1e-3)


@pytest.mark.parametrize("family", MAMBA2)
@pytest.mark.parametrize(
    ("c", "median", "mask", "large"),
    [(2, 0.0138, 0.277, 0.144), (4, 1.9e-4, 0.809, 0.052), (8, 3.7e-8, 0.938, 0.022)],
)
def test_decay_and_mask_of_mamba2(fresh, mixers, family, c, median, mask, large):
    """2048 heads: a share's standard error is below .011, the median of U(1, 16) is 8.5 ± .17."""
    model = fresh(family, d_model=1024, headdim=1, d_state=8, n_layer=1)
    ssmlens.mimetic_(model, c=c)
    A = -torch.exp(mixers(model)[0].A_log.detach().double())
    assert float((A.abs() > 0.1).double().mean()) == pytest.approx(large, abs=0.025)
    assert float(A.abs().median()) == pytest.approx(median, rel=0.08 * c / 2)
    assert float(torch.exp(100 * A).mean()) == pytest.approx(mask, abs=0.03)


def test_default_masks_for_comparison(build, mixers):
    """Δ = 1 alone destroys memory; what the tables give for a default draw of Mamba-1, N = 16."""
    model = build("ssmlens mamba", d_model=512, n_layer=1)
    mixer = mixers(model)[0]
    A = -torch.exp(mixer.A_log.detach().double())
    delta = torch.nn.functional.softplus(mixer.dt_proj.bias.detach().double())
    assert float(torch.exp(100 * A * delta[:, None]).mean()) == pytest.approx(0.102, abs=0.01)
    ssmlens.mimetic_(model, components=("delta",))
    assert float(torch.exp(A).mean()) == pytest.approx(0.036, abs=5e-4)
    assert torch.equal(mixer.A_log.double(), torch.arange(1, 17).log().double().expand(1024, 16))


@pytest.mark.parametrize("family", ALL)
def test_B_and_C_are_correlated_at_71_percent(fresh, mixers, family):
    second = family in MAMBA2
    model = fresh(family, d_model=256, d_state=32)
    before = copy.deepcopy(model)
    ssmlens.mimetic_(model)
    for mixer, old in zip(mixers(model), mixers(before), strict=True):
        B, C, *_ = (part.detach().double() for part in rows_of(mixer, second))
        old_B, old_C, *_ = (part.detach().double() for part in rows_of(old, second))
        assert torch.equal(B, old_B)
        torch.testing.assert_close(C, 0.5 * (old_B + old_C), atol=1e-7, rtol=0)
        row = (B * C).sum(1) / (B.norm(dim=1) * C.norm(dim=1))
        assert float(row.mean()) == pytest.approx(0.71, abs=0.02)
        assert float(C.std() / B.std()) == pytest.approx(0.707, abs=0.02)


@pytest.mark.parametrize("family", ALL)
def test_what_changes_and_what_stays(fresh, mixers, family):
    second = family in MAMBA2
    model = fresh(family)
    before = state_of(model)
    ssmlens.mimetic_(model)
    own = (
        {"A_log", "dt_bias", "in_proj.weight", "conv1d.weight", "conv1d.bias"}
        if second
        else {"A_log", "dt_proj.weight", "dt_proj.bias", "x_proj.weight"}
    )
    got = changed(before, model)
    assert {name.split("mixer.")[1] for name in got} == own
    assert len(got) == 2 * len(own)
    for mixer in mixers(model):
        _, _, W_dt, dt_bias = rows_of(mixer, second)
        assert not W_dt.any()
        assert dt_bias.tolist() == pytest.approx([0.5413248546] * len(dt_bias))
        if second:
            assert not mixer.conv1d.weight[..., :-1].any()
            assert (mixer.conv1d.weight[..., -1] == 1).all()
            assert not mixer.conv1d.bias.any()
        else:
            name = next(n for n, p in model.named_parameters() if p is mixer.x_proj.weight)
            rank = mixer.dt_proj.weight.shape[1]
            assert torch.equal(mixer.x_proj.weight[:rank], before[name][:rank])


@pytest.mark.parametrize("family", ["ssmlens mamba", "ssmlens mamba2"])
@pytest.mark.parametrize("component", ["A", "delta", "BC", "conv"])
def test_each_component_alone(build, mixers, family, component):
    model = build(family)
    before = state_of(model)
    ssmlens.mimetic_(model, components=(component,), layers=(1,))
    second = family == "ssmlens mamba2"
    in_proj = {"in_proj.weight"} if second else set()
    wanted = {
        "A": {"A_log"},
        "delta": {"dt_bias"} | in_proj if second else {"dt_proj.weight", "dt_proj.bias"},
        "BC": in_proj or {"x_proj.weight"},
        "conv": {"conv1d.weight", "conv1d.bias"},
    }[component]
    assert changed(before, model) == {f"backbone.layers.1.mixer.{name}" for name in wanted}


def test_a_layer_is_linear_attention_afterwards(build):
    """M[i,j] = Σ_n C[i,n] B[j,n] exp(−n^−c (i−j)), so close to C·B at c = 8 but for n = 1 and 2."""
    model = build("ssmlens mamba", d_state=4)
    ssmlens.mimetic_(model, components=("A", "delta", "BC", "conv"))
    _, operands = mean_mask(model, 9)
    B, C = operands.B[0, :, 0].double(), operands.C[0, :, 0].double()
    lag = torch.arange(9).unsqueeze(1) - torch.arange(9)
    wanted = sum(
        C[:, None, n - 1] * B[None, :, n - 1] * torch.exp(-(n**-8.0) * lag.double())
        for n in range(1, 5)
    ).tril()
    maps = ssmlens.channel_maps(operands)[0].double()
    torch.testing.assert_close(maps, wanted.expand_as(maps), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "c", "of_mamba1", "of_mamba2"),
    [
        ("power_no_first", 4, lambda n: -4 * math.log(n + 1), lambda a: -4 * math.log(a + 1)),
        ("constant", 8, lambda n: -8, lambda a: -8),
        ("offset", 10, lambda n: math.log(n) - 10, lambda a: math.log(a) - 10),
    ],
)
def test_other_rules_for_A(build, mixers, rule, c, of_mamba1, of_mamba2):
    model = build("ssmlens mamba")
    ssmlens.mimetic_(model, c=c, a_rule=rule)
    for mixer in mixers(model):
        wanted = [of_mamba1(n) for n in range(1, 17)]
        assert mixer.A_log[5].tolist() == pytest.approx(wanted, rel=1e-6)
    model = build("ssmlens mamba2")
    own = [mixer.A_log.detach().exp().tolist() for mixer in mixers(model)]
    ssmlens.mimetic_(model, c=c, a_rule=rule)
    for mixer, drawn in zip(mixers(model), own, strict=True):
        assert mixer.A_log.tolist() == pytest.approx([of_mamba2(a) for a in drawn], rel=1e-5)


@pytest.mark.parametrize("family", ["ssmlens mamba", "ssmlens mamba2"])
def test_mixing_and_rescaling(build, mixers, family):
    second = family == "ssmlens mamba2"
    drawn = build(family, d_model=128, ssm_cfg={"ngroups": 2} if second else {})
    for options, expected in [
        ({"bc_mix": (0.0, 1.0)}, lambda B, C: (B, B)),
        ({"bc_mix": (0.25, 0.75)}, lambda B, C: (B, 0.25 * C + 0.75 * B)),
        ({"bc_rescale": "var"}, lambda B, C: (B, (C + B) / math.sqrt(2))),
        ({"bc_mix": (3.0, 4.0), "bc_rescale": "var"}, lambda B, C: (B, 0.6 * C + 0.8 * B)),
    ]:
        model = copy.deepcopy(drawn)
        ssmlens.mimetic_(model, components=("BC",), **options)
        for mixer, old in zip(mixers(model), mixers(drawn), strict=True):
            wanted = expected(*(part.detach() for part in rows_of(old, second)[:2]))
            for got, want in zip(rows_of(mixer, second)[:2], wanted, strict=True):
                torch.testing.assert_close(got.detach(), want)
    model = copy.deepcopy(drawn)
    ssmlens.mimetic_(model, components=("BC",), bc_rescale="identity")
    for mixer in mixers(model):
        B, C = (part.detach() for part in rows_of(mixer, second)[:2])
        for rows in torch.arange(len(B)).chunk(2 if second else 1):  # a group each
            product = C[rows].T @ B[rows]
            assert float(product.diagonal().mean()) == pytest.approx(1, rel=1e-5)
            assert abs(float(product.sum() - product.trace()) / (len(product) ** 2)) < 0.05


def test_scale_of_the_steps_weights(build, mixers):
    for family in ("ssmlens mamba", "ssmlens mamba2"):
        model = build(family)
        before = copy.deepcopy(model)
        ssmlens.mimetic_(model, w_delta_scale=0.01)
        for mixer, old in zip(mixers(model), mixers(before), strict=True):
            got, was = (rows_of(m, family == "ssmlens mamba2")[2] for m in (mixer, old))
            torch.testing.assert_close(got, 0.01 * was)


def test_scopes_of_the_convolution(build, mixers):
    drawn = build("ssmlens mamba2")
    for scope, keep in [("all", True), ("bc", False), ("tie_bc", False), ("tie_bc", True)]:
        model = copy.deepcopy(drawn)
        ssmlens.mimetic_(model, components=("conv",), conv_scope=scope, keep_conv_bias=keep)
        for mixer, old in zip(mixers(model), mixers(drawn), strict=True):
            taps, bias = mixer.conv1d.weight[:, 0], mixer.conv1d.bias
            was, bias_was = old.conv1d.weight[:, 0], old.conv1d.bias
            identity = torch.tensor([0.0, 0, 0, 1]).expand_as(taps)
            if scope == "all":
                assert torch.equal(taps, identity)
                assert torch.equal(bias, bias_was)
                continue
            assert torch.equal(taps[:64], was[:64])
            assert torch.equal(bias[:64], bias_was[:64])
            if scope == "bc":
                assert torch.equal(taps[64:], identity[64:])
                assert not bias[64:].any()
                continue
            assert torch.equal(taps[64:80], was[64:80])
            assert torch.equal(taps[80:], was[64:80])
            assert torch.equal(bias[80:], bias_was[80:] if keep else bias_was[64:80])


@pytest.mark.parametrize("scope", ["all", "bc", "x", "tie_bc"])
@pytest.mark.parametrize("kept", ["none", "bias", "taps"])
def test_parts_of_the_convolution_in_some_layers(build, mixers, scope, kept):
    """Two groups of 8 states and 48 channels of x in an inner width of 64: weights cut by hand, layer 1 alone set."""
    drawn = build("ssmlens mamba2", d_state=8, ssm_cfg={"ngroups": 2, "d_ssm": 48})
    model = copy.deepcopy(drawn)
    ssmlens.mimetic_(
        model,
        components=("A", "conv"),
        conv_scope=scope,
        conv_layers=(1,),
        **({} if kept == "none" else {f"keep_conv_{kept}": True}),
    )
    (first, second), (was_first, was) = mixers(model), mixers(drawn)
    assert torch.equal(first.conv1d.weight, was_first.conv1d.weight)
    assert torch.equal(first.conv1d.bias, was_first.conv1d.bias)
    assert not torch.equal(first.A_log, was_first.A_log), "its A is set all the same"
    taps, bias = was.conv1d.weight.detach().clone(), was.conv1d.bias.detach().clone()
    for channel in range(48 + 16 + 16):
        chosen = {"all": True, "bc": channel >= 48, "x": channel < 48, "tie_bc": channel >= 64}
        if not chosen[scope]:
            continue
        tied = scope == "tie_bc"
        if kept != "taps":
            identity = torch.tensor([[0.0, 0, 0, 1]])
            taps[channel] = was.conv1d.weight[channel - 16] if tied else identity
        if kept != "bias":
            bias[channel] = was.conv1d.bias[channel - 16] if tied else 0.0
    assert torch.equal(second.conv1d.weight, taps)
    assert torch.equal(second.conv1d.bias, bias)


def test_channels_of_x_without_a_bias(build, mixers):
    model = build("ssmlens mamba2", ssm_cfg={"conv_bias": False})
    before = copy.deepcopy(model)
    ssmlens.mimetic_(model, components=("conv",), conv_scope="x")
    for mixer, old in zip(mixers(model), mixers(before), strict=True):
        assert torch.equal(mixer.conv1d.weight[64:], old.conv1d.weight[64:])
        assert torch.equal(mixer.conv1d.weight[:64, 0, -1], torch.ones(64))
        assert not mixer.conv1d.weight[:64, 0, :-1].any()


def test_biases_of_in_proj_are_treated_as_their_rows(build, mixers):
    model = build("ssmlens mamba2", ssm_cfg={"bias": True, "ngroups": 2})
    for mixer in mixers(model):
        torch.nn.init.normal_(mixer.in_proj.bias)
    was = [mixer.in_proj.bias.detach().clone() for mixer in mixers(model)]
    ssmlens.mimetic_(model)
    for mixer, old in zip(mixers(model), was, strict=True):
        bias = mixer.in_proj.bias
        assert torch.equal(bias[: 128 + 32], old[: 128 + 32])
        torch.testing.assert_close(bias[160:192], 0.5 * (old[128:160] + old[160:192]))
        assert not bias[192:].any()
    model = build("ssmlens mamba2", ssm_cfg={"bias": True, "ngroups": 2})
    ssmlens.mimetic_(model, components=(), layers=(0,))
    mixer = mixers(model)[1]
    torch.nn.init.normal_(mixer.in_proj.bias)
    parts = ("weight", "bias")
    old = [getattr(mixer.in_proj, part).detach().clone() for part in parts]
    ssmlens.mimetic_(model, layers=(1,), bc_rescale="identity", bc_mix=(0.0, 1.0))
    for group in (slice(128, 144), slice(144, 160)):  # W_B is scaled to entries of mean square 1/16
        scale = (16 * old[0][group].square().mean()) ** -0.5
        for part, was in zip(parts, old, strict=True):
            now = getattr(mixer.in_proj, part)
            torch.testing.assert_close(now[group], scale * was[group])
            torch.testing.assert_close(now[group.start + 32 : group.stop + 32], now[group])


@pytest.mark.parametrize("family", ["ssmlens mamba", "ssmlens mamba2", "transformers mamba"])
def test_it_trains_afterwards(fresh, mixers, family):
    """Gradients reach what was set to 0, and B and C."""
    model = fresh(family)
    ssmlens.mimetic_(model)
    model(torch.arange(20).view(1, 20)).logits.square().sum().backward()
    for mixer in mixers(model):
        assert all(p.grad.isfinite().all() for p in mixer.parameters())
        step, read = (  # the modules that make Δ, and B and C
            (mixer.in_proj, mixer.in_proj) if "mamba2" in family else (mixer.dt_proj, mixer.x_proj)
        )
        assert step.weight.grad[-1].any()
        assert read.weight.grad[-8 - 16].any()


FAMILIES = {adapters[path].family: adapters[path] for path in adapters}
HERE = runnable(FAMILIES)
ELSEWHERE = DeltaAdapter | FlaAdapter  # test_delta_inits, test_fla_inits
HERE = [f for f in HERE if not isinstance(FAMILIES[f], ELSEWHERE)]


@pytest.mark.parametrize("family", HERE)
def test_every_family_is_initialised_or_refused_by_name(family):
    adapter = FAMILIES[family]
    torch.manual_seed(0)
    model = adapter.tiny_model()
    before = state_of(model)
    if not isinstance(adapter, Mamba1Adapter | Mamba2Adapter):
        with pytest.raises(UsageError, match=f"{family}.*it is for Mamba-1 and Mamba-2"):
            ssmlens.mimetic_(model)
        assert not changed(before, model)
        return
    if family.startswith("transformers") and isinstance(adapter, Mamba2Adapter):
        with pytest.raises(UsageError, match=r"log\(1..heads\), transformers' own"):
            ssmlens.mimetic_(model)
        assert not changed(before, model)
        ssmlens.mimetic_(model, force=True, w_delta_scale=0.0)
    else:
        ssmlens.mimetic_(model)
    for site in find_mixers(model):
        width = site.module.out_proj.weight.shape[0]
        hidden = torch.randn(1, 5, width).to(next(model.parameters()))
        with torch.no_grad():
            operands = adapter.project(site.module, MixerInput(hidden))
        torch.testing.assert_close(operands.delta, torch.ones_like(operands.delta))
        assert float(torch.exp(operands.A).mean()) > 0.8 - 0.7 / operands.A.shape[1]


def test_half_precision_models(build, mixers):
    """Freshness is judged as far as the dtype can say it."""
    for family in ("ssmlens mamba", "ssmlens mamba2", "transformers mamba"):
        model = build(family).bfloat16()
        ssmlens.mimetic_(model)
        assert mixers(model)[0].A_log.dtype == torch.bfloat16
        assert mixers(model)[0].A_log.min() < -8


def test_the_registered_init_is_the_function(build):
    a, b = build("ssmlens mamba"), build("ssmlens mamba")
    ssmlens.mimetic_(a, ("A", "BC"), c=4, layers=(1,))
    inits["mimetic"](components=("A", "BC"), c=4, layers=(1,)).apply_(b, seed=9)
    assert not changed(state_of(a), b)
    assert inits["mimetic"] is Mimetic
