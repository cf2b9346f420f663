"""`recording`: nothing changes for the model, and what is recorded is what its mixers were given and gave."""

import dataclasses
import logging
import warnings

import pytest
import torch
from oracles import relative
from reference_scan import reference_scan
from torch import nn

import ssmlens
from ssmlens.adapters.find import find_mixers
from ssmlens.errors import SsmlensError, UnsupportedModelError, UsageError

FAMILIES = [
    "ssmlens Mamba",
    "ssmlens Mamba2",
    "transformers MambaMixer",
    "transformers Mamba2Mixer",
]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2]])


@pytest.fixture(params=FAMILIES)
def model(request, tiny_model):
    return tiny_model(request.param)


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_outputs_and_gradients_are_the_same_bit_for_bit(model):
    def run():
        model.zero_grad()
        logits = model(IDS).logits
        logits.square().sum().backward()
        return logits, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    logits, gradients = run()
    with ssmlens.recording(model):
        again, gradients_again = run()
    assert torch.equal(logits, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))


def test_what_is_recorded_is_what_each_mixer_was_given_and_gave(model):
    seen = []
    for site in find_mixers(model):
        site.module.register_forward_hook(
            lambda _, args, kwargs, out: seen.append(((*args, *kwargs.values())[0], out)),
            with_kwargs=True,
        )
    with ssmlens.recording(model) as rec:
        model(IDS)
    assert rec.layers == [0, 1, 2]
    assert len(rec) == 3
    for record, (hidden, output) in zip(rec, seen, strict=True):
        assert torch.equal(record.call.given.hidden, hidden)
        assert torch.equal(record.call.output, output)
        assert not record.call.output.requires_grad


def test_operands_are_the_adapters_and_close_in_float64(model):
    with ssmlens.recording(model) as rec:
        model(IDS)
    for record in rec:
        site, operands = record.call.site, record.operands
        with torch.no_grad():
            expected = site.adapter.project(site.module, record.call.given)
            exact = reference_scan(operands).float()
            again = site.adapter.finish(site.module, exact, operands)
        for field in dataclasses.fields(operands):
            got, wanted = getattr(operands, field.name), getattr(expected, field.name)
            assert (
                torch.equal(got, wanted)
                if isinstance(got, torch.Tensor)
                else type(got) is type(wanted)
            )
        assert not operands.delta.requires_grad
        assert relative(again, record.call.output) < 1e-5
        assert record.closure_error < 1e-5
        assert record.closure_error == float(record.closure.error.max())


def test_the_hooks_are_gone_afterwards(model):
    before = hooks(model)
    with ssmlens.recording(model):
        # Two on each mixer, on each block, and on the three modules around the blocks.
        assert len(hooks(model)) == len(before) + 2 * (3 + 3 + 3)
    assert hooks(model) == before


def test_the_hooks_are_gone_after_an_exception(model):
    with pytest.raises(ZeroDivisionError), ssmlens.recording(model):
        raise ZeroDivisionError
    assert not hooks(model)
    with pytest.raises(IndexError), ssmlens.recording(model):
        model(IDS + 1000)
    assert not hooks(model)


def test_a_later_forward_replaces_an_earlier_one(model):
    with ssmlens.recording(model) as rec:
        model(IDS)
        first = rec[1].operands
        model(IDS[:1, :4])
        assert rec[1].operands.delta.shape[:2] == (1, 4)
        assert first.delta.shape[:2] == (2, 9)
    assert rec.layers == [0, 1, 2]


def test_only_the_layers_asked_for(model):
    with ssmlens.recording(model, layers=[2, 0]) as rec:
        with pytest.raises(
            UsageError, match="layer 0 was not recorded; no layer is: call the model"
        ):
            rec[0]
        model(IDS)
    assert rec.layers == [0, 2]
    with pytest.raises(UsageError, match=r"layer 1 was not recorded; recorded are \[0, 2\]"):
        rec[1]
    with (
        pytest.raises(UsageError, match=r"layer 3 is out of range: .* layers 0\.\.2"),
        ssmlens.recording(model, layers=[3]),
    ):
        pass


