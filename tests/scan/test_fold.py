"""Folded maps against the product of explicit float64 matrices, each made entry by entry from its definition."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F
from reference_scan import reference_channel_maps, reference_scan

from ssmlens.errors import UsageError
from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.decay_scan import ScanOperands
from ssmlens.scan.surroundings import Surroundings

FOLDS = ("conv", "gate", "skip")
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(FOLDS, n)]
SHAPES = [
    # batch, tokens, heads, headdim, A_state, groups, state
    (1, 1, 3, 1, 4, 1, 4),
    (2, 2, 2, 2, 1, 1, 3),
    (1, 3, 4, 1, 5, 2, 5),
    (3, 5, 4, 3, 1, 2, 2),
    (1, 37, 6, 2, 1, 3, 4),
    (2, 33, 5, 1, 4, 1, 4),
    # A_state 0: the decay depends on the data (Mamba-3)
    (2, 17, 4, 2, 0, 4, 3),
]
NORMS = {
    "none": {},
    "after the gate": {"norm_groups": 1},
    "in groups": {"norm_groups": 2},
    "before the gate": {"norm_groups": 1, "norm_before_gate": True},
}


def random_block(
    batch, tokens, heads, headdim, A_state, groups, state, *, norm="after the gate", taps=4,
    bias=True, activation=F.silu, D_width=1, mask=None,
) -> ScanOperands:  # fmt: skip
    """Operands of a random block; Δ spans three decades. `mask` zeroes x after the activation."""
    g = torch.Generator().manual_seed(tokens * 100 + heads)
    channels = heads * headdim
    u = torch.randn(batch, tokens, channels, generator=g)
    weight = torch.randn(channels, taps, generator=g)
    b = torch.randn(channels, generator=g) if bias else None
    x = activation(convolved(u, weight, b)).float()
    if mask is not None:
        x = x * mask.unsqueeze(2)
    delta = torch.exp(torch.empty(batch, tokens, heads).uniform_(-5, 2, generator=g))
    B, C = (torch.randn(batch, tokens, groups, state, generator=g) for _ in range(2))
    data = torch.rand(3, batch, tokens, heads, generator=g)
    D = torch.randn(heads, D_width, generator=g)
    gate = torch.randn(batch, tokens, channels, generator=g)
    norm_weight = None if norm == "none" else torch.rand(channels, generator=g) + 0.5
    if A_state:
        decay = {"A": -torch.exp(torch.empty(heads, A_state).uniform_(-2, 2, generator=g))}
    else:
        decay = {"A": None, "log_decay": -delta * data[0], "write": data[1], "write_now": data[2]}
    return ScanOperands(
        delta=delta,
        B=B,
        C=C,
        x=x.unflatten(2, (heads, headdim)),
        D=D,
        gate=gate,
        **decay,
        surroundings=Surroundings(
            u=u,
            conv_weight=weight,
            conv_bias=b,
            norm_weight=norm_weight,
            norm_eps=1e-2,  # large, so that it shows
            **NORMS[norm],
        ),
    )


def convolved(u, weight, bias):
    """The causal convolution in float64, token by token."""
    u, weight = u.double(), weight.double()
    v = torch.zeros_like(u)
    for t, k in itertools.product(range(u.shape[1]), range(weight.shape[1])):
        j = t + k + 1 - weight.shape[1]
        if j >= 0:
            v[:, t] += weight[:, k] * u[:, j]
    return v if bias is None else v + bias.double()


def by_definition(o, fold, slope=torch.sigmoid, mask=None):
    """Matrix and offset of every channel as explicit products: diag(r) (M + D) diag(s) K."""
    m = o.surroundings
    heads, headdim = o.x.shape[2:]
    channels, tokens = heads * headdim, o.tokens
    matrix = reference_channel_maps(o).repeat_interleave(headdim, dim=1)
    offset = matrix.new_zeros(o.batch, channels, tokens)
    skip = o.D.double().expand(heads, headdim).flatten()
    if "skip" in fold:
        matrix = matrix + skip[:, None, None] * torch.eye(tokens)
    if "conv" in fold:
        s = slope(convolved(m.u, m.conv_weight, m.conv_bias))
        s = (s if mask is None else s * mask.unsqueeze(2)).mT
        toeplitz = matrix.new_zeros(channels, tokens, tokens)
        last = m.conv_weight.shape[1] - 1
        for t, j in itertools.product(range(tokens), range(tokens)):
            if 0 <= t - j <= last:
                toeplitz[:, t, j] = m.conv_weight[:, last - (t - j)].double()
        matrix = matrix @ torch.diag_embed(s)
        if m.conv_bias is not None:
            offset = (matrix @ m.conv_bias.double()[:, None, None].expand(-1, tokens, 1))[..., 0]
        matrix = matrix @ toeplitz
    if "gate" in fold:
        z = o.gate.double() / (1 + torch.exp(-o.gate.double()))
        r = z
        if m.norm_weight is not None:
            y = reference_scan(o).flatten(2)  # with D x, folded or not: the norm saw it
            y = y if m.norm_before_gate else y * z
            part = y.reshape(o.batch, tokens, m.norm_groups, -1)
            rms = (part.square().mean(3, keepdim=True) + m.norm_eps).sqrt().expand_as(part)
            r = z * m.norm_weight.double() / rms.reshape(y.shape)
        matrix, offset = r.mT[..., None] * matrix, r.mT * offset
    return matrix, offset


def assert_near(got, wanted, tolerance=2e-6):
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert float((a.double() - b).norm()) <= tolerance * float(b.norm())


@pytest.mark.parametrize("fold", SUBSETS, ids="+".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_subset_equals_the_product_of_its_matrices(shape, fold):
    o = random_block(*shape)
    assert_near(channel_maps(o, fold=fold), by_definition(o, fold))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("taps", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_norms_taps_and_biases(norm, taps, bias):
    o = random_block(2, 9, 4, 3, 1, 2, 3, norm=norm, taps=taps, bias=bias, D_width=3)
    matrix, offset = channel_maps(o, fold=FOLDS)
    assert_near((matrix, offset), by_definition(o, FOLDS))
    assert bias == bool(offset.any())
    assert torch.equal(matrix, matrix.tril())


@pytest.mark.parametrize("fold", SUBSETS, ids="+".join)
def test_matrix_times_input_plus_offset_is_the_result(fold):
    """The forward itself, nonlinear, in float64: convolution, activation, scan, gate, norm."""
    o = random_block(2, 21, 4, 2, 1, 2, 3)
    matrix, offset = channel_maps(o, fold=fold)
    given = (o.surroundings.u if "conv" in fold else o.x.flatten(2)).double()
    y = reference_scan(o if "skip" in fold else dataclasses.replace(o, D=None)).flatten(2)
    if "gate" in fold:
        z = F.silu(o.gate.double())
        rms = ((reference_scan(o).flatten(2) * z).square().mean(2, keepdim=True) + 1e-2).sqrt()
        y = y * z * o.surroundings.norm_weight.double() / rms
    got = torch.einsum("bcij,bjc->bic", matrix.double(), given) + offset.mT
    assert_near([got], [y], 5e-6)


def test_the_order_of_folds_does_not_matter():
    o = random_block(1, 7, 2, 2, 1, 1, 3)
    wanted = channel_maps(o, fold=FOLDS)
    for order in itertools.permutations(FOLDS):
        for a, b in zip(channel_maps(o, fold=list(order)), wanted, strict=True):
            assert torch.equal(a, b)


def test_channels_are_those_of_d_ssm_in_the_order_asked_for():
    o = random_block(2, 11, 4, 3, 1, 2, 3, D_width=3)
    everything = channel_maps(o, fold=FOLDS)
    assert everything[0].shape == (2, 12, 11, 11)
    for a, b in zip(channel_maps(o, [11, 0, 4, 0], FOLDS), everything, strict=True):
        torch.testing.assert_close(a, b[:, [11, 0, 4, 0]])
    assert channel_maps(o, [], FOLDS)[1].shape == (2, 0, 11)


@pytest.mark.parametrize("channel", [-1, 12])
def test_a_channel_out_of_range_is_refused(channel):
    o = random_block(1, 3, 4, 3, 1, 1, 2)
    with pytest.raises(UsageError, match=rf"channel {channel} is out of range: 0\.\.11"):
        channel_maps(o, [channel], FOLDS)


def test_padding_on_the_left_is_cut_off_after_the_convolution():
    """x is zero at padding; u there still reaches the first real tokens through the taps, as in the mixer."""
    mask = torch.ones(2, 12)
    mask[0, :5] = 0
    o = random_block(2, 12, 3, 1, 4, 1, 4, mask=mask)
    matrix, offset = channel_maps(o, fold=FOLDS)
    assert_near((matrix, offset), by_definition(o, FOLDS, mask=mask))
    assert not matrix[0, :, :5].any()
    assert not offset[0, :, :5].any()
    assert matrix[0, :, 5:, 2:5].any()  # through the taps
    assert not matrix[0, :, :, :2].any()


def gelu_slope(v):
    return 0.5 * (1 + torch.erf(v / 2**0.5))


@pytest.mark.parametrize(
    ("activation", "slope"),
    [
        (F.gelu, gelu_slope),
        (F.relu, lambda v: (v > 0).double()),
        (lambda v: v, torch.ones_like),
    ],
)
def test_other_activations(activation, slope):
    o = random_block(1, 19, 3, 2, 1, 1, 3, activation=activation)
    assert_near(channel_maps(o, fold=FOLDS), by_definition(o, FOLDS, slope))


def test_a_convolution_of_zero_makes_a_column_of_zeros():
    o = random_block(1, 8, 2, 1, 3, 1, 3, bias=False, taps=1)
    u, x = o.surroundings.u.clone(), o.x.clone()
    u[:, 3], x[:, 3] = 0, 0
    o = dataclasses.replace(o, x=x, surroundings=dataclasses.replace(o.surroundings, u=u))
    matrix, offset = channel_maps(o, fold=FOLDS)
    assert matrix.isfinite().all()
    assert not offset.any()
    assert not matrix[..., 3].any()
    assert matrix[..., 4:, 4].any()


def test_nan_stays_in_its_sequence_and_channel():
    o = random_block(2, 9, 3, 1, 4, 1, 4, norm="none")
    u = o.surroundings.u.clone()
    u[1, 4, 2] = torch.nan
    o = dataclasses.replace(o, surroundings=dataclasses.replace(o.surroundings, u=u))
    matrix, _ = channel_maps(o, fold=FOLDS)
    assert matrix[1, 2, 4:].isnan().any()
    assert matrix[0].isfinite().all()
    assert matrix[1, :2].isfinite().all()


def test_float64_operands_give_float64_folds():
    o = random_block(1, 33, 4, 2, 1, 2, 3)
    x = F.silu(convolved(o.surroundings.u, o.surroundings.conv_weight, o.surroundings.conv_bias))
    o = dataclasses.replace(o.map(lambda t: t.double()), x=x.unflatten(2, (4, 2)))
    matrix, offset = channel_maps(o, fold=FOLDS)
    assert matrix.dtype == offset.dtype == torch.float64
    assert_near((matrix, offset), by_definition(o, FOLDS), 1e-12)


def test_bfloat16_around_the_scan_is_taken_as_it_was_rounded():
    """u, gate and weights in bfloat16, x rounded to it: the fold gives back that x, not a better one."""
    o = random_block(1, 13, 2, 2, 1, 1, 3)
    m = o.surroundings.map(lambda t: t.bfloat16())
    x = F.silu(convolved(m.u, m.conv_weight, m.conv_bias)).bfloat16().float()
    o = dataclasses.replace(o, x=x.unflatten(2, (2, 2)), gate=o.gate.bfloat16(), surroundings=m)
    matrix, offset = channel_maps(o, fold=["conv", "skip"])
    assert matrix.dtype == torch.float32
    got = torch.einsum("bcij,bjc->bic", matrix.double(), m.u.double()) + offset.mT
    assert_near([got], [reference_scan(o).flatten(2)], 2e-6)


def test_gradients_flow_where_the_operands_carry_them():
    o = random_block(1, 7, 2, 2, 1, 1, 3)
    bias = o.surroundings.conv_bias.requires_grad_()  # as a mixer's own parameter does
    assert not any(part.requires_grad for part in channel_maps(o, fold=FOLDS))
    delta, u, gate = (t.clone().requires_grad_() for t in (o.delta, o.surroundings.u, o.gate))
    live = dataclasses.replace(
        o, delta=delta, gate=gate, surroundings=dataclasses.replace(o.surroundings, u=u)
    )
    matrix, offset = channel_maps(live, fold=FOLDS)
    (matrix.sum() + offset.sum()).backward()
    for leaf in (delta, u, gate, bias):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()


@pytest.mark.parametrize("fold", [("convolution",), ("conv", "norm"), "conv"])
def test_an_unknown_fold_is_refused(fold):
    o = random_block(1, 3, 2, 1, 2, 1, 2)
    with pytest.raises(UsageError, match="fold is a list of any of conv, gate, skip, not"):
        channel_maps(o, fold=fold)


@pytest.mark.parametrize("missing", ["x", "surroundings"])
def test_operands_without_their_surroundings_are_refused(missing):
    o = dataclasses.replace(random_block(1, 3, 2, 1, 2, 1, 2), **{missing: None})
    with pytest.raises(UsageError, match=r"take them from ssmlens\.recording"):
        channel_maps(o, fold=["skip"])


def test_what_a_mixer_does_not_have_is_refused_by_name():
    o = random_block(1, 3, 2, 1, 2, 1, 2)
    no_norm = dataclasses.replace(o.surroundings, norm_weight=None)
    without = {
        "conv": dataclasses.replace(o, surroundings=Surroundings()),
        "gate": dataclasses.replace(o, gate=None, surroundings=no_norm),
        "skip": dataclasses.replace(o, D=None),
    }
    words = {"conv": "convolution", "gate": "gate", "skip": r"skip \(D\)"}
    for part, operands in without.items():
        with pytest.raises(UsageError, match=f"this mixer has no {words[part]}: leave '{part}'"):
            channel_maps(operands, fold=FOLDS)
        channel_maps(operands, fold=[other for other in FOLDS if other != part])


def test_a_sequence_keeps_its_own_surroundings():
    o = random_block(3, 9, 2, 2, 1, 1, 3)
    whole = channel_maps(o, fold=FOLDS)
    part = channel_maps(o.sequence(1, 6), fold=FOLDS)
    assert part[0].shape == (1, 4, 6, 6)
    torch.testing.assert_close(part[0][0], whole[0][1, :, :6, :6])
    torch.testing.assert_close(part[1][0], whole[1][1, :, :6])


def test_only_references_are_held_and_maps_drop_them():
    o = random_block(1, 4, 2, 2, 1, 1, 3)
    assert o.sequence(0).surroundings.u.data_ptr() == o.surroundings.u.data_ptr()
    assert o.bare().surroundings is None
    assert o.select_heads([1]).surroundings is None
    doubled = o.map(lambda t: t.double()).surroundings
    assert doubled.u.dtype == doubled.norm_weight.dtype == torch.float64
    assert (doubled.norm_eps, doubled.norm_groups) == (1e-2, 1)
