"""Edits around the mixer: the residual stream, what a block or its MLP adds, attention beside it, shared modules."""

import copy

import pytest
import torch

import ssmlens
from ssmlens.edits import Ablate, Add, Apply, KnockOut, Scale, Set, Swap

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])
# Families, and a block of each that has an MLP.
WITH_MLP = {
    "transformers JambaMambaMixer": 0,
    "transformers GraniteMoeHybridMambaLayer": 1,
    "transformers FalconH1Mixer": 1,
    "transformers ZambaMambaMixer": 2,
}


@torch.no_grad()
def logits(model, *edits):
    with ssmlens.editing(model, list(edits)):
        return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("family", WITH_MLP)
def test_a_block_that_is_ablated_puts_out_what_it_got(tiny_model, family):
    model, layer = tiny_model(family), WITH_MLP[family]
    block, seen = model.model.layers[layer], []

    def keep(module, args, keywords):
        seen.append(args[0] if args else keywords["hidden_states"])

    def skip(module, args, output):
        return (seen[-1], *output[1:]) if isinstance(output, tuple) else seen[-1]

    handles = [
        block.register_forward_pre_hook(keep, with_kwargs=True),
        block.register_forward_hook(skip),
    ]
    wanted = logits(model)
    for handle in handles:
        handle.remove()
    assert not torch.allclose(wanted, logits(model))
    torch.testing.assert_close(logits(model, Ablate(layer=layer, what="block")), wanted)


@pytest.mark.parametrize("family", WITH_MLP)
def test_what_an_mlp_puts_out_is_edited_once(tiny_model, family):
    """Also where it is a sum of several modules: what is added to it is added to the block's output, once."""
    model, layer = tiny_model(family), WITH_MLP[family]
    if "Zamba" in family:
        pytest.skip("its MLP is before a projection, not at the end of the block")
    scale = getattr(model.config, "residual_multiplier", 1.0)
    on_mlp = logits(model, Add(layer=layer, what="mlp", vector=0.3, tokens="2:"))
    on_block = logits(model, Add(layer=layer, what="block", vector=0.3 * scale, tokens="2:"))
    torch.testing.assert_close(on_mlp, on_block)
    assert not torch.equal(on_mlp, logits(model))
    zero = logits(model, Ablate(layer=layer, what="mlp"))
    torch.testing.assert_close(zero, logits(model, Set(layer=layer, what="mlp", value=0.0)))
    assert not torch.equal(zero, logits(model))
    torch.testing.assert_close(
        logits(model, Scale(layer=layer, what="mlp", factor=1)), logits(model)
    )


@pytest.mark.parametrize("family", ["transformers JambaMambaMixer", "ssmlens Mamba"])
def test_the_stream_before_a_block_and_what_the_one_before_it_adds(tiny_model, family):
    """The stream is summed: adding to it before a block is adding to what the block before adds."""
    model = tiny_model(family)
    keywords = {"use_cache": False} if "transformers" in family else {}
    vector = torch.linspace(-1, 1, 16)

    @torch.no_grad()
    def edited(*edits):
        with ssmlens.editing(model, list(edits)):
            return model(IDS, **keywords).logits

    before = edited(Add(layer=2, what="residual", vector=vector, tokens=[1, 4]))
    added = edited(Add(layer=1, what="block", vector=vector, tokens=[1, 4]))
    torch.testing.assert_close(before, added)
    assert not torch.equal(before, edited())
    same = [Scale(layer=layer, what="residual", factor=1) for layer in range(3)]
    torch.testing.assert_close(edited(*same), edited())
    first = edited(Set(layer=0, what="residual", value=0.0))
    assert torch.equal(first[0], first[1])  # nothing is left of the tokens


@pytest.fixture(
    scope="module", params=["transformers FalconH1Mixer", "transformers ZambaMambaMixer"]
)
def beside(request, tiny_model):
    model = tiny_model(request.param)
    model.set_attn_implementation("eager")
    return model, 1 if "Falcon" in request.param else 2


