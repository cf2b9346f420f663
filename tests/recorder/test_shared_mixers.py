"""A mixer that blocks share, or that one calls twice: recorded call by call, edited in one block, or refused."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ssmlens
from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.find import find_mixers
from ssmlens.attribution.direct_path import trace
from ssmlens.edits import Ablate, Add, KnockOut, Scale
from ssmlens.edits.resume import UneditedRun
from ssmlens.effect.effects import effects
from ssmlens.errors import UnsupportedModelError, UsageError
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2]])
SHARED = "backbone.layers.2.mixer"


def mamba():
    torch.manual_seed(0)
    return MambaLM(MambaConfig(d_model=16, n_layer=3, vocab_size=32, ssm_cfg={"d_state": 4})).eval()


def tied(what):
    """A model whose blocks 0 and 2 have one mixer, or are one module; and its twin with two that are alike."""
    model = mamba()
    layers = model.backbone.layers
    if what == "mixer":
        layers[2].mixer = layers[0].mixer
    else:
        layers[2] = layers[0]
    twin = copy.deepcopy(model)
    part = copy.deepcopy(twin.backbone.layers[0])
    if what == "mixer":
        twin.backbone.layers[2].mixer = part.mixer
    else:
        twin.backbone.layers[2] = part
    return model, twin


class Twice(nn.Module):
    """Reads the tokens in both directions, with one mixer."""

    def __init__(self, mixer):
        super().__init__()
        self.inner = mixer

    def forward(self, x, *rest, **options):
        return self.inner(x) + self.inner(x.flip(1)).flip(1)


def twice(layer=1):
    model = mamba()
    model.backbone.layers[layer].mixer = Twice(model.backbone.layers[layer].mixer)
    return model


FIRST, LAST = (functools.partial(twice, layer) for layer in (0, 2))


class Looped(nn.Module):
    """Runs all its blocks twice."""

    def __init__(self):
        super().__init__()
        self.model = mamba()

    def forward(self, ids):
        h, residual = self.model.backbone.embedding(ids), None
        for _ in range(2):
            for block in self.model.backbone.layers:
                h, residual = block(h, residual)
        return self.model.lm_head(h + residual)


@pytest.fixture(params=["mixer", "block"])
def pair(request):
    return tied(request.param)


@torch.no_grad()
def test_every_block_is_listed_and_recorded_as_its_own(pair):
    model, twin = pair
    assert [block.kind for block in find_blocks(model)] == ["mamba"] * 3
    assert [block.mixer.name for block in find_blocks(model)][2] == SHARED
    assert len(find_mixers(model)) == 2
    with ssmlens.recording(twin) as wanted:
        expected = twin(IDS).logits
    for layers in (None, [2], [0], [0, 2]):
        with ssmlens.recording(model, layers) as rec:
            assert torch.equal(model(IDS).logits, expected)
            model(IDS)
        assert rec.layers == (layers or [0, 1, 2])
        for record in rec:
            other = wanted[record.layer]
            assert len(rec.calls(record.layer)) == 1
            assert torch.equal(record.call.given.hidden, other.call.given.hidden)
            assert torch.equal(record.attention_map, other.attention_map)
            assert record.closure_error < 1e-5
    assert not torch.equal(wanted[0].attention_map, wanted[2].attention_map)


@torch.no_grad()
def test_capture_stores_every_block_as_its_own(pair, tmp_path):
    model, twin = pair
    with (
        ssmlens.capture(model, IDS, tmp_path / "shared.h5") as got,
        ssmlens.capture(twin, IDS, tmp_path / "twin.h5") as wanted,
    ):
        assert got.layers == wanted.layers == (0, 1, 2)
        for layer in got.layers:
            one, other = got.layer(layer), wanted.layer(layer)
            assert one.verdict.believed
            assert (one.read("attention_map") == other.read("attention_map")).all()
    assert ssmlens.verify(tmp_path / "shared.h5") == []


@torch.no_grad()
@pytest.mark.parametrize(
    "edit",
    [
        Ablate(layer=2),
        Scale(layer=0, what="delta", factor=0.5),
        KnockOut(layer=2, queries=5, keys="1:3"),
        Add(layer=2, what="block", vector=1.0),
        Add(layer=0, what="residual", vector=1.0),
    ],
    ids=str,
)
def test_an_edit_is_of_the_block_that_it_names(pair, edit):
    model, twin = pair
    plain = twin(IDS).logits
    with ssmlens.editing(twin, edit):
        wanted = twin(IDS).logits
    with ssmlens.editing(model, edit):
        assert torch.equal(model(IDS).logits, wanted)
        assert torch.equal(model(IDS).logits, wanted)
    assert not torch.equal(wanted, plain)
    assert torch.equal(UneditedRun(model, IDS).edited(edit).logits, wanted)
    prompts = ssmlens.Prompts(IDS)
    got = effects(model, prompts, [edit], "kl").effect.values
    assert (got == effects(twin, prompts, [edit], "kl").effect.values).all()


@torch.no_grad()
def test_a_shared_mixer_of_transformers_needs_a_forward_without_cache(tiny_model):
    """With one, the model itself goes on from the state of the first block that has the mixer."""
    model = tiny_model("transformers MambaMixer")
    layers = model.backbone.layers
    layers[2].mixer = layers[0].mixer
    with (
        pytest.raises(
            UsageError, match=r"^layer 2: another block has the same mixer, .* use_cache=False$"
        ),
        ssmlens.recording(model),
    ):
        model(IDS)
    with ssmlens.recording(model) as rec:
        model(IDS, use_cache=False)
    assert rec.layers == [0, 1, 2]
    assert max(record.closure_error for record in rec) < 1e-5
    twin = copy.deepcopy(model)
    twin.backbone.layers[2].mixer = copy.deepcopy(twin.backbone.layers[0].mixer)
    with ssmlens.recording(twin) as wanted:
        twin(IDS, use_cache=False)
    for record in rec:
        assert torch.equal(record.attention_map, wanted[record.layer].attention_map)


@torch.no_grad()
def test_calls_are_numbered_and_none_is_taken_for_the_layers():
    model = twice()
    with ssmlens.recording(model) as rec:
        model(IDS[:1, :4])
        model(IDS)
    forward, backward = rec.calls(1)
    assert rec.layers == [0, 1, 2]
    assert torch.equal(forward.call.given.hidden.flip(1), backward.call.given.hidden)
    assert max(forward.closure_error, backward.closure_error) < 1e-5
    assert not torch.equal(forward.attention_map, backward.attention_map)
    with pytest.raises(
        UsageError, match=r"^layer 1: backbone\.layers\.1\.mixer\.inner ran 2 times"
    ):
        rec[1]
    with pytest.raises(UsageError, match=r"rec\.calls\(1\) has a record of each"):
        list(rec)
    with pytest.raises(UsageError, match="layer 7 was not recorded"):
        rec.calls(7)


@torch.no_grad()
@pytest.mark.parametrize("make", [FIRST, LAST, Looped])
def test_what_runs_twice_is_refused_by_capture_edits_and_attribution(make, tmp_path):
    model, out = make(), tmp_path / "run.h5"
    layer = 2 if make is LAST else 0
    for layers in (None, [layer]):
        with pytest.raises(UsageError, match=rf"^layer {layer}: .*mixer.* runs more than once"):
            ssmlens.capture(model, IDS, out, layers=layers)
    assert not list(tmp_path.iterdir())
    for edit in (Ablate(layer=layer), KnockOut(layer=layer, lags="1:")):
        with (
            pytest.raises(UsageError, match="runs more than once in a forward"),
            ssmlens.editing(model, edit),
        ):
            model(IDS)
    if not isinstance(model, Looped):
        with pytest.raises(UnsupportedModelError, match=r"layer \d: .* runs more than once"):
            trace(model, IDS[:1], 5, lambda logits: (0, None))


@torch.no_grad()
def test_a_model_with_hooks_is_run_once_and_its_second_call_is_refused_when_it_comes(tmp_path):
    model, seen = mamba(), []
    model.backbone.layers[0].register_forward_hook(lambda _, __, out: seen.append(out[0].shape))
    ssmlens.capture(model, IDS, tmp_path / "run.h5").close()
    assert seen == [(2, 9, 16)]
    model.backbone.layers[0].mixer = Twice(model.backbone.layers[0].mixer)
    with pytest.raises(UsageError, match=r"^layer 0: .* runs more than once"):
        ssmlens.capture(model, IDS, tmp_path / "twice.h5")


def test_attribution_of_one_module_in_two_blocks_is_refused():
    model, _ = tied("block")
    with pytest.raises(UnsupportedModelError, match="layers 0, 2 share one module"):
        trace(model, IDS[:1], 5, lambda logits: (0, None))


@torch.no_grad()
def test_blocks_called_by_hand():
    model, _ = tied("mixer")
    h, residual = model.backbone.embedding(IDS), None
    with ssmlens.recording(model) as rec:
        for _ in range(2):
            for block in model.backbone.layers:
                h, residual = block(h, residual)
    assert rec.layers == [0, 1, 2]
    assert max(record.closure_error for record in rec) < 1e-5


def test_a_forward_that_fails_leaves_no_count():
    model = mamba()
    broken = model.backbone.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with torch.no_grad(), ssmlens.recording(model) as rec:
        with pytest.raises(ZeroDivisionError):
            model(IDS)
        broken.remove()
        model(IDS)
        assert max(record.closure_error for record in rec) < 1e-5


class Checkpointed(nn.Module):
    """Runs every block again in the backward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        h = self.model.backbone.embedding(ids)
        residual = torch.zeros_like(h)
        for block in self.model.backbone.layers:
            h, residual = checkpoint(block, h, residual, use_reentrant=False)
        return self.model.lm_head(h + residual)


