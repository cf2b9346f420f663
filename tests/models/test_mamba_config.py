"""MambaConfig: which block has which mixer, what config.json says of it, and what is refused by name."""

import json

import pytest

from ssmlens.adapters.load import load_model
from ssmlens.errors import UnsupportedModelError
from ssmlens.models import mamba_ssm_layout
from ssmlens.models.mamba_config import MambaConfig

ATTENTION = {"num_heads": 2, "causal": True}
# The fields of mamba_ssm's own MambaConfig: it takes no others.
OF_MAMBA_SSM = {
    "d_model",
    "d_intermediate",
    "n_layer",
    "vocab_size",
    "ssm_cfg",
    "attn_layer_idx",
    "attn_cfg",
    "rms_norm",
    "residual_in_fp32",
    "fused_add_norm",
    "pad_vocab_size_multiple",
    "tie_embeddings",
}


def test_every_block_has_the_mixer_that_is_asked_for():
    config = MambaConfig(
        d_model=8,
        n_layer=5,
        ssm_cfg={"layer": "Mamba2", "headdim": 4},
        attn_layer_idx=[3],
        attn_cfg=ATTENTION,
        linear_attn_cfg={"layer": "LinearAttention", "layer_idx": [4, 1], "d_state": 6},
    )
    mixers = [config.build_mixer(i) for i in range(5)]
    classes = ["Mamba2", "LinearAttention", "Mamba2", "MHA", "LinearAttention"]
    assert [type(mixer).__name__ for mixer in mixers] == classes
    assert [mixer.layer_idx for mixer in mixers] == [0, 1, 2, 3, 4]
    assert mixers[1].d_state == 6
    default = MambaConfig(d_model=8, n_layer=1, linear_attn_cfg={"layer_idx": [0]})
    assert type(default.build_mixer(0)).__name__ == "MambaLinearAttention"


def test_config_json_has_the_keys_of_mamba_ssm_and_one_more_where_it_is_needed():
    plain = MambaConfig(d_model=8, n_layer=3, attn_layer_idx=[1], attn_cfg=ATTENTION)
    assert plain.to_dict().keys() == OF_MAMBA_SSM
    linear = MambaConfig(d_model=8, n_layer=3, linear_attn_cfg={"layer_idx": [0, 2]})
    assert linear.to_dict().keys() == OF_MAMBA_SSM | {"linear_attn_cfg"}
    for config in (plain, linear):
        assert MambaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert mamba_ssm_layout.why_no_kernels(plain.to_dict()) is None
    why = mamba_ssm_layout.why_no_kernels(linear.to_dict())
    assert why == "its language model has no linear attention"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"attn_layer_idx": [0], "attn_cfg": {"num_heads": 2}}, '"causal": true.*set it'),
        ({"attn_layer_idx": [0], "attn_cfg": ATTENTION | {"causal": False}}, '"causal": true'),
        ({"attn_layer_idx": [0], "attn_cfg": ATTENTION | {"causal": "yes"}}, '"causal": true'),
        (
            {"attn_layer_idx": [2], "attn_cfg": ATTENTION},
            r"attn_layer_idx names block 2, but n_layer is 2: 0\.\.1",
        ),
        ({"attn_layer_idx": [-1], "attn_cfg": ATTENTION}, "attn_layer_idx names block -1"),
        ({"attn_layer_idx": [1, 1], "attn_cfg": ATTENTION}, "block 1 more than once"),
        (
            {"attn_layer_idx": [0], "attn_cfg": ATTENTION | {"embed_dim": 4}},
            "attn_cfg has options that MHA does not take: embed_dim",
        ),
        ({"ssm_cfg": {"layer_idx": 1}}, "ssm_cfg has .* Mamba1 does not take: layer_idx"),
        ({"ssm_cfg": {"headdim": 4}}, "ssm_cfg has .* Mamba1 does not take: headdim"),
        ({"ssm_cfg": {"layer": "LinearAttention"}}, "supported: Mamba1, Mamba2, Mamba3"),
        ({"linear_attn_cfg": {"d_state": 4}}, "has no blocks: set its layer_idx"),
        ({"linear_attn_cfg": {"layer_idx": []}}, "has no blocks"),
        ({"linear_attn_cfg": {"layer_idx": 1}}, "layer_idx must be a list of block numbers, not 1"),
        ({"linear_attn_cfg": {"layer_idx": [True]}}, "must be a list of block numbers"),
        ({"linear_attn_cfg": {"layer_idx": [5]}}, "layer_idx names block 5, but n_layer is 2"),
        (
            {"linear_attn_cfg": {"layer_idx": [0], "layer": "Mamba2"}},
            "names the layer 'Mamba2'; supported: MambaLinearAttention, LinearAttention",
        ),
        (
            {"linear_attn_cfg": {"layer_idx": [0], "nheads": 2}},
            "linear_attn_cfg has options that MambaLinearAttention does not take: nheads",
        ),
        (
            {
                "attn_layer_idx": [1],
                "attn_cfg": ATTENTION,
                "linear_attn_cfg": {"layer_idx": [0, 1]},
            },
            "block 1 is in both attn_layer_idx and linear_attn_cfg's layer_idx",
        ),
    ],
)
def test_what_is_refused(values, told, tmp_path):
    with pytest.raises(UnsupportedModelError, match=told):
        MambaConfig(d_model=8, n_layer=2, vocab_size=8, **values)
    written = {"d_model": 8, "n_layer": 2, "vocab_size": 8} | values
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(UnsupportedModelError, match=told):
        load_model(tmp_path)
