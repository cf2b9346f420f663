"""RWKV-4's weights of tokens against the paper's sums in float64."""

import importlib.util

import numpy as np
import pytest
import torch
from oracles import relative

import ssmlens
from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.find import find_mixers

FAMILY = "transformers RwkvSelfAttention"
if importlib.util.find_spec("transformers.models.rwkv") is None:
    pytest.skip("not in this version", allow_module_level=True)


@pytest.fixture
def model(tiny_model):
    return tiny_model(FAMILY)


def recorded(model, ids):
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(ids, use_cache=False)
    return list(rec)


def ids_of(batch, tokens):
    torch.manual_seed(tokens)
    return torch.randint(0, 32, (batch, tokens))


def matrices(mixer, hidden):
    """exp(k_j − (i − 1 − j) w) and exp(k_i + u), each over their sum: Peng et al. 2023, eq. 16."""
    h = hidden.double()
    before = torch.nn.functional.pad(h, (0, 0, 1, -1))
    share = mixer.time_mix_key.double()
    k = (h * share + before * (1 - share)) @ mixer.key.weight.double().T
    w, u = mixer.time_decay.double().exp(), mixer.time_first.double()
    batch, tokens, heads = k.shape
    log = torch.full((batch, heads, tokens, tokens), -torch.inf, dtype=torch.double)
    for i in range(tokens):
        for j in range(i):
            log[:, :, i, j] = k[:, j] - (i - 1 - j) * w
        log[:, :, i, i] = k[:, i] + u
    return log.softmax(3)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 2), (1, 5), (3, 65)])
def test_the_matrices_are_those_of_the_sums(model, batch, tokens):
    heads = [0, 9, 15]
    for record in recorded(model, ids_of(batch, tokens)):
        o, call = record.operands, record.call
        with torch.no_grad():
            wanted = matrices(call.site.module, call.given.hidden)
            M = o.matrix(heads, (0, tokens), (0, tokens))
            mixed = torch.einsum("bhij,bjhp->bihp", wanted, o.x.double())
            assert relative(o(o.x), mixed) < 1e-5
        assert relative(M, wanted[:, heads]) < 1e-5
        rows = ssmlens.attention_map(o).sum(2)
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=1e-4, atol=1e-5)
        assert record.closure_error < 1e-5


@pytest.mark.parametrize("scale", [30.0, 200.0])
def test_keys_whose_exponentials_overflow_are_mixed_as_the_model_does(model, scale):
    site = find_mixers(model)[0]
    with torch.no_grad():
        site.module.key.weight.mul_(scale)
        hidden = torch.randn(2, 40, 16)
        given = MixerInput(hidden)
        operands = site.adapter.project(site.module, given)
        assert operands.finite
        again = site.adapter.finish(site.module, operands(operands.x), operands)
        output, _ = site.module(hidden)
        wanted = matrices(site.module, hidden)
    assert relative(again, output) < 1e-5
    assert relative(ssmlens.channel_maps(operands), wanted) < 1e-4


def test_a_decay_that_leaves_nothing_hides_no_write(model):
    """At w = e³ a token's weight for itself is e²⁰ times smaller than what it writes: no difference of the two."""
    site = find_mixers(model)[0]
    with torch.no_grad():
        site.module.time_decay.fill_(3.0)
        hidden = torch.randn(1, 30, 16)
        operands = site.adapter.project(site.module, MixerInput(hidden))
        output, _ = site.module(hidden)
        again = site.adapter.finish(site.module, operands(operands.x), operands)
    assert relative(again, output) < 1e-5


def test_the_models_own_halving_of_the_stream_is_followed(model):
    """In eval mode every second block halves what it hands on, and its layers' weights: a logit's terms still sum."""
    found = ssmlens.attribute(model, ids_of(1, 6), -1, 3)
    assert found.attrs["closure"] < 1e-5
    assert np.isfinite(found["value"]).all()


def test_a_norms_bias_on_the_stream_is_a_term(model):
    with torch.no_grad():
        model.rwkv.blocks[0].pre_ln.bias.copy_(torch.arange(16.0))
    found = ssmlens.attribute(model, ids_of(1, 6), -1, 3)
    (bias,) = found["value"].values[found["module"].values == "rwkv.blocks.0.pre_ln"]
    assert abs(bias) > 1e-4
    assert found["kind"].values[found["module"].values == "rwkv.blocks.0.pre_ln"] == ["bias"]


def test_bfloat16(tiny_model):
    for record in recorded(tiny_model(FAMILY).bfloat16(), ids_of(2, 33)):
        assert record.closure_error < 2e-2
