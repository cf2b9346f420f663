"""Mimetic initialisation and transplants of flash-linear-attention's layers."""

import importlib
import math

import pytest
import torch
from layer_changes import (
    assert_equal_operands,
    assert_taken_projections,
    changed,
    operands_of,
    state_of,
    views_of,
)

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.find import find_mixers
from ssmlens.errors import UsageError

FAMILIES = {a.family: a for a in map(adapters.__getitem__, adapters) if "fla " in a.family}
DECAYING = [family for family in FAMILIES if family != "fla DeltaNet"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def fresh(family, seed=0, **settings):
    torch.manual_seed(seed)
    adapter = FAMILIES[family]
    if not settings:
        return adapter.tiny_model().eval()
    models = importlib.import_module("fla.models")
    sizes = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 3}
    plain = dict.fromkeys(("fuse_norm", "fuse_swiglu", "fuse_cross_entropy"), False)
    given = {**sizes, **plain, "attn_mode": "fused_recurrent", **adapter.tiny, **settings}
    return getattr(models, adapter.model)(getattr(models, adapter.config)(**given)).eval()


@pytest.mark.parametrize("c", [2, 8])
@pytest.mark.parametrize("family", DECAYING)
def test_no_token_decays(family, c):
    model = fresh(family)
    ssmlens.mimetic_(model, c=c)
    for layer in range(3):
        decay = operands_of(model, layer).log_decay
        torch.testing.assert_close(
            decay, torch.full_like(decay, -math.exp(-c)), rtol=1e-3, atol=1e-8
        )


def test_a_bounded_decay_is_slow_too():
    model = fresh("fla KimiDeltaAttention", safe_gate=True, lower_bound=-5.0)
    ssmlens.mimetic_(model, c=3)
    decay = operands_of(model).log_decay
    torch.testing.assert_close(decay, torch.full_like(decay, -math.exp(-3)), rtol=1e-4, atol=0)


def test_queries_are_half_keys_and_convolutions_pass_their_token_on(family):
    settings = {"use_short_conv": True} if "Linear" in family else {}
    before, model = fresh(family, **settings), fresh(family, **settings)
    ssmlens.mimetic_(model)
    views, drawn = views_of(model), views_of(before)
    assert torch.equal(views.W_B, drawn.W_B)
    torch.testing.assert_close(views.W_C, (drawn.W_C + drawn.W_B) / 2)
    mixer = find_mixers(model)[0].module
    for name in "qkv":
        taps = getattr(mixer, f"{name}_conv1d").weight.squeeze(1)
        assert torch.equal(taps, torch.eye(taps.shape[1])[-1].expand_as(taps)), name


def test_only_what_it_says_changes(family):
    model = fresh(family)
    before = state_of(model)
    ssmlens.mimetic_(model, layers=(2,))
    touched = changed(before, model)
    assert touched
    allowed = ("A_log", "dt_bias", "conv1d.weight", "q_proj.weight", "a_proj.weight")
    allowed += ("f_proj.1.weight", "gk_proj.1.weight", "gk_proj.1.bias")
    assert all(".layers.2.attn." in name and name.endswith(allowed) for name in touched), touched


def test_components_alone(family):
    model = fresh(family)
    drawn = operands_of(model)
    ssmlens.mimetic_(model, ("BC",))
    operands = operands_of(model)
    assert torch.equal(operands.log_decay, drawn.log_decay)
    assert torch.equal(operands.x, drawn.x)
    read = "C" if "C" in operands.axes else "q"
    assert not torch.equal(getattr(operands, read), getattr(drawn, read))
    model = fresh(family)
    ssmlens.mimetic_(model, ("A", "delta"), c=6)
    operands = operands_of(model)
    assert torch.equal(getattr(operands, read), getattr(drawn, read))
    assert torch.equal(operands.log_decay, drawn.log_decay) == (family not in DECAYING)


def test_what_is_not_fresh_or_not_possible_is_refused_and_left_alone(family):
    model = fresh(family)
    ssmlens.mimetic_(model)
    with pytest.raises(UsageError, match="already initialised"):
        ssmlens.mimetic_(model)
    with pytest.raises(UsageError, match="a_rule='offset' is for Mamba"):
        ssmlens.mimetic_(fresh(family), a_rule="offset")
    trained = fresh(family)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "norm" in name:
                parameter.fill_(0.7)
    before = state_of(trained)
    with pytest.raises(UsageError, match="the model is trained, not fresh"):
        ssmlens.mimetic_(trained)
    assert not changed(before, trained)
    ssmlens.mimetic_(trained, force=True)


