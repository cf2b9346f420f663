"""Which layers of a hybrid may be asked for, and what is said of those that may not."""

import pytest

import ssmlens
from ssmlens.adapters.blocks import find_blocks
from ssmlens.errors import UsageError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.recorder.choose import choose_blocks, for_long_prompts

NEMOTRON = "transformers NemotronHMamba2Mixer"  # mamba, mlp, attention, moe, mamba


@pytest.mark.parametrize(("implementation", "chosen"), [("eager", [0, 2, 4]), ("sdpa", [0, 4])])
def test_all_that_can_be_read_unless_some_are_asked_for(tiny_model, implementation, chosen):
    model = tiny_model(NEMOTRON)
    model.set_attn_implementation(implementation)
    blocks = find_blocks(model)
    assert [block.layer for block in choose_blocks(blocks, None)] == chosen
    assert [block.layer for block in choose_blocks(blocks, [4, 0])] == [0, 4]


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([1], "layer 1 is an MLP block: nothing is mixed across tokens"),
        ([0, 3], "layer 3 is a mixture of experts: nothing is mixed across tokens"),
        ([2], r'layer 2 is softmax attention.*set_attn_implementation\("eager"\)'),
        ([5], "layer 5 is out of range: this model has Mamba layers 0, 4$"),
        ([-1], "layer -1 is out of range"),
        ([], "no layer is requested: this model has Mamba layers 0, 4$"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tiny_model, tmp_path, layers, told):
    model = tiny_model(NEMOTRON)
    with pytest.raises(UsageError, match=told), ssmlens.recording(model, layers):
        pass
    with pytest.raises(UsageError, match=told):
        ssmlens.capture(model, [[1, 2]], tmp_path / "run", layers=layers)
    model.set_attn_implementation("eager")
    with pytest.raises(UsageError, match=r"Mamba layers 0, 4 and attention layers 2$"):
        choose_blocks(find_blocks(model), [7])


def test_a_model_of_attention_alone_is_told_as_such():
    config = MambaConfig(
        d_model=16, n_layer=2, attn_layer_idx=[0, 1], attn_cfg={"num_heads": 2, "causal": True}
    )
    with pytest.raises(UsageError, match=r"this model has attention layers 0\.\.1$"):
        choose_blocks(find_blocks(MambaLM(config)), [7])


def test_of_long_prompts_mixers_alone_are_kept(tiny_model, caplog):
    model = tiny_model(NEMOTRON)
    model.set_attn_implementation("eager")
    blocks = find_blocks(model)
    whole = choose_blocks(blocks, None)
    kept = for_long_prompts(whole, None, None)
    assert [block.layer for block in kept] == [0, 4]
    assert all(block.attention is None for block in kept)
    (record,) = caplog.records
    assert "maps of softmax attention are not stored" in record.message
    caplog.clear()
    assert for_long_prompts(kept, [0, 4], None) == kept
    assert not caplog.records
    attention = [block for block in whole if block.layer == 2]
    for chosen, layers in ((whole, [0, 2, 4]), (attention, [2]), (attention, None)):
        with pytest.raises(UsageError, match=r"maps of softmax attention \(layer 2\)"):
            for_long_prompts(chosen, layers, None)
    with pytest.raises(UsageError, match="`channels` stores whole maps"):
        for_long_prompts(kept, None, [0])
