"""Mimetic initialisation and transplants of delta-rule mixers."""

import importlib.util
import math

import pytest
import torch
from layer_changes import (
    assert_equal_operands,
    assert_taken_projections,
    changed,
    operands_of,
    state_of,
)

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.delta_shared import DeltaAdapter
from ssmlens.adapters.find import find_mixers
from ssmlens.errors import UsageError
from ssmlens.inits.init import inits

FAMILIES = {adapters[path].family: adapters[path] for path in adapters}
DELTA = [name for name, adapter in FAMILIES.items() if isinstance(adapter, DeltaAdapter)]
BOUNDED = ("Bailing", "Glm5")


@pytest.fixture(params=DELTA)
def family(request):
    return request.param


def fresh(family, seed=0):
    if importlib.util.find_spec(FAMILIES[family].mixers[0].rsplit(".", 2)[0]) is None:
        pytest.skip("not in this version")
    torch.manual_seed(seed)
    return FAMILIES[family].tiny_model().eval()


@pytest.mark.parametrize("c", [2, 8])
def test_no_token_decays_and_queries_are_half_keys(family, c):
    before, model = fresh(family), fresh(family)
    ssmlens.mimetic_(model, c=c)
    for layer, (old, new) in enumerate(zip(find_mixers(before), find_mixers(model), strict=True)):
        operands = operands_of(model, layer)
        wanted = torch.full_like(operands.log_decay, -math.exp(-c))
        torch.testing.assert_close(operands.log_decay, wanted, rtol=1e-4, atol=0)
        views, drawn = (s.adapter.weights(s.module) for s in (new, old))
        assert torch.equal(views.W_B, drawn.W_B)
        torch.testing.assert_close(views.W_C, (drawn.W_C + drawn.W_B) / 2)
        correlation = torch.nn.functional.cosine_similarity(
            views.W_B.flatten(), views.W_C.flatten(), dim=0
        )
        assert 0.6 < correlation < 0.8
        assert (operands.q * operands.k).sum(-1).mean() > 0
        taps = views.conv
        assert torch.equal(taps, torch.eye(taps.shape[1])[-1].expand_as(taps))


def test_only_what_it_says_changes(family):
    model = fresh(family)
    before = state_of(model)
    ssmlens.mimetic_(model, layers=(2,))
    touched = changed(before, model)
    assert touched
    assert all(".layers.2." in name for name in touched)
    allowed = ("A_log", "dt_bias", "conv1d.weight", "qkvz.weight", "qkv.weight", "q_proj.weight")
    allowed += ("in_proj_ba.weight", "in_proj_a.weight", "a_proj.weight", "f_b_proj.weight")
    assert all(name.endswith((*allowed, "f_proj.weight")) for name in touched), touched
    site = find_mixers(model)[1]
    kept = {"W_beta", "W_v", "W_gate", "norm_weight", "out_proj_weight"}
    weights = site.adapter.named_weights(site.module)
    again = fresh(family)
    drawn = site.adapter.named_weights(find_mixers(again)[1].module)
    for name in kept - {"W_gate"}:
        assert torch.equal(getattr(weights, name), getattr(drawn, name)), name
    assert all(map(torch.equal, weights.W_gate, drawn.W_gate))


def test_components_alone(family):
    model = fresh(family)
    drawn = operands_of(model)
    ssmlens.mimetic_(model, ("BC",))
    operands = operands_of(model)
    assert torch.equal(operands.log_decay, drawn.log_decay)
    assert torch.equal(operands.k, drawn.k)
    assert not torch.equal(operands.q, drawn.q)
    model = fresh(family)
    ssmlens.mimetic_(model, ("A",), c=6)
    site = find_mixers(model)[0]
    bounded = any(name in family for name in BOUNDED)
    A_log = site.adapter.weights(site.module).A_log
    assert torch.equal(A_log, torch.full_like(A_log, 0 if bounded else -6))
    assert torch.equal(operands_of(model).q, drawn.q)


def test_what_is_not_fresh_or_not_possible_is_refused_and_left_alone(family):
    model = fresh(family)
    ssmlens.mimetic_(model)
    before = state_of(model)
    with pytest.raises(UsageError, match="already initialised"):
        ssmlens.mimetic_(model)
    model = fresh(family)
    with pytest.raises(UsageError, match="a_rule='offset' is for Mamba"):
        ssmlens.mimetic_(model, a_rule="offset")
    for ending, value in (("norm.weight", 0.7), ("A_log", 4.0)):
        trained = fresh(family)
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                if name.endswith(ending):
                    parameter.fill_(value)
        before = state_of(trained)
        with pytest.raises(UsageError, match="the model is trained, not fresh"):
            ssmlens.mimetic_(trained)
        assert not changed(before, trained)
        ssmlens.mimetic_(trained, force=True)


@pytest.mark.parametrize("init", ["mamba-ssm", "transformers"])
def test_a_librarys_draw_of_mamba_is_refused_by_name(family, init):
    model = fresh(family)
    before = state_of(model)
    with pytest.raises(UsageError, match=f"layer 0 is {family}, which cannot be drawn"):
        inits[init]().apply_(model)
    assert not changed(before, model)


@pytest.mark.parametrize("scope", ["block", "mixer", "bc"])
def test_layers_become_copies_of_the_teachers(family, scope):
    teacher, student = fresh(family, 1), fresh(family, 2)
    before = state_of(student)
    drawn = operands_of(student, 1)
    ssmlens.transplant_(student, teacher, 0, scope, student_layers=(2,))
    assert all(".layers.2." in name for name in changed(before, student))
    given, taken = operands_of(teacher, 0), operands_of(student, 1)
    if scope == "bc":
        assert_taken_projections(student, teacher, 1, drawn, ("beta", "x"))
    else:
        assert_equal_operands(given, taken, ("x", "gate", *given.axes))


def test_the_scope_ssm_takes_what_makes_q_k_beta_and_decay_or_says_what_is_missing(family):
    teacher, student = fresh(family, 1), fresh(family, 2)
    if FAMILIES[family].weights(find_mixers(student)[0].module).W_dt is None:
        with pytest.raises(UsageError, match=f"{family}, which has no W_dt .* use 'mixer' or"):
            ssmlens.transplant_(student, teacher, 0, "ssm")
        return
    drawn = operands_of(student)
    ssmlens.transplant_(student, teacher, 0, "ssm")
    given, taken = operands_of(teacher), operands_of(student)
    assert_equal_operands(given, taken, given.axes)
    assert torch.equal(taken.gate, drawn.gate)


def test_settings_that_change_what_weights_mean_must_be_equal():
    teacher, student = (fresh("transformers OlmoHybridGatedDeltaNet", seed) for seed in (1, 2))
    find_mixers(teacher)[0].module.allow_neg_eigval = False
    for scope in ("block", "mixer", "ssm"):
        with pytest.raises(UsageError, match=r"its beta_scale is 1.0, the student's 2.0"):
            ssmlens.transplant_(student, teacher, 0, scope)
    ssmlens.transplant_(student, teacher, 0, "bc")
