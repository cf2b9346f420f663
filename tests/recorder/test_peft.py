"""Adapters of peft on a mixer's layers: they change the logits, and what is recorded closes over them."""

import pytest
import torch

import ssmlens

peft = pytest.importorskip("peft")

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5], [2, 7, 1, 8, 2, 8, 1, 8, 2]])
TARGETS = {
    "ssmlens Mamba": ["in_proj", "x_proj", "out_proj"],
    "ssmlens Mamba2": ["in_proj", "out_proj"],
    "ssmlens Mamba3": ["in_proj", "out_proj"],
    "transformers MambaMixer": ["in_proj", "x_proj"],
    "transformers Mamba2Mixer": ["in_proj"],
    "transformers JambaMambaMixer": ["in_proj", "x_proj"],
    "transformers BambaMixer": ["in_proj"],
    "transformers Qwen3NextGatedDeltaNet": ["in_proj_qkvz", "in_proj_ba", "out_proj"],
    "transformers KimiLinearDeltaAttention": ["q_proj", "f_b_proj", "g_a_proj", "o_proj"],
}


@pytest.mark.parametrize("family", TARGETS)
def test_a_lora_adapter_changes_the_logits_and_the_recording_closes(tiny_model, family):
    model = tiny_model(family)
    with torch.no_grad():
        clean = model(IDS).logits
    config = peft.LoraConfig(target_modules=TARGETS[family], r=2, init_lora_weights=False)
    adapted = peft.inject_adapter_in_model(config, model).eval()
    with ssmlens.recording(adapted) as rec, torch.no_grad():
        assert (adapted(IDS).logits - clean).abs().max() > 1e-3
    for record in rec:
        if not record.closure.reason:
            assert record.closure_error < 1e-5, record


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_wrapped_model_is_recorded(tiny_model):
    model = tiny_model("transformers MambaMixer")
    config = peft.LoraConfig(target_modules=["in_proj"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    with ssmlens.recording(adapted) as rec:
        logits = adapted(input_ids=IDS).logits
    assert max(record.closure_error for record in rec) < 1e-5
    merged = adapted.merge_and_unload()
    with ssmlens.recording(merged) as again:
        torch.testing.assert_close(merged(IDS).logits, logits, rtol=1e-4, atol=1e-4)
    for one, two in zip(rec, again, strict=True):
        torch.testing.assert_close(one.attention_map, two.attention_map, rtol=1e-4, atol=1e-5)
