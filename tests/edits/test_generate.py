"""Edits under `generate`: what goes in and comes out at every step, what is inside in the prefill alone."""

import pytest
import torch

import ssmlens
from ssmlens.edits import Ablate, Add, KnockOut, Scale, Set
from ssmlens.errors import UsageError

IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [0, 0, 2, 6, 5, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
FAMILIES = ("transformers MambaMixer", "transformers Mamba2Mixer")


def generate(model, edits, rows=slice(None), **keywords):
    """The new tokens' logits [step batch vocabulary], and the tokens."""
    with ssmlens.editing(model, edits):
        out = model.generate(
            IDS[rows],
            attention_mask=MASK[rows],
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **keywords,
        )
    return torch.stack(out.logits), out.sequences


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny_model):
    model = tiny_model(request.param)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize(
    "edit",
    [
        Ablate(layer=1),
        Add(layer=1, vector=0.5, tokens="2:"),
        Add(layer=1, what="input", vector=0.5, tokens="-1:"),
        Scale(layer=0, what="residual", factor=2.0, tokens=[1, 5, 6, 7]),
        Scale(layer=2, what="block", factor=0.5, tokens="6:"),
    ],
    ids=str,
)
def test_edits_of_what_goes_in_and_comes_out_hold_at_every_step(model, edit):
    """As without a cache: the prompt with the tokens so far, anew at every step."""
    cached, tokens = generate(model, edit)
    assert not torch.allclose(cached, generate(model, [])[0])
    for row in range(2):
        whole = tokens[row : row + 1, IDS.shape[1] - int(MASK[row].sum()) :]
        prompt = int(MASK[row].sum())
        moved = edit
        if str(getattr(edit, "tokens", None)) == "-1:":  # counts back from the end of the prompt
            moved = Add(layer=1, what="input", vector=0.5, tokens=f"{prompt - 1}:")
        with torch.no_grad(), ssmlens.editing(model, moved):
            wanted = model(whole, use_cache=False).logits[0, prompt - 1 : -1]
        torch.testing.assert_close(cached[:, row], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "edit",
    [
        Scale(layer=1, what="delta", factor=2.0),
        KnockOut(layer=1, queries=3, keys=0),
        Set(layer=1, what="state", tokens=2, value=0),
        Ablate(layer=1, heads=0),
    ],
    ids=str,
)
def test_edits_inside_a_mixer_refuse_a_cached_step_by_name(model, edit):
    said = r"layer=1.*: it applies in the prefill, but this is a cached step: generate with use_cache=False"
    with pytest.raises(UsageError, match=said):
        generate(model, edit)
    rows = slice(0, 1)
    logits, tokens = generate(model, edit, rows, use_cache=False)
    with torch.no_grad(), ssmlens.editing(model, edit):
        wanted = model(tokens[:, :-1], use_cache=False).logits[0, IDS.shape[1] - 1 :]
    torch.testing.assert_close(logits[:, 0], wanted, rtol=1e-3, atol=1e-4)
