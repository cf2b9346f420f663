"""LFM's gated short convolutions: their matrices from the weights in float64, and their biases."""

import pytest
import torch
from oracles import relative
from tiny_models import tiny_model_of

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.short_conv_shared import ShortConvAdapter
from ssmlens.edits import KnockOut, Scale
from ssmlens.errors import UsageError

FAMILIES = {
    adapter.family: adapter
    for adapter in map(adapters.__getitem__, adapters)
    if isinstance(adapter, ShortConvAdapter)
}


def spread(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=FAMILIES)
def model(request):
    adapter = FAMILIES[request.param]
    torch.manual_seed(0)
    return spread(tiny_model_of(adapter))


@pytest.fixture
def biased(model):
    """The same family with biases of in_proj, convolution and out_proj, which no published model has."""
    model.config.conv_bias = True
    torch.manual_seed(1)
    return spread(type(model)(model.config))


def ids_of(batch, tokens):
    torch.manual_seed(tokens)
    return torch.randint(3, 32, (batch, tokens))


def recorded(model, ids, **keywords):
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(ids, use_cache=False, **keywords)
    return [r for r in rec if isinstance(r.call.site.adapter, ShortConvAdapter)]


def matrices(record):
    """M of every channel from the layer's input and weights: C_i κ_{i−j} B_j."""
    mixer, hidden = record.call.site.module, record.call.given.hidden.double()
    weight, bias = mixer.in_proj.weight.double(), mixer.in_proj.bias
    projected = hidden @ weight.T + (0 if bias is None else bias.double())
    width = mixer.conv.in_channels
    B, C = projected[..., :width], projected[..., width : 2 * width]
    kernel = mixer.conv.weight[:, 0].double().flip(1)
    batch, tokens = hidden.shape[:2]
    M = torch.zeros(batch, width, tokens, tokens, dtype=torch.double)
    for i in range(tokens):
        for lag in range(min(i + 1, kernel.shape[1])):
            M[:, :, i, i - lag] = C[:, i] * kernel[:, lag] * B[:, i - lag]
    return M


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 2), (1, 5), (3, 65)])
def test_the_matrices_are_those_of_the_weights(model, batch, tokens):
    heads = [0, 3, 15]
    for record in recorded(model, ids_of(batch, tokens)):
        with torch.no_grad():
            wanted = matrices(record)
            M = record.operands.matrix(heads, (0, tokens), (0, tokens))
        assert relative(M, wanted[:, heads]) < 1e-5
        assert relative(ssmlens.attention_map(record.operands), wanted.mean(1)) < 1e-5


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 5, 64, 65])
def test_with_biases_too_the_output_is_what_the_mixer_puts_out(biased, batch, tokens):
    ids = ids_of(batch, tokens)
    mask = torch.ones_like(ids)
    mask[0, : tokens // 2] = 0
    for options in ({}, {"attention_mask": mask}):
        for record in recorded(biased, ids, **options):
            assert record.operands.offset is not None
            assert record.closure_error < 1e-5


def test_the_bias_of_the_convolution_is_a_term_of_a_logit(biased):
    found = ssmlens.attribute(biased, ids_of(1, 7), -1, 5)
    labels = list(found["term"].values)
    assert "0 convolution convolution bias" in labels
    assert "0 convolution bias" in labels
    with torch.no_grad():
        wanted = biased(ids_of(1, 7), use_cache=False).logits[0, -1, 5]
    assert float(found["value"].sum()) == pytest.approx(float(wanted), rel=1e-4, abs=1e-4)


def test_a_gate_that_changes_changes_what_the_bias_adds(biased):
    (record, *_) = recorded(biased, ids_of(2, 6))
    mixer = record.call.site.module
    with torch.no_grad():
        _, C, _ = mixer.in_proj(record.call.given.hidden).chunk(3, dim=2)
        with ssmlens.editing(biased, [Scale(layer=0, what="B", factor=0)]):
            (edited, *_) = recorded(biased, ids_of(2, 6))
        wanted = mixer.out_proj(C * mixer.conv.bias)
    torch.testing.assert_close(edited.call.output, wanted, rtol=1e-4, atol=1e-5)


def test_a_tap_that_is_scaled_to_0_is_a_lag_knocked_out(model):
    ids = ids_of(2, 9)
    edits = [
        Scale(layer=0, what="taps", taps=1, factor=0),
        KnockOut(layer=0, lags=1),
    ]
    with torch.no_grad():
        plain = model(ids, use_cache=False).logits
        results = []
        for edit in edits:
            with ssmlens.editing(model, [edit]):
                results.append(model(ids, use_cache=False).logits)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert relative(results[0], plain) > 1e-3


def test_it_has_no_convolution_before_its_scan(model):
    edit = Scale(layer=0, what="conv", taps=1, factor=0)
    with (
        pytest.raises(UsageError, match="its taps are M itself; knock out lags, or edit 'taps'"),
        ssmlens.editing(model, [edit]),
    ):
        model(ids_of(1, 4))


def test_bfloat16(model):
    for record in recorded(model.bfloat16(), ids_of(2, 33)):
        assert record.closure_error < 2e-2
