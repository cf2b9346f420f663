"""Files of a model that are not what they must be: one typed error of one line each, soon."""

import json
import os

import pytest
import torch

from ssmlens.adapters.load import load_model
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.models.checkpoint import shard_names
from ssmlens.models.layouts import read_config
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.models.mamba_ssm_layout import files_of
from ssmlens.models.tokenizers import FastTokenizer, read_tokenizer

BAD_NUMBERS = ["x", -1, 0, 0.5, float("nan"), 10**12, 10**30, None, [], {}, True]
DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path):
    model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=32, ssm_cfg={"d_state": 4}))
    for name, data in files_of(model).items():
        (tmp_path / name).write_bytes(data)
    load_model(tmp_path)
    return tmp_path


def refuse(folder, **changes):
    """load_model must refuse the folder with these fields of its config.json; the one line."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return told(load_model, folder)


def told(act, *given):
    with pytest.raises(SsmlensError) as error:
        act(*given)
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 2000
    return said


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=str)
@pytest.mark.parametrize("field", ["d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple"])
def test_numbers_of_a_config(folder, field, value):
    assert field in refuse(folder, **{field: value}) or value in (10**30,)


@pytest.mark.parametrize(
    "changes",
    [
        *({"ssm_cfg": v} for v in ([], None, "x", 1, {"layer": []}, {"layer": {}}, {"x" * 99: 1})),
        *({"ssm_cfg": {"d_state": v}} for v in ("x", -1, 0, None, [], 10**12, float("nan"))),
        *({"ssm_cfg": {"expand": v}} for v in ("x", -1, 0, None, 10**12)),
        *({"ssm_cfg": {"d_conv": v}} for v in ("x", -1, 0, 10**12)),
        *({"ssm_cfg": {"layer": "Mamba2", "headdim": v}} for v in ("x", 0, -1, 7, 10**12)),
        *({"attn_layer_idx": v} for v in ("x", 1, [0.5], [[]], [9], [0, 0], [10**12])),
        *({"attn_cfg": v, "attn_layer_idx": [0]} for v in ([], 1, {}, {"num_heads": 0})),
        {"attn_layer_idx": [0], "attn_cfg": {"num_heads": 0, "causal": True}},
        {"attn_layer_idx": [0], "attn_cfg": {"num_heads": "x", "causal": True}},
        *(
            {"linear_attn_cfg": v}
            for v in ([], 1, {"layer_idx": 1}, {"layer_idx": [0], "layer": 1})
        ),
        *({name: "x"} for name in ("rms_norm", "tie_embeddings", "residual_in_fp32")),
        {"d_intermediate": -1},
        {"d_intermediate": "x"},
        {"y" * 5_000_000: 1},
        {str(n): 1 for n in range(10_000)},
        {"model_type": 1},
        {"model_type": "nothing", "architectures": 7},
    ],
    ids=lambda it: str(it)[:60],
)
def test_fields_of_a_config(folder, changes):
    refuse(folder, **changes)


@pytest.mark.parametrize("text", ["", "{", DEEP, "3", "null", '{"d_model": 1' + "0" * 5000 + "}"])
def test_configs_that_are_no_object(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in told(load_model, folder)


def make(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 30)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_files_that_are_no_plain_file_or_too_large(folder, kind):
    (folder / "vocabulary.json").write_text("[]")
    make(folder / "config.json", kind)
    assert "config.json" in told(read_config, folder)
    make(folder / "model.safetensors.index.json", kind)
    told(shard_names, folder / "model.safetensors.index.json")
    make(folder / "tokenizer.json", kind)
    assert "tokenizer.json" in told(FastTokenizer.read, folder / "tokenizer.json")
    make(folder / "vocabulary.json", kind)
    told(read_tokenizer, folder)


def test_a_config_behind_a_link_is_read(folder):
    """As the hub's cache is made of."""
    (folder / "config.json").rename(folder / "blob")
    (folder / "config.json").symlink_to("blob")
    assert read_config(folder)["d_model"] == 16


@pytest.mark.parametrize(
    "index",
    [3, None, [], {}, {"weight_map": 3}, {"weight_map": []}, {"weight_map": {}}]
    + [
        {"weight_map": {"a": name}}
        for name in (1, None, "../x", "a/b", "x" * 5000, "\udc00", ".", "")
    ]
    + [{"weight_map": {"a": "none.safetensors"}}],
    ids=lambda it: str(it)[:40],
)
def test_an_index_of_weights(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    told(load_model, folder)


@pytest.mark.parametrize("tokens", [3, None, {}, [3], [[]], [""], ["a", None], {"a": 1}, DEEP])
def test_a_vocabulary(folder, tokens):
    """A model without a tokenizer is still a model: it says why it has none."""
    text = tokens if tokens is DEEP else json.dumps(tokens)
    (folder / "vocabulary.json").write_text(text)
    model = load_model(folder)
    assert model.tokenizer is None
    assert "vocabulary" in model.source.tokenizer_problem


def words(**changes):
    base = {
        "version": "1.0",
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "[UNK]"},
        "pre_tokenizer": {"type": "Whitespace"},
        **{"added_tokens": [], "normalizer": None, "post_processor": None, "decoder": None},
        **{"padding": None, "truncation": None},
    }
    return json.dumps(base | changes)


@pytest.mark.parametrize(
    "text",
    ["", "3", "{}", DEEP, words(model={"type": "None"}), words(added_tokens=[{"id": -1}])],
    ids=lambda it: it[:30],
)
def test_a_tokenizer(folder, text):
    (folder / "tokenizer.json").write_text(text)
    model = load_model(folder)
    assert model.tokenizer is None
    assert "tokenizer.json" in model.source.tokenizer_problem


def test_a_tokenizer_neither_pads_nor_cuts_nor_breaks(folder):
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    cut = {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (folder / "tokenizer.json").write_text(words(padding=padding, truncation=cut))
    tokenizer = FastTokenizer.read(folder / "tokenizer.json")
    assert tokenizer.encode("a b a") == [0, 1, 0]
    with pytest.raises(UsageError, match="tokenizer cannot read the text"):
        tokenizer.encode("a c")


@pytest.mark.parametrize(
    "changes",
    [
        *({"hidden_size": v} for v in ("16", -1, 0, None, 0.5)),
        *({"num_hidden_layers": v} for v in ("2", 10**9, -1, None, 0.5)),
        *({"state_size": v} for v in ("x", -1, None)),
        *({"vocab_size": v} for v in ("x", -1, None)),
        {"conv_kernel": "x"},
        {"quantization_config": 7},
        {"architectures": [{}] * 3, "hidden_size": "x"},
    ],
    ids=str,
)
def test_fields_of_transformers_configs(tmp_path, changes):
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(
        hidden_size=16, num_hidden_layers=2, state_size=4, vocab_size=32
    )
    torch.manual_seed(0)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    load_model(tmp_path)
    refuse(tmp_path, **changes)
