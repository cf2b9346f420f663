"""The shipped models compute what mamba_ssm's CUDA kernels computed with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import relative

from ssmlens.adapters.load import load_model
from ssmlens.models.shipped import data_folder, shipped_models, shipped_names

REFERENCE = Path(__file__).parents[1] / "fixtures" / "fused_reference"
NAMES = [
    "copy-mamba1-default",
    "copy-mamba1-mimetic",
    "copy-mamba2-default",
    "copy-mamba2-mimetic",
]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_and_every_mixer_equal_the_fused_kernels(name):
    model = load_model(name)
    expected = np.load(REFERENCE / f"{name}.npz")
    tolerance = 1e-4 if "mamba1" in name else 5e-3  # Mamba-2's kernels multiply in TF32
    outputs = []
    for block in model.backbone.layers:
        block.mixer.register_forward_hook(lambda _, __, out: outputs.append(out))
    logits = model(torch.from_numpy(expected["input_ids"])).logits
    assert relative(logits, expected["logits"]) < tolerance
    assert len(outputs) == 4
    for i, output in enumerate(outputs):
        assert relative(output, expected[f"mixer_output_{i}"]) < tolerance
    # each mixer alone, from the kernels' own input: no error is carried from block to block
    for i, block in enumerate(model.backbone.layers):
        output = block.mixer(torch.from_numpy(expected[f"mixer_input_{i}"]))
        assert relative(output, expected[f"mixer_output_{i}"]) < tolerance


@pytest.mark.parametrize("name", [n for n in NAMES if n != "copy-mamba1-default"])
@torch.no_grad()
def test_the_trained_ones_copy(name):
    model = load_model(name)
    rng = np.random.default_rng(0)
    letters = rng.integers(3, 29, size=(8, 25))
    rows = np.concatenate([letters, np.full((8, 1), 1), letters], axis=1)
    predicted = model(torch.from_numpy(rows)).logits[:, 25:-1].argmax(-1).numpy()
    assert (predicted == letters).mean() > 0.99


def test_the_list_says_what_each_can_do():
    models = {model.name: model for model in shipped_models()}
    assert shipped_names() == NAMES == list(models)
    mimetic = models["copy-mamba1-mimetic"]
    assert (mimetic.task, mimetic.generation, mimetic.layers) == ("copy", "Mamba-1", 4)
    assert mimetic.init == "mimetic c=8"
    assert mimetic.accuracy == {25: 1.0, 50: 0.9998, 100: 0.512}
    assert mimetic.bytes == (mimetic.folder / "model.safetensors").stat().st_size
    assert models["copy-mamba2-default"].generation == "Mamba-2"


def test_shipped_models_type_and_show_letters():
    tokenizer = load_model("copy-mamba2-mimetic").tokenizer
    assert tokenizer.encode("abc|abz") == [3, 4, 5, 1, 3, 4, 28]
    assert tokenizer.token_strings([0, 1, 2, 3, 28]) == ["·pad", "|", "end", "a", "z"]


def test_shipped_prompts():
    prompts = data_folder() / "prompts"
    assert 200 < len((prompts / "passage.txt").read_text(encoding="utf-8").split()) < 300
    tokenizer = load_model("copy-mamba1-mimetic").tokenizer
    lines = (prompts / "letters.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 3
    for line in lines:
        first, second = line.split("|")
        assert first == second
        assert len(tokenizer.encode(line)) == len(line)
