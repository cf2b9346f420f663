"""Forwards that begin at the first edited layer, against the whole edited forward: every family, to the bit."""

import pytest
import torch
from devices import DEVICE, runnable
from tiny_models import tiny_model_of

from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.blocks import find_blocks
from ssmlens.edits import Ablate, Add, KnockOut, Scale
from ssmlens.edits.context import editing
from ssmlens.edits.resume import UneditedRun
from ssmlens.errors import UsageError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

pytestmark = pytest.mark.device

FAMILIES = {adapters[path].family: adapters[path] for path in adapters}
HERE = runnable(FAMILIES)


@pytest.fixture(scope="module", params=HERE)
def family(request):
    adapter = FAMILIES[request.param]
    torch.manual_seed(0)
    return adapter, tiny_model_of(adapter).eval().to(DEVICE)


def call_of(adapter, mask=None):
    torch.manual_seed(1)
    ids = torch.randint(0, 32, (2, 13), device=DEVICE)
    kwargs = {} if mask is None else {"attention_mask": mask.to(DEVICE)}
    if "transformers" in adapter.family:
        kwargs["use_cache"] = False
    return ids, kwargs


def logits_of(output):
    return output.logits if hasattr(output, "logits") else output


def assert_same(model, ids, kwargs):
    unedited = UneditedRun(model, ids, **kwargs)
    with torch.no_grad():
        assert torch.equal(logits_of(unedited.output), logits_of(model(ids, **kwargs)))
        moved = []
        for block in find_blocks(model):
            if not block.sites:
                continue
            edit = Ablate(layer=block.layer)
            with editing(model, edit):
                wanted = logits_of(model(ids, **kwargs))
            got = logits_of(unedited.edited(edit))
            assert torch.equal(got, wanted), block.layer
            moved.append(not torch.equal(got, logits_of(unedited.output)))
        assert any(moved)
        assert torch.equal(logits_of(unedited.edited([])), logits_of(unedited.output))
        assert torch.equal(logits_of(model(ids, **kwargs)), logits_of(unedited.output))


def test_every_layer_ablated_alone_is_as_in_a_whole_forward(family):
    adapter, model = family
    assert_same(model, *call_of(adapter))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_stays_padding(family, side):
    adapter, model = family
    if "transformers" not in adapter.family:
        pytest.skip("takes no attention mask")
    mask = torch.ones(2, 13, dtype=torch.long)
    mask[0, :4] = 0
    assert_same(model, *call_of(adapter, mask if side == "left" else mask.flip(1)))


def tiny(layers=4):
    torch.manual_seed(0)
    return MambaLM(MambaConfig(d_model=16, n_layer=layers, vocab_size=32)).eval()


IDS = torch.randint(0, 32, (1, 9), generator=torch.Generator().manual_seed(2))


def test_layers_before_the_first_edited_one_do_not_run():
    model = tiny()
    ran = []
    for n, block in enumerate(model.backbone.layers):
        block.norm.register_forward_hook(lambda *_, n=n: ran.append(n))
        block.mixer.register_forward_hook(lambda *_, n=n: ran.append(n))
    unedited = UneditedRun(model, IDS)
    ran.clear()
    edits = [Scale(layer=3, what="delta", factor=2.0), KnockOut(layer=2, queries="4:", keys=":4")]
    with torch.no_grad():
        got = unedited.edited(edits).logits
    assert set(ran) == {2, 3}
    with torch.no_grad(), editing(model, edits):
        assert torch.equal(got, model(IDS).logits)


def test_hooks_of_ones_own_act_once():
    model = tiny()
    model.backbone.layers[0].register_forward_hook(lambda _, args, out: (out[0] * 2, *out[1:]))
    unedited = UneditedRun(model, IDS)
    edit = Ablate(layer=2)
    with torch.no_grad():
        got = unedited.edited(edit).logits
        with editing(model, edit):
            assert torch.equal(got, model(IDS).logits)


def test_gradients_reach_back_to_the_first_edited_layer():
    model = tiny()
    vector = torch.zeros(16, requires_grad=True)
    edit = Add(layer=2, what="residual", vector=vector)
    (got,) = torch.autograd.grad(UneditedRun(model, IDS).edited(edit).logits[0, -1, 5], vector)
    with editing(model, edit):
        (wanted,) = torch.autograd.grad(model(IDS).logits[0, -1, 5], vector)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(got, wanted)


def test_forwards_are_put_back_after_an_exception():
    model = tiny()
    unedited = UneditedRun(model, IDS)
    before = [dict(block.__dict__) for block in model.backbone.layers]
    with pytest.raises(UsageError, match="past the prompt"):
        unedited.edited(Ablate(layer=3, tokens=40))
    for block, kept in zip(model.backbone.layers, before, strict=True):
        assert block.__dict__.keys() == kept.keys()
        assert "forward" not in block.__dict__


def test_a_forward_that_somebody_replaced_comes_back():
    model = tiny()
    first = model.backbone.layers[0]
    own = first.forward
    first.forward = lambda *args: own(*args)
    replaced = first.forward
    unedited = UneditedRun(model, IDS)
    with torch.no_grad():
        unedited.edited(Ablate(layer=1))
    assert first.forward is replaced


def test_a_block_that_runs_twice_is_refused():
    model = tiny()
    first = model.backbone.layers[0]
    first.register_forward_pre_hook(lambda module, args: module.forward(*args) and None)
    with pytest.raises(UsageError, match="layer 0 ran 2 times in one forward, not 1"):
        UneditedRun(model, IDS)


def test_a_layer_out_of_range_is_refused():
    with pytest.raises(UsageError, match="layer 9 is out of range: there are 4"):
        UneditedRun(tiny(), IDS).edited(Ablate(layer=9))


def test_a_cache_is_refused():
    from transformers import DynamicCache, MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=5, num_hidden_layers=2)
    model, ids = MambaForCausalLM(config).eval().to(DEVICE), IDS.to(DEVICE)
    with pytest.raises(UsageError, match="cache_params now contains the state of this forward"):
        UneditedRun(model, ids, cache_params=DynamicCache(config=config), use_cache=True)
