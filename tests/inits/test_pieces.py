"""Pieces of a block's weights and the controls that keep them, checked on rows cut by hand."""

import math

import pytest
import torch

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.inits.init import choose_mixers, inits
from ssmlens.inits.pieces import find_pieces, log_scale
from ssmlens.models.mamba_lm import MambaConfig, MambaLM


def make(second, seed=0, scale=0.0, n_layer=2):
    torch.manual_seed(seed)
    ssm_cfg = (
        {"d_state": 6, "layer": "Mamba2", "headdim": 8, "ngroups": 2} if second else {"d_state": 6}
    )
    model = MambaLM(MambaConfig(d_model=32, n_layer=n_layer, vocab_size=32, ssm_cfg=ssm_cfg))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def cut(model, layer, second):
    """The pieces of a layer by name: slices of the two mixers as mamba_ssm lays them out."""
    block = model.backbone.layers[layer]
    mixer = block.mixer
    in_proj = mixer.in_proj.weight
    pieces = {"norm": block.norm.weight, "out_proj": mixer.out_proj.weight, "D": mixer.D}
    pieces["conv bias"] = mixer.conv1d.bias
    if second:  # z, x (64 each), B, C (2 groups of 6), dt (8 heads)
        names, sizes = ("gate", "x", "B", "C", "dt"), (64, 64, 12, 12, 8)
        pieces |= dict(zip(names, in_proj.split(sizes), strict=True))
        conv = mixer.conv1d.weight.split((64, 12, 12))
        pieces |= dict(zip(("conv x", "conv B", "conv C"), conv, strict=True))
        return pieces | {"A": mixer.A_log, "dt bias": mixer.dt_bias, "norm in": mixer.norm.weight}
    names = ("x", "gate", "dt", "B", "C")
    rows = (*in_proj.split(64), *mixer.x_proj.weight.split((2, 6, 6)))
    pieces |= dict(zip(names, rows, strict=True)) | {"conv": mixer.conv1d.weight}
    pieces |= {"dt_proj": mixer.dt_proj.weight, "dt bias": mixer.dt_proj.bias}
    return pieces | {f"A {n}": mixer.A_log[:, n] for n in range(6)}


def rms(values):
    return float(values.detach().double().square().mean().sqrt())


MEMORY = {"dt", "dt_proj", "dt bias", "A", *(f"A {n}" for n in range(6))}


@pytest.mark.parametrize("second", [False, True])
def test_scale_is_the_mean_log_rms_of_the_matrices(second):
    model = make(second, 1, 0.3)
    site = choose_mixers(model)[1]
    pieces = cut(model, 1, second)
    if second:  # its view of the convolution is of all of it, beside those of B and C
        pieces["conv x"] = model.backbone.layers[1].mixer.conv1d.weight
    matrices = [p for name, p in pieces.items() if p.ndim > 1 and not name.startswith("A")]
    assert len(matrices) == (9 if second else 8)
    wanted = sum(math.log(rms(piece)) for piece in matrices) / len(matrices)
    assert log_scale(site) == pytest.approx(wanted)
    with torch.no_grad():
        model.backbone.layers[1].mixer.out_proj.weight.zero_()
    assert math.isnan(log_scale(site))


@pytest.mark.parametrize("second", [False, True])
def test_what_no_view_names_is_piece_0_and_nothing_else_is(second):
    model = make(second)
    site = choose_mixers(model)[1]
    pieces = find_pieces(model, site, lambda block, _: dict(block.named_parameters()))
    named = {name for name, numbers in pieces.numbers.items() if (numbers > 0).all()}
    unnamed = {name for name, numbers in pieces.numbers.items() if (numbers == 0).all()}
    norms = {"norm.weight", "mixer.norm.weight"} if second else {"norm.weight"}
    assert unnamed == norms | {"mixer.out_proj.weight"}
    assert named == set(pieces.numbers) - unnamed
    assert 0 not in pieces.memory


