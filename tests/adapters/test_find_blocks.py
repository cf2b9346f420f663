"""What the blocks of hybrids are, and where their attention is."""

import pytest
from mixers import build_mixer
from torch import nn

from ssmlens.adapters.blocks import block_kinds, find_blocks
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

# What the configurations of the families' tiny models ask for, block by block.
KINDS = {
    "ssmlens Mamba": "mamba mamba mamba",
    "transformers BailingHybridDeltaAttention": "delta_rule attention delta_rule",
    "transformers BambaMixer": "mamba attention mamba",
    "transformers FalconH1Mixer": "mamba+attention mamba+attention mamba+attention",
    "transformers Glm5NextTextLinearAttention": "delta_rule attention delta_rule",
    "transformers GraniteMoeHybridMambaLayer": "mamba attention mamba",
    "transformers JambaMambaMixer": "mamba attention mamba",
    "transformers KimiLinearDeltaAttention": "delta_rule attention delta_rule",
    "transformers NemotronHMamba2Mixer": "mamba mlp attention moe mamba",
    "transformers OlmoHybridGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen3NextGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen3_5GatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen3_5MoeGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers Qwen4ExpTextGatedDeltaNet": "delta_rule attention delta_rule",
    "transformers ZambaMambaMixer": "mamba mamba mamba+attention mamba mamba+attention",
    "transformers Zamba2MambaMixer": "mamba mamba+attention mamba",
}
ATTENTION = {"num_heads": 2, "causal": True}


def attention_of(model):
    """The softmax attention of every block that has any, in order."""
    return [block.attention for block in find_blocks(model) if block.attention]


@pytest.fixture
def model(request, tiny_model):
    return tiny_model(request.param)


@pytest.mark.parametrize(("model", "kinds"), KINDS.items(), indirect=["model"])
def test_kinds_and_places_of_the_attention(model, kinds):
    assert block_kinds(model) == [kind.replace("_", " ") for kind in kinds.split()]
    sites = attention_of(model)
    assert [s.layer for s in sites] == [
        i for i, kind in enumerate(kinds.split()) if "attention" in kind
    ]
    for site in sites:
        assert type(site.module).__name__.endswith("Attention")
        latent = "Glm5" in type(site.module).__name__  # its queries are made by way of a low rank
        assert hasattr(site.module, "q_a_proj" if latent else "q_proj")
        assert model.get_submodule(site.name) is site.module
        assert f".{site.layer}." in site.name


def test_a_hybrid_of_mamba_ssms_layout():
    config = MambaConfig(
        d_model=8, n_layer=4, vocab_size=8, attn_layer_idx=[0, 2], attn_cfg=ATTENTION
    )
    model = MambaLM(config)
    assert block_kinds(model) == ["attention", "mamba", "attention", "mamba"]
    first, second = attention_of(model)
    assert (first.name, second.layer) == ("backbone.layers.0.mixer", 2)
    assert first.module is model.backbone.layers[0].mixer
    assert first.adapter.needs_weights(first.module)
    assert first.adapter.unreadable(first.module) is None


def test_whether_weights_are_put_out_is_asked_of_the_model(tiny_model):
    model = tiny_model("transformers BambaMixer")
    for implementation, has_weights in (("sdpa", False), ("eager", True)):
        model.set_attn_implementation(implementation)
        (site,) = attention_of(model)
        assert (site.adapter.unreadable(site.module) is None) == has_weights
        assert not site.adapter.needs_weights(site.module)


def test_a_shared_module_is_the_attention_of_every_block_that_has_it():
    class Block(nn.Module):
        def __init__(self, attention):
            super().__init__()
            self.mixer = build_mixer("Mamba", d_model=8, d_state=2)
            self.shared = attention

    attention = build_mixer("MHA", embed_dim=8, num_heads=2)
    model = nn.Sequential(Block(attention), Block(attention))
    assert block_kinds(model) == ["mamba+attention"] * 2
    assert [block.attention.module for block in find_blocks(model)] == [attention, attention]
    assert [site.name for site in attention_of(model)] == ["0.shared", "1.shared"]


def test_the_outermost_attention_of_a_block_is_its_attention():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2)

    Wrapper.__name__ = "BigAttention"
    blocks = [build_mixer("Mamba", d_model=8, d_state=2), nn.Sequential(Wrapper()), nn.Linear(8, 8)]
    model = nn.Sequential(*blocks)
    assert block_kinds(model) == ["mamba", "attention", "other"]
    (site,) = attention_of(model)
    assert site.name == "1.0"
    assert site.adapter.unreadable(site.module)