def test_without_a_convolution_there_is_none_to_set():
    model = fresh("fla GatedLinearAttention")
    with pytest.raises(UsageError, match="the mixer has no convolution; leave out"):
        ssmlens.mimetic_(model, ("conv",))


def test_keys_that_queries_share_are_refused_by_name():
    sharing = {"num_heads": 4, "expand_k": 0.5, "expand_v": 1.0, "num_kv_heads": 2}
    model, teacher = (fresh("fla GatedLinearAttention", seed, **sharing) for seed in (1, 2))
    with pytest.raises(UsageError, match="layer 0 is fla GatedLinearAttention, which has not all"):
        ssmlens.mimetic_(model)
    with pytest.raises(UsageError, match="has no W_B of its own for scope 'bc'"):
        ssmlens.transplant_(model, teacher, 0, "bc")
    ssmlens.transplant_(model, teacher, 0, "mixer")
    assert torch.equal(operands_of(model).B, operands_of(teacher).B)


@pytest.mark.parametrize("scope", ["block", "mixer", "bc"])
def test_layers_become_copies_of_the_teachers(family, scope):
    teacher, student = fresh(family, 1), fresh(family, 2)
    before, drawn = state_of(student), operands_of(student, 2)
    ssmlens.transplant_(student, teacher, 0, scope, student_layers=(2,))
    assert all(".layers.2." in name for name in changed(before, student))
    given, taken = operands_of(teacher, 0), operands_of(student, 2)
    if scope == "bc":
        assert_taken_projections(student, teacher, 2, drawn, ("log_decay", "x"))
    else:
        assert_equal_operands(given, taken, ("x", *given.axes))


def test_the_scope_ssm_takes_what_makes_q_k_beta_and_decay_or_says_what_is_missing(family):
    teacher, student = fresh(family, 1), fresh(family, 2)
    if family != "fla GatedDeltaNet":
        with pytest.raises(UsageError, match=f"{family}, which has no .* use 'mixer' or 'block'"):
            ssmlens.transplant_(student, teacher, 0, "ssm")
        return
    drawn = operands_of(student)
    ssmlens.transplant_(student, teacher, 0, "ssm")
    given, taken = operands_of(teacher), operands_of(student)
    assert_equal_operands(given, taken, given.axes)
    mine, theirs = (find_mixers(m)[0].module.v_conv1d.weight for m in (student, teacher))
    assert torch.equal(mine, theirs)
    assert torch.equal(taken.gate, drawn.gate)


def test_a_shuffled_layer_keeps_its_values_and_not_their_places(family):
    teacher, student = fresh(family, 1), fresh(family, 2)
    ssmlens.transplant_(student, teacher, 0, "mixer", student_layers=(1,), shuffled=True)
    for (name, given), taken in zip(
        find_mixers(teacher)[0].module.named_parameters(),
        find_mixers(student)[1].module.parameters(),
        strict=True,
    ):
        assert torch.equal(given.flatten().sort()[0], taken.flatten().sort()[0]), name


@pytest.mark.parametrize(
    ("family", "setting", "what"),
    [
        ("fla GatedDeltaNet", {"allow_neg_eigval": False}, "beta_scale is 1.0, the student's 2.0"),
        ("fla DeltaNet", {"qk_norm": "sum"}, "keys is silu, sum, the student's silu, l2"),
        (
            "fla KimiDeltaAttention",
            {"lower_bound": -5.0},
            "decay_bound is -5.0, the student's None",
        ),
        (
            "fla GatedLinearAttention",
            {"clamp_min": -1.0},
            "decay_bound is -1.0, the student's None",
        ),
    ],
)
def test_settings_that_change_what_weights_mean_must_be_equal(family, setting, what):
    teacher, student = fresh(family, 1, **setting), fresh(family, 2)
    for scope in ("block", "mixer"):
        with pytest.raises(UsageError, match=what):
            ssmlens.transplant_(student, teacher, 0, scope)
    ssmlens.transplant_(student, teacher, 0, "bc")
