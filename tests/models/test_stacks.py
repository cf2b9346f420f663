"""Stacks of several mixers: no token sees a later one, and each is saved, loaded, captured, scored and initialised."""

import json
import types

import numpy as np
import pytest
import torch

import ssmlens
from ssmlens.adapters.blocks import block_kinds, find_blocks
from ssmlens.adapters.load import load_model
from ssmlens.errors import UsageError
from ssmlens.inits.init import inits
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.models.mamba_ssm_layout import files_of
from ssmlens.store import verify

MAMBA2 = {"layer": "Mamba2", "d_state": 6, "headdim": 4, "ngroups": 2}
ATTENTION = {"attn_layer_idx": [1], "attn_cfg": {"num_heads": 2, "causal": True}}
ALONE = {"layer": "LinearAttention", "layer_idx": [2], "nheads": 2, "normalise": "length"}
STACKS = {
    "Mamba-1": {},
    "Mamba-2": {"ssm_cfg": MAMBA2},
    "Mamba-3": {"ssm_cfg": {"layer": "Mamba3", "d_state": 6, "headdim": 4}},
    "attention": ATTENTION,
    "attention with everything": {
        "attn_layer_idx": [0, 1, 2],
        "attn_cfg": {
            "num_heads": 4,
            "num_heads_kv": 2,
            "causal": True,
            "d_conv": 3,
            "rotary_emb_dim": 2,
            "mlp_dim": 8,
        },
        "d_intermediate": 8,
    },
    "linear attention in a block": {"linear_attn_cfg": {"layer_idx": [0, 2], "d_state": 5}},
    "linear attention alone": {"linear_attn_cfg": ALONE},
    "linear attention, normalised": {"linear_attn_cfg": ALONE | {"normalise": "rms"}},
    "all three": {"ssm_cfg": MAMBA2, **ATTENTION, "linear_attn_cfg": ALONE},
}


@pytest.fixture(scope="module", params=STACKS)
def stack(request):
    return make(**STACKS[request.param])


def make(**options):
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=16, n_layer=3, vocab_size=16, **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def apart(model, tokens, changed):
    """How far each token's logits move when the token `changed` becomes another one."""
    ids = torch.randint(0, 16, (1, tokens), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[0, changed] = (other[0, changed] + 7) % 16
    with torch.no_grad():
        return (model(ids).logits - model(other).logits)[0].abs().amax(1)


@pytest.mark.parametrize(("tokens", "changed"), [(2, 1), (13, 7), (67, 65), (67, 40)])
def test_a_later_token_changes_nothing_before_it(stack, tokens, changed):
    moved = apart(stack, tokens, changed)
    assert not (moved[:changed] > 1e-6).any()
    assert moved[changed] > 1e-3


def test_attention_that_is_not_causal_leaks():
    model = make(**ATTENTION)
    model.backbone.layers[1].mixer.causal = False
    assert (apart(model, 13, 7)[:7] > 1e-3).all()


def test_a_saved_stack_is_loaded_and_captured(stack, cli, tmp_path):
    folder, out = tmp_path / "model", tmp_path / "run.h5"
    folder.mkdir()
    for name, data in files_of(stack).items():
        (folder / name).write_bytes(data)
    ids = torch.randint(0, 16, (2, 21))
    loaded = load_model(folder)
    assert loaded.config == stack.config
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, stack(ids).logits)
        outputs = {}
        for i, block in enumerate(stack.backbone.layers):
            block.mixer.register_forward_hook(lambda m, a, o, i=i: outputs.update({i: (m, a[0])}))
        stack(ids)
    kinds = ["attention" if i in stack.config.attn_layer_idx else "mamba" for i in range(3)]
    assert block_kinds(stack) == kinds
    attending = [block.layer for block in find_blocks(stack) if block.attention]
    assert attending == stack.config.attn_layer_idx
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in ids.tolist()))
    said = cli("capture", "--model", folder, "--prompts", prompts, "--out", out, "--json")
    assert said.code == 0, said.err
    errors = said.json["closure_error"]
    assert {int(i) for i in errors} == set(range(len(kinds)))
    assert all(error < 1e-5 for error in errors.values())
    with ssmlens.open_capture(out) as captured:
        assert captured.block_kinds == kinds
        for i, (mixer, hidden) in outputs.items():
            kept = captured.layer(i).read("attention_map")
            if kinds[i] == "attention":
                np.testing.assert_allclose(kept.sum(2), 1, rtol=1e-5)
            elif i in stack.config.linear_attn_cfg.get("layer_idx", ()):
                wanted = linear_map(hidden, mixer)
                np.testing.assert_allclose(kept, wanted, rtol=1e-4, atol=1e-4 * wanted.max())
                ones = np.tril(np.ones((21, 21)))
                assert (captured.layer(i).read("attention_mask") == ones).all()
        assert sorted(row.layer for row in ssmlens.rank_layers(captured)) == [0, 1, 2]
    assert verify(out) == []


def test_mamba_ssms_own_model_is_written_the_same():
    """Its config has the same values and no `to_dict`."""
    model = make(**ATTENTION)
    ours = files_of(model)
    model.config = types.SimpleNamespace(**model.config.to_dict())
    assert files_of(model) == ours
    assert set(ours) == {"config.json", "model.safetensors"}


@torch.no_grad()
def linear_map(hidden, mixer):
    """Mean over heads of the lower triangle of q kᵀ, from the module's own layers."""
    if hasattr(mixer, "conv1d"):
        u, _ = mixer.in_proj(hidden).chunk(2, dim=2)
        x = torch.nn.functional.silu(mixer.conv1d(u.mT)[..., : hidden.shape[1]].mT)
        k, q = (part.unsqueeze(2) for part in mixer.x_proj(x).chunk(2, dim=2))
    else:
        width = mixer.nheads * mixer.d_state
        made = mixer.in_proj(hidden).split([mixer.d_model, width, width], dim=2)
        k, q = (part.unflatten(2, (mixer.nheads, -1)) for part in made[1:])
    weights = torch.einsum("bihn,bjhn->bij", q, k).tril() / k.shape[2]
    if getattr(mixer, "normalise", "none") == "length":
        weights = weights / torch.arange(1, hidden.shape[1] + 1)[:, None]
    return weights.numpy()


def test_a_stack_is_drawn_anew_and_made_mimetic_where_it_is_mamba():
    model = make(**STACKS["all three"])
    inits["mamba-ssm"]().apply_(model)
    linear = model.backbone.layers[2].mixer
    bound = (3 * 16) ** -0.5  # three blocks, one residual each
    assert 0.9 * bound < linear.out_proj.weight.abs().max() <= bound
    with pytest.raises(UsageError, match="layer 2 is ssmlens LinearAttention"):
        ssmlens.mimetic_(model)
    ssmlens.mimetic_(model, layers=(0,))


def test_drawn_as_the_rest_of_the_model():
    torch.manual_seed(0)
    cfg = {"layer_idx": [0], "bias": True, "d_state": 64}
    model = MambaLM(MambaConfig(d_model=128, n_layer=4, vocab_size=16, linear_attn_cfg=cfg))
    mixer = model.backbone.layers[0].mixer
    for layer, depth in ((mixer.in_proj, 1), (mixer.x_proj, 1), (mixer.out_proj, 4)):
        expected = (3 * layer.weight.shape[1] * depth) ** -0.5
        assert abs(layer.weight.std() / expected - 1) < 0.03
    assert not mixer.in_proj.bias.any()
    assert not mixer.out_proj.bias.any()
    assert mixer.conv1d.bias.any()
