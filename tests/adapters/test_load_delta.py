"""Delta-rule hybrids from folders: text models, and models of images and text as their text model."""

import pytest
import torch

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.blocks import block_kinds
from ssmlens.adapters.delta_shared import DeltaAdapter
from ssmlens.adapters.load import load_model

IDS = torch.tensor([[13, 11, 14, 11, 15], [12, 17, 11, 18, 12]])
FAMILIES = sorted(
    {a.family for a in map(adapters.__getitem__, adapters) if isinstance(a, DeltaAdapter)}
)
VISION = {
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 2,
    "out_hidden_size": 24,
    "num_position_embeddings": 16,
    "patch_size": 4,
}


def save_tokenizer(folder):
    from tokenizers import Tokenizer, models

    letters = {chr(ord("a") + n): n for n in range(26)}
    Tokenizer(models.WordLevel(letters, unk_token="a")).save(str(folder / "tokenizer.json"))


def spread(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def logits_of(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def assert_every_layer_is_a_map(model, bound):
    assert block_kinds(model) == ["delta rule", "attention", "delta rule"]
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(IDS, use_cache=False)
    assert rec.layers == [0, 1, 2]
    weights = rec[1].attention_map.float()
    assert torch.allclose(weights.sum(2), torch.ones(2, 5), atol=bound)
    for layer in (0, 2):
        assert rec[layer].closure_error < bound


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_loaded_as_it_was(tiny_model, tmp_path, capfd, family):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    loaded = load_model(tmp_path)
    capfd.readouterr()  # transformers' progress bar while it saves
    assert type(loaded) is type(model)
    assert loaded.config._attn_implementation == "eager"
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=1e-4, atol=1e-5)
    assert loaded.tokenizer.encode("c") == [2]
    assert (loaded.source.layout, loaded.source.backend) == ("transformers", "transformers")
    assert_every_layer_is_a_map(loaded, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_it_closes_with_what_transformers_keeps_in_float32(
    tiny_model, tmp_path, capfd, family
):
    tiny_model(family).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype=torch.bfloat16)
    capfd.readouterr()
    wide = [name for name, p in loaded.named_parameters() if p.dtype == torch.float32]
    kept = {"Bailing": "conv1d.weight", "Glm5": "conv1d.weight", "Olmo": "A_log"}
    for part, ending in kept.items():
        assert part not in family or any(name.endswith(ending) for name in wide)
    assert_every_layer_is_a_map(loaded, 1e-2)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["Qwen3_5", "Qwen3_5Moe", "Qwen4Exp"])
def test_a_model_of_images_and_text_is_loaded_as_its_text_model(
    tiny_model, tmp_path, capfd, name, tied
):
    import transformers

    (family,) = (
        f for f in FAMILIES if f.split()[1].removesuffix("GatedDeltaNet") in (name, f"{name}Text")
    )
    text = tiny_model(family).config.to_dict() | {"tie_word_embeddings": tied}
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=VISION, tie_word_embeddings=tied
    )
    torch.manual_seed(3)
    whole = spread(getattr(transformers, f"{name}ForConditionalGeneration")(config))
    whole.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    loaded = load_model(tmp_path)
    capfd.readouterr()
    assert type(loaded).__name__ == f"{name}ForCausalLM"
    assert not any("visual" in parameter for parameter, _ in loaded.named_parameters())
    torch.testing.assert_close(logits_of(loaded), logits_of(whole), rtol=1e-4, atol=1e-5)
    assert loaded.tokenizer.encode("c") == [2]
    assert_every_layer_is_a_map(loaded, 1e-5)