@pytest.mark.parametrize("change", ["in place", "replaced"])
def test_weights_that_changed_since_are_noticed(tiny_model, change):
    model = tiny_model("ssmlens Mamba")
    with ssmlens.recording(model) as rec:
        model(IDS)
    kept = rec[0].operands
    mixer = model.backbone.layers[1].mixer
    if change == "in place":
        with torch.no_grad():
            mixer.in_proj.weight.mul_(2)
    else:
        mixer.in_proj.weight.data = 2 * mixer.in_proj.weight.detach()
    with pytest.raises(SsmlensError, match="layer 1: the weights have changed since the recording"):
        _ = rec[1].operands
    assert rec[0].operands is kept
    assert rec[2].closure_error < 1e-5


def test_what_a_mixer_really_put_out_decides_the_closure_error(tiny_model):
    model = tiny_model("transformers Mamba2Mixer")
    model.backbone.layers[1].mixer.register_forward_hook(lambda _, __, out: 1.5 * out)
    with ssmlens.recording(model) as rec:
        model(IDS)
    assert rec[0].closure_error < 1e-5
    assert rec[1].closure_error == pytest.approx(1 / 3, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES[2:])
def test_generate_records_the_prefill_and_says_so_once(tiny_model, caplog, family):
    model, ids = tiny_model(family), IDS + 10  # none of them the token that pads
    with ssmlens.recording(model) as rec:
        model(ids)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="ssmlens"):
        warnings.simplefilter("ignore")  # transformers' remarks on a model without a stop token
        with ssmlens.recording(model) as generating:
            made = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert made.shape == (2, 13)
    said = [r.getMessage() for r in caplog.records if r.name == "ssmlens"]
    assert len(said) == 1
    assert said[0].startswith("only the prefill is recorded: a cached step")
    for record, generated in zip(rec, generating, strict=True):
        torch.testing.assert_close(generated.operands.delta, record.operands.delta)
        assert generated.closure_error < 1e-5


@pytest.mark.parametrize("family", FAMILIES[2:])
def test_a_bare_cached_step_is_refused_by_name(tiny_model, family):
    model = tiny_model(family)
    with torch.no_grad():
        cache = model(IDS, use_cache=True).cache_params
        with (
            pytest.raises(UsageError, match=r"layer 0: a cached step \(cache_params\)"),
            ssmlens.recording(model),
        ):
            model(IDS[:, -1:], cache_params=cache, use_cache=True)
    assert not hooks(model)


def test_left_padding_is_recorded_with_its_mask(tiny_model):
    model, mask = tiny_model("transformers MambaMixer"), torch.ones_like(IDS)
    mask[0, :3] = 0
    with ssmlens.recording(model) as rec:
        model(IDS, attention_mask=mask, use_cache=False)
    assert all(record.closure_error < 1e-5 for record in rec)
    with ssmlens.recording(model) as alone:
        model(IDS[:1, 3:])
    torch.testing.assert_close(
        rec[0].operands.sequence(0).B[:, 3:], alone[0].operands.B, rtol=1e-4, atol=1e-6
    )


def test_inference_mode_and_autocast(model):
    with ssmlens.recording(model) as rec:
        with torch.inference_mode():
            model(IDS)
        assert all(record.closure_error < 1e-5 for record in rec)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            model(IDS)
    assert rec[0].call.autocast == torch.bfloat16
    assert all(record.closure_error < 5e-2 for record in rec)


def test_a_mixer_inside_another_module(tiny_model):
    inner = tiny_model("ssmlens Mamba2").backbone.layers[0].mixer

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = inner

        def forward(self, x):
            return self.mixer(x)

    with ssmlens.recording(model := Wrapped()) as rec:
        model(torch.randn(1, 7, 16))
    assert rec.layers == [0]
    assert rec[0].closure_error < 1e-5
    assert repr(rec[0]) == "LayerRecord(layer 0, ssmlens Mamba2, input (1, 7, 16))"


def test_other_models_are_refused_by_class_with_what_is_supported():
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(n_layer=1, n_embd=8, n_head=2, n_positions=16)
    for other in (nn.Transformer(8, 2, 1, 1, 8, batch_first=True), GPT2LMHeadModel(small)):
        with pytest.raises(UnsupportedModelError) as told, ssmlens.recording(other):
            pass
        assert type(other).__name__ in str(told.value)
        assert all(family in str(told.value) for family in FAMILIES)


def test_a_class_of_the_same_name_in_another_library_is_not_taken_for_ours():
    class Mamba2(nn.Module):
        pass

    Mamba2.__module__ = "their.library"
    with (
        pytest.raises(UnsupportedModelError, match=r"Sequential \(it has their\.library\..*Mamba2"),
        ssmlens.recording(nn.Sequential(Mamba2())),
    ):
        pass