@pytest.mark.parametrize("second", [False, True])
def test_shuffled_keeps_the_values_of_every_piece(second):
    teacher, student = make(second, 1, 0.3), make(second)
    ssmlens.transplant_(student, teacher, 1, control="shuffled", seed=4)
    given, got = cut(teacher, 1, second), cut(student, 0, second)
    for name, piece in given.items():
        assert torch.equal(got[name].flatten().sort().values, piece.flatten().sort().values), name
        assert rms(got[name]) == pytest.approx(rms(piece), rel=1e-6), name
        if piece.numel() > 8:
            assert float((got[name] == piece).float().mean()) < 0.3, name
    old = make(second)
    ssmlens.transplant_(old, teacher, 1, shuffled=True, seed=4)
    for name, piece in cut(old, 1, second).items():
        assert torch.equal(piece, got[name]), name


@pytest.mark.parametrize("second", [False, True])
def test_gaussian_keeps_mean_and_rms_of_every_piece_and_no_value(second):
    teacher, student = make(second, 1, 0.3), make(second)
    with torch.no_grad():
        teacher.backbone.layers[1].norm.weight.fill_(1.5)
    ssmlens.transplant_(student, teacher, 1, control="gaussian", seed=4)
    given, got = cut(teacher, 1, second), cut(student, 0, second)
    for name, piece in given.items():
        assert rms(got[name]) == pytest.approx(rms(piece), rel=1e-5), name
        assert float(got[name].detach().double().mean()) == pytest.approx(
            float(piece.detach().double().mean()), abs=1e-6
        ), name
        if name != "norm":
            assert not (got[name] == piece).any(), name
    assert torch.equal(got["norm"], torch.full((32,), 1.5)), "what does not scatter stays"
    large = got["out_proj"].detach().double().flatten()
    excess = float(((large - large.mean()) ** 4).mean() / large.var(correction=0) ** 2) - 3
    assert abs(excess) < 5 * math.sqrt(24 / len(large))  # the fourth moment of a normal


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("control", ["memory-only", "memory-out"])
def test_memory_and_all_else(second, control):
    teacher, student = make(second, 1, 0.3), make(second)
    before = {name: piece.detach().clone() for name, piece in cut(student, 0, second).items()}
    ssmlens.transplant_(student, teacher, 1, control=control)
    given, got = cut(teacher, 1, second), cut(student, 0, second)
    for name in given:
        taken = (name in MEMORY) == (control == "memory-only")
        assert torch.equal(got[name], (given if taken else before)[name]), name


def test_a_control_of_a_scope():
    teacher, student = make(False, 1, 0.3), make(False)
    before = {name: p.clone() for name, p in student.named_parameters()}
    ssmlens.transplant_(student, teacher, 1, "ssm", control="memory-out")
    given, got = cut(teacher, 1, False), cut(student, 0, False)
    for name in ("B", "C", "conv"):
        assert torch.equal(got[name], given[name])
    assert torch.equal(
        student.backbone.layers[0].mixer.A_log, before["backbone.layers.0.mixer.A_log"]
    )
    assert torch.equal(
        student.backbone.layers[0].norm.weight, before["backbone.layers.0.norm.weight"]
    )
    with pytest.raises(UsageError, match="its bc has neither A_log nor weights of Δ"):
        ssmlens.transplant_(student, teacher, 1, "bc", control="memory-only")


def test_bad_controls():
    with pytest.raises(UsageError, match=r"control must be one of .*'noise'"):
        inits["transplant"](make(False), 0, control="noise")
    with pytest.raises(UsageError, match="shuffled does not go with control 'gaussian'"):
        inits["transplant"](make(False), 0, shuffled=True, control="gaussian")


def test_arms_of_controls():
    arm = inits["transplant"].arm
    assert arm("transplant", {"layer": 3, "control": "memory-out"}) == "memory-out 3"
    assert arm("transplant", {"layer": 3, "shuffled": True}) == "shuffled 3"