def test_attention_beside_a_mixer_is_edited_by_its_own_name(beside):
    model, layer = beside
    whole = logits(model)
    attention = logits(model, Ablate(layer=layer, part="attention"))
    mixer = logits(model, Ablate(layer=layer))
    assert len({tuple(x.flatten().tolist()) for x in (whole, attention, mixer)}) == 3


def test_shared_attention_is_edited_in_the_block_that_is_named(tiny_model):
    model = tiny_model("transformers ZambaMambaMixer")
    whole, here, there = (
        logits(model, *edits)
        for edits in ([], [Ablate(layer=2, part="attention")], [Ablate(layer=4, part="attention")])
    )
    both = logits(model, Ablate(layer=2, part="attention"), Ablate(layer=4, part="attention"))
    assert len({tuple(x.flatten().tolist()) for x in (whole, here, there, both)}) == 4


def test_edges_of_attention_in_hybrids_equal_its_masked_weights(tiny_model):
    """Jamba: what the module puts out without an edge is o_proj of the weights without it, padded on the left too."""
    model = tiny_model("transformers JambaMambaMixer")
    model.set_attn_implementation("eager")
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    with torch.no_grad(), ssmlens.recording(model, 1) as plain:
        model(IDS, attention_mask=mask, use_cache=False)
    edits = [
        KnockOut(layer=1, queries=3, keys="1:3", heads=0),
        KnockOut(layer=1, queries=2, keys=0),
        Scale(layer=1, what="x", tokens=1, factor=2.0),
        Apply(layer=1, what="matrix", function=lambda M, queries: 0.5 * M, heads=1),
    ]
    with torch.no_grad(), ssmlens.editing(model, edits), ssmlens.recording(model, 1) as rec:
        model(IDS, attention_mask=mask, use_cache=False)
    weights, x = plain[1].operands.weights.clone(), plain[1].operands.x.clone()
    for row, first in ((0, 3), (1, 0)):
        weights[row, 0, first + 3, first + 1 : first + 3] = 0
        weights[row, :, first + 2, first] = 0
        weights[row, 1, first:] *= 0.5
        x[row, first + 1] *= 2
    y = torch.einsum("bhij,bjhp->bihp", weights, x).flatten(2)
    wanted = plain[1].call.site.module.o_proj(y)
    got, real = rec[1].call.output, mask.bool()
    torch.testing.assert_close(got[real], wanted[real])
    assert not torch.allclose(got[real], plain[1].call.output[real])


def test_values_of_attention_beside_a_mixer_come_from_its_own_record(beside):
    model, layer = beside
    with torch.no_grad(), ssmlens.recording(model, layer) as rec:
        model(IDS.flip(0), use_cache=False)
    swap = Swap(layer=layer, part="attention", what="output", source=rec)
    alone = Swap(layer=layer, part="attention", what="output", source=rec.softmax_attention[layer])
    swapped = logits(model, swap)
    assert torch.equal(swapped, logits(model, alone))
    assert not torch.equal(swapped, logits(model))
    mixer = Swap(layer=layer, what="output", source=rec)
    assert torch.equal(
        logits(model, mixer), logits(model, Swap(layer=layer, what="output", source=rec[layer]))
    )


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_block_of_mixer_alone_that_is_ablated_is_as_if_it_were_not_there(tiny_model, layer):
    """Where the stream is handed on beside what a block adds, too."""
    model = tiny_model("ssmlens Mamba")
    shorter = copy.deepcopy(model)
    del shorter.backbone.layers[layer]
    with torch.no_grad():
        wanted = shorter(IDS).logits
        for what in ("block", "output"):
            with ssmlens.editing(model, Ablate(layer=layer, what=what)):
                torch.testing.assert_close(model(IDS).logits, wanted)


def test_edits_of_mlps_and_blocks_that_change_nothing_change_no_bit(tiny_model):
    for family in WITH_MLP:
        model, layer = tiny_model(family), WITH_MLP[family]
        edits = [Scale(layer=layer, what=what, factor=1) for what in ("mlp", "block", "residual")]
        assert torch.equal(logits(model, *edits), logits(model))
