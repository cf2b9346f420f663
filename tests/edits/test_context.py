"""`editing` itself: what it refuses, in one line, and that it leaves nothing behind."""

import pytest
import torch

import ssmlens
from ssmlens.edits import Ablate, Add, Apply, KnockOut, Scale, Set, Swap
from ssmlens.errors import UnsupportedModelError, UsageError

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])


@pytest.fixture(scope="module")
def mamba(tiny_model):
    return tiny_model("ssmlens Mamba2")


@torch.no_grad()
def logits(model, *edits, ids=IDS):
    with ssmlens.editing(model, list(edits)):
        return model(ids).logits


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks)
        for hook in kind.values()
    ]


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (Ablate(layer=3), "layer 3 is out of range: there are 3"),
        (Ablate(layer=-1), "layer -1 is out of range: there are 3"),
        (Ablate(layer=0, part="mlp"), "part is mixer or attention"),
        (Ablate(layer=0, part="attention"), "layer 0 is a block without softmax attention"),
        (Ablate(layer=0, what="mlp"), "layer 0 has no MLP"),
        (Ablate(layer=0, heads=8), "head 8 is out of range: there are 8"),
        (Ablate(layer=0, channels=32), "channel 32 is out of range: there are 32"),
        (Ablate(layer=0, how="resample"), "a batch of one has no other prompt"),
        (Ablate(layer=0, what="output", heads=0), "output has no heads to select"),
        (Scale(layer=0, what="beta", factor=2), "the mixer has no 'beta'; it has: delta, A, B, C"),
        (Scale(layer=0, what="B", factor=2, channels=0), "B has no channels to select"),
        (Scale(layer=0, what="B", factor=2, states=6), "state 6 is out of range: there are 6"),
        (Scale(layer=0, what="A", factor=2, tokens=1), "A has no tokens to select"),
        (Scale(layer=0, what="conv", factor=2, taps=4), "tap 4 is out of range: there are 4"),
        (
            Scale(layer=0, what="delta", factor=2, tokens=7),
            "token 7 is past the prompt, which has 7",
        ),
        (Ablate(layer=0, tokens=7), "token 7 is past the prompt, which has 7 tokens"),
        (KnockOut(layer=0, queries="0:8"), "query 0:8 is past the prompt, which has 7 tokens"),
        (KnockOut(layer=0, keys=-8), "key -8 is past the prompt, which has 7 tokens"),
        (KnockOut(layer=0, heads=9), "head 9 is out of range: there are 8"),
        (
            KnockOut(layer=0, mask=torch.ones(3, 3, dtype=torch.bool)),
            r"its mask is \[3, 3\], but the prompt has 7 tokens",
        ),
        (Set(layer=0, what="state", tokens=9, value=0), "token 9 is past the prompt"),
        (Set(layer=0, what="B", value=torch.zeros(5)), r"of shape \[5\] does not broadcast over B"),
        (Add(layer=0, vector=torch.zeros(5)), r"of shape \[5\] does not broadcast over output"),
        (Swap(layer=0, what="B", source=None), "source must be a recording or a tensor"),
        (Swap(layer=0, what="B", source=torch.zeros(5)), r"\[5\] does not fit B"),
        (Swap(layer=0, what="B", source=torch.zeros(2, 7, 2, 6)), "the source has 2 prompts, but"),
        (
            Apply(layer=0, what="B", function=lambda B: B[0]),
            r"its function returned \[7, 2, 6\] for",
        ),
        (Apply(layer=0, what="B", function=lambda B: None), "its function returned NoneType for"),
        (
            Apply(layer=0, what="matrix", tokens=1, function=lambda M, queries: M),
            "for the matrix, select entries inside the function",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_and_leaves_no_hook(mamba, edit, complaint):
    with pytest.raises(UsageError, match=complaint) as refused:
        logits(mamba, edit)
    said = str(refused.value)
    assert said.startswith(f"{edit.kind} layer={edit.layer}")
    assert "\n" not in said
    assert hooks_of(mamba) == []


def test_operands_that_a_recording_lacks(mamba, tiny_model):
    other = tiny_model("ssmlens LinearAttention")
    with torch.no_grad(), ssmlens.recording(other, 0) as rec:
        other(IDS)
    with pytest.raises(UsageError, match="swap layer=0 what=A: has no 'A'; it has: delta"):
        logits(mamba, Swap(layer=0, what="A", source=rec))
    with pytest.raises(UsageError, match="a recording has no mlp: pass a tensor"):
        logits(tiny_model("transformers JambaMambaMixer"), Swap(layer=0, what="mlp", source=rec))
    with pytest.raises(UsageError, match="layer 1 was not recorded"):
        logits(mamba, Swap(layer=1, what="B", source=rec))


def test_blocks_in_which_nothing_is_mixed(tiny_model):
    model = tiny_model("transformers NemotronHMamba2Mixer")
    for layer, what in ((1, "an MLP block"), (3, "a mixture of experts")):
        with pytest.raises(UsageError, match=f"layer={layer} .*is {what}: nothing is mixed"):
            logits(model, KnockOut(layer=layer, queries=3))
    assert not torch.equal(logits(model, Ablate(layer=1, what="block")), logits(model))
    assert hooks_of(model) == []


def test_attention_that_keeps_its_weights_to_itself(tiny_model):
    model = tiny_model("transformers JambaMambaMixer")
    model.set_attn_implementation("sdpa")
    with pytest.raises(UsageError, match="whose weights this model does not return"):
        logits(model, KnockOut(layer=1, queries=3))
    whole = logits(model)
    assert not torch.equal(logits(model, Ablate(layer=1)), whole)  # its output alone


def test_models_without_mixers():
    with (
        pytest.raises(UnsupportedModelError, match="no layer of Linear can be read"),
        ssmlens.editing(torch.nn.Linear(2, 2), []),
    ):
        pass


def test_editing_twice_at_once_is_refused_and_one_after_another_is_not(mamba):
    edit = Ablate(layer=0)
    with ssmlens.editing(mamba, edit):
        with (
            pytest.raises(UsageError, match="the model is already being edited"),
            ssmlens.editing(mamba, Ablate(layer=1)),
        ):
            pass
        with torch.no_grad():
            inside = mamba(IDS).logits
    assert torch.equal(logits(mamba, edit), inside)


def test_nothing_is_left_after_an_exception_of_any_kind(mamba):
    whole = logits(mamba)
    with pytest.raises(ZeroDivisionError):
        logits(mamba, Apply(layer=1, what="B", function=lambda B: 1 / 0))
    with pytest.raises(KeyboardInterrupt), ssmlens.editing(mamba, Ablate(layer=1)):
        raise KeyboardInterrupt
    assert hooks_of(mamba) == []
    assert torch.equal(logits(mamba), whole)
    assert torch.equal(
        logits(mamba, Ablate(layer=1)), logits(mamba, {"edit": "ablate", "layer": 1})
    )


def test_a_model_that_is_never_called_is_no_mistake(mamba):
    with ssmlens.editing(mamba, Ablate(layer=0, tokens=99)):
        pass


def test_knocking_out_an_edge_and_scaling_a_step_go_in_either_order(mamba):
    edits = [
        KnockOut(layer=1, queries=5, keys="1:3"),
        Scale(layer=1, what="delta", tokens="2:6", factor=1.5),
    ]
    both = logits(mamba, *edits)
    assert torch.equal(both, logits(mamba, *edits[::-1]))
    assert not torch.equal(both, logits(mamba, edits[0]))
    assert not torch.equal(both, logits(mamba, edits[1]))


def test_edits_of_one_stage_go_in_the_order_given(mamba):
    double, more = Scale(layer=1, what="output", factor=2), Add(layer=1, vector=1.0)
    assert not torch.equal(logits(mamba, double, more), logits(mamba, more, double))
    three = Scale(layer=1, what="output", factor=3), Scale(layer=1, what="output", factor=1 / 3)
    torch.testing.assert_close(logits(mamba, *three), logits(mamba))


def test_a_recording_shows_operands_before_the_edit_and_the_output_after_it(mamba):
    edits = [Scale(layer=1, what="delta", factor=2), Add(layer=1, vector=1.0)]
    with torch.no_grad(), ssmlens.recording(mamba) as plain:
        mamba(IDS)
    with torch.no_grad(), ssmlens.editing(mamba, edits), ssmlens.recording(mamba) as rec:
        mamba(IDS)
    assert torch.equal(rec[1].operands.delta, plain[1].operands.delta)
    assert not torch.equal(rec[1].call.output, plain[1].call.output)
    assert torch.equal(rec[0].call.output, plain[0].call.output)
    assert not torch.equal(rec[2].call.given.hidden, plain[2].call.given.hidden)


@pytest.mark.parametrize("family", ["ssmlens Mamba2", "ssmlens Mamba3", "ssmlens LinearAttention"])
def test_a_token_that_forgets_everything_cuts_all_edges_across_it(tiny_model, family):
    """Whatever else is done to the layer: a log decay of −∞ makes no NaN."""
    model = tiny_model(family)
    others = [
        KnockOut(layer=0, lags=2, queries=5),
        Scale(layer=0, what="state", tokens=4, factor=0.5),
    ]
    forget = Set(layer=0, what="log_decay", tokens=3, value=-float("inf"))
    wanted = logits(model, KnockOut(layer=0, queries="3:", keys=":3"))
    torch.testing.assert_close(logits(model, forget), wanted, rtol=1e-4, atol=1e-4)
    assert logits(model, forget, *others).isfinite().all()