def test_blocks_that_autograd_runs_again_are_no_second_call():
    model = Checkpointed(mamba())
    with ssmlens.recording(model) as rec:
        model(IDS).sum().backward()
    assert [len(rec.calls(layer)) for layer in rec.layers] == [1, 1, 1]
    with ssmlens.editing(model, Scale(layer=1, what="delta", factor=0.5)):
        model(IDS).sum().backward()
    one = Checkpointed(tied("block")[0])
    with torch.no_grad(), ssmlens.recording(one) as wanted:
        one(IDS)
    with ssmlens.recording(one) as rec:
        one(IDS).sum().backward()
    for record in rec:  # also where the one module ran for the last block first
        assert torch.equal(record.call.output, wanted[record.layer].call.output)
    with (
        pytest.raises(UsageError, match="2 blocks share this module, and it runs outside"),
        ssmlens.editing(one, Ablate(layer=2)),
    ):
        one(IDS).sum().backward()


@torch.no_grad()
def test_a_copy_of_a_module_as_data_parallel_makes_it():
    """One copy alone is recorded as the module; a second one in the same forward is a second call."""
    model = mamba()

    def replica():
        twin = model._replicate_for_data_parallel()
        twin.__dict__["_modules"] = dict(model._modules)
        return twin

    with ssmlens.recording(model) as rec:
        replica()(IDS)
    assert max(record.closure_error for record in rec) < 1e-5

    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = model

        def forward(self, ids):
            return torch.cat([replica()(row[None]).logits for row in ids])

    with ssmlens.recording(parallel := Parallel()) as rec:
        parallel(IDS)
    with pytest.raises(UsageError, match=r"layer 0: module\.backbone.* ran 2 times in one forward"):
        rec[0]
