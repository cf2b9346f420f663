"""`MambaLM` with an attention mask: a row of a padded batch is what it is alone."""

import pytest
import torch

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM

ATTENTION = {"num_heads": 4, "num_heads_kv": 2, "rotary_emb_dim": 4, "d_conv": 3, "mlp_dim": 8}
LENGTH = {"layer": "LinearAttention", "nheads": 2, "normalise": "length", "bias": True}
STACKS = {
    "Mamba": {"ssm_cfg": {"d_state": 5, "bias": True}},
    "Mamba2": {"ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 4, "bias": True}},
    "Mamba2 with an MLP": {
        "ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 4, "d_ssm": 16},
        "d_intermediate": 16,
    },
    "Mamba3": {"ssm_cfg": {"layer": "Mamba3", "d_state": 6, "headdim": 4}},
    "LinearAttention": {"linear_attn_cfg": LENGTH | {"layer_idx": [0, 1, 2]}},
    "MambaLinearAttention": {
        "linear_attn_cfg": {"layer": "MambaLinearAttention", "layer_idx": [0, 1, 2], "bias": True}
    },
    "attention": {"attn_layer_idx": [0, 2], "attn_cfg": ATTENTION | {"causal": True}},
}
ROWS = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8, 2], [9]]
WIDTH = 12


def lm(stack):
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=16, n_layer=3, vocab_size=32, **STACKS[stack])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double()


def padded(side):
    """Tokens, mask, and where each row's tokens are."""
    ids, mask = torch.full((3, WIDTH), 31), torch.zeros(3, WIDTH, dtype=torch.long)
    spans = []
    for n, row in enumerate(ROWS):
        first = {"left": WIDTH - len(row), "right": 0, "both": 2}[side]
        spans.append(slice(first, first + len(row)))
        ids[n, spans[-1]] = torch.tensor(row)
        mask[n, spans[-1]] = 1
    return ids, mask, spans


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_padded_batch_is_its_rows_alone(stack, side):
    model = lm(stack)
    ids, mask, spans = padded(side)
    for given in (mask, mask.bool()):
        with torch.no_grad():
            logits = model(ids, attention_mask=given).logits
        assert logits.isfinite().all()
        for n, span in enumerate(spans):
            alone = model(torch.tensor([ROWS[n]])).logits[0]
            torch.testing.assert_close(logits[n, span], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stack", STACKS)
def test_a_recording_closes_under_a_mask(stack):
    model = lm(stack).float()
    ids, mask, spans = padded("left")
    with ssmlens.recording(model) as rec:
        model(ids, attention_mask=mask)
    for record in rec:
        assert record.closure_error < 1e-5
        for n, span in enumerate(spans):
            seen = record.attention_map[n, span, : span.start]
            assert not record.operands.x.isnan().any()
            if record.operands.kind == "softmax":
                assert not seen.any()


@pytest.mark.parametrize("stack", STACKS)
def test_a_mask_of_ones_changes_nothing(stack):
    model = lm(stack)
    ids = torch.tensor(ROWS[:1])
    torch.testing.assert_close(model(ids, torch.ones_like(ids)).logits, model(ids).logits)


def test_the_mask_is_like_the_tokens():
    with pytest.raises(UsageError, match=r"attention_mask has shape \(1, 3\), input_ids \(1, 9\)"):
        lm("Mamba")(torch.tensor(ROWS[:1]), torch.ones(1, 3))


def test_mixers_of_other_libraries_take_no_mask():
    model = lm("Mamba")
    model.backbone.layers[1].mixer = torch.nn.Identity()
    ids = torch.tensor(ROWS[:1])
    with pytest.raises(UsageError, match=r"layer 1 is run by torch\.nn.*, which takes no"):
        model(ids, torch.ones_like(ids))


@pytest.mark.parametrize("stack", STACKS)
def test_hidden_states_are_the_residual_stream(stack):
    model = lm(stack)
    ids, blocks = torch.tensor(ROWS[:1]), []
    for block in model.backbone.layers:
        block.register_forward_hook(lambda _, args, out: blocks.append(out[0] + out[1]))
    out = model(ids, output_hidden_states=True)
    assert model(ids).hidden_states is None
    assert len(out.hidden_states) == 4
    assert torch.equal(out.hidden_states[0], model.backbone.embedding(ids))
    assert all(map(torch.equal, out.hidden_states[1:3], blocks))
    assert torch.equal(model.lm_head(out.hidden_states[3]), out.logits)
    torch.testing.assert_close(model.backbone.norm_f(blocks[2]), out.hidden_states[3])


def test_hidden_states_are_those_of_transformers():
    from transformers import MambaConfig as TheirConfig
    from transformers import MambaForCausalLM

    torch.manual_seed(0)
    ours = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=16, ssm_cfg={"d_state": 4}))
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 16, "state_size": 4}
    theirs = MambaForCausalLM(TheirConfig(**shape)).eval()
    state = {n.replace("embedding.", "embeddings."): t for n, t in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=False)
    ids = torch.randint(0, 16, (2, 7))
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True).hidden_states
        got = ours(ids, output_hidden_states=True).hidden_states
        embedded = theirs.backbone.embeddings(ids)
    assert len(got) == len(
        expected
    )  # theirs: after block 0, after block 1, and that after the norm
    for one, two in zip(got, (embedded, expected[0], expected[2]), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
