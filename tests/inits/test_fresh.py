"""What mimetic initialisation refuses, in one line and with the model left as it was."""

import copy
import math
import pickle

import pytest
import torch
from layer_changes import changed, state_of

import ssmlens
from ssmlens.errors import UsageError


def stale(model, edit):
    with torch.no_grad():
        edit(model)
    return model


@pytest.mark.parametrize("family", ["ssmlens mamba", "ssmlens mamba2", "transformers mamba"])
@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m.backbone.layers[1].mixer.D[0].add_(1e-3), "layer 1: D is not all 1"),
        (lambda m: m.backbone.layers[0].mixer.D[0].fill_(math.nan), "layer 0: D is not all 1"),
        (lambda m: m.backbone.layers[1].norm.weight.mul_(2), r"layers.1.norm.weight is not all 1"),
        (lambda m: m.backbone.norm_f.weight[0].mul_(2), r"norm_f.weight is not all 1"),
        (lambda m: m.backbone.layers[0].mixer.A_log.sub_(3), "layer 0: A_log is not log"),
        (lambda m: m.backbone.layers[0].mixer.A_log.mul_(-1), "layer 0: A_log is not log"),
    ],
)
def test_a_model_that_is_not_fresh_is_refused_and_left_alone(build, family, edit, told):
    model = stale(build(family), edit)
    before = state_of(model)
    with pytest.raises(UsageError, match=told) as caught:
        ssmlens.mimetic_(model, components=("BC", "delta"))
    assert "force=True" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not changed(before, model)
    ssmlens.mimetic_(model, components=("BC", "delta"), force=True)


def test_shipped_models_are_trained():
    for name in ("copy-mamba1-default", "copy-mamba2-mimetic"):
        with pytest.raises(UsageError, match=r"is trained, not fresh|already|related"):
            ssmlens.mimetic_(ssmlens.load_model(name))


@pytest.mark.parametrize("family", ["ssmlens mamba", "ssmlens mamba2"])
def test_a_second_application_is_refused_also_on_a_copy(build, family):
    model = build(family)
    ssmlens.mimetic_(model, components=("BC",), c=4)
    for again in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = state_of(again)
        with pytest.raises(UsageError, match=r"already initialised \(mimetic, BC, c=4\)"):
            ssmlens.mimetic_(again)
        assert not changed(before, again)


@pytest.mark.parametrize("family", ["ssmlens mamba", "ssmlens mamba2"])
@pytest.mark.parametrize("components", [None, ("A",), ("BC",)])
def test_a_second_application_is_refused_after_a_state_dict(build, family, components):
    """Where no mark survives the weights tell."""
    model, again = build(family), build(family)
    ssmlens.mimetic_(model, components=components)
    again.load_state_dict(model.state_dict())
    with pytest.raises(UsageError, match=r"A_log is not log|already related"):
        ssmlens.mimetic_(again)


def test_layers_one_after_the_other(build):
    model = build("ssmlens mamba")
    ssmlens.mimetic_(model, layers=(1,))
    ssmlens.mimetic_(model, layers=(0,))
    with pytest.raises(UsageError, match="layer 1: already"):
        ssmlens.mimetic_(model, layers=(1,))


def test_forced_on_a_trained_mamba1_the_decay_starts_from_log_n(build, mixers):
    model = stale(build("ssmlens mamba"), lambda m: m.backbone.layers[0].mixer.A_log.normal_())
    ssmlens.mimetic_(model, force=True)
    wanted = [-8 * math.log(n) for n in range(1, 17)]
    assert mixers(model)[0].A_log[3].tolist() == pytest.approx(wanted)


def test_forced_on_a_negative_A_log_of_mamba2_it_still_refuses(build):
    model = stale(build("ssmlens mamba2"), lambda m: m.backbone.layers[1].mixer.A_log.sub_(5))
    with pytest.raises(UsageError, match="layer 1: A_log goes down to"):
        ssmlens.mimetic_(model, force=True)
    ssmlens.mimetic_(model, force=True, a_rule="constant")


@pytest.mark.parametrize(
    ("family", "config", "options", "told"),
    [
        (
            "ssmlens mamba2",
            {"ssm_cfg": {"dt_limit": (0.0, 0.5)}},
            {},
            r"\[0, 0.5\], which excludes",
        ),
        ("ssmlens mamba2", {"ssm_cfg": {"dt_limit": (2.0, 9.0)}}, {}, r"layer 0: Δ .* \[2, 9\]"),
        ("ssmlens mamba", {}, {"conv_scope": "bc", "components": ("conv",)}, "is for Mamba-2"),
        ("ssmlens mamba", {}, {"layers": (0, 2)}, "layer 2 is out of range: .* layers 0..1"),
        ("ssmlens mamba", {}, {"layers": (-1,)}, "layer -1 is out of range"),
        (
            "ssmlens mamba",
            {"attn_layer_idx": [1], "attn_cfg": {"num_heads": 1, "causal": True}},
            {"layers": (1,)},
            "layer 1 is attention, not a Mamba mixer; those are in layers 0",
        ),
        ("ssmlens mamba", {}, {"bc_mix": (1.0, -9.0), "bc_rescale": "identity"}, "positive weight"),
        ("ssmlens mamba", {}, {"components": ("A", "B")}, "components must be some of .*'B'"),
        ("ssmlens mamba", {}, {"c": 0.0}, "c must be positive"),
        ("ssmlens mamba", {}, {"c": math.nan}, "c must be positive"),
        ("ssmlens mamba", {}, {"a_rule": "reparam"}, "a_rule must be one of"),
        ("ssmlens mamba", {}, {"bc_rescale": "no"}, "bc_rescale must be one of"),
        ("ssmlens mamba", {}, {"conv_scope": "z"}, "conv_scope must be one of"),
        ("ssmlens mamba", {}, {"conv_scope": "x", "components": ("conv",)}, "'x' is for Mamba-2"),
        (
            "ssmlens mamba2",
            {},
            {"conv_layers": (2,)},
            "conv_layers: layer 2 is not among the layers",
        ),
        (
            "ssmlens mamba2",
            {},
            {"conv_layers": (0,), "layers": (1,)},
            "layer 0 is not among the layers",
        ),
        ("ssmlens mamba2", {}, {"conv_layers": (0,), "components": ("A",)}, "needs the component"),
        ("ssmlens mamba", {}, {"conv_layers": (0,)}, "needs the component 'conv'"),
        (
            *("ssmlens mamba2", {}, {"keep_conv_bias": True, "keep_conv_taps": True}),
            "keep_conv_bias must be false where keep_conv_taps is true",
        ),
        ("ssmlens mamba", {}, {"bc_mix": (0.0, 0.0)}, "bc_mix must be not both 0"),
        ("ssmlens mamba", {}, {"w_delta_scale": math.inf}, "w_delta_scale must be finite"),
    ],
)
def test_what_is_refused_leaves_the_model_alone(build, family, config, options, told):
    model = build(family, **config)
    before = state_of(model)
    with pytest.raises(UsageError, match=told) as caught:
        ssmlens.mimetic_(model, **options)
    assert "\n" not in str(caught.value)
    assert not changed(before, model)


def test_a_dt_limit_matters_to_delta_alone(build):
    model = build("ssmlens mamba2", ssm_cfg={"dt_limit": (0.0, 0.5)})
    ssmlens.mimetic_(model, components=("A", "BC", "conv"))


def test_tensor_parallel_mixers_are_refused(build, mixers):
    model = build("ssmlens mamba2")
    mixers(model)[1].process_group = object()
    with pytest.raises(UsageError, match=r"layer 1 is tensor-parallel \(process_group\)"):
        ssmlens.mimetic_(model)
