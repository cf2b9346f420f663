"""Loading from folders: layouts, weights files, backends, and one clear line for what is wrong."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmlens.adapters.load import load_model
from ssmlens.errors import SsmlensError, UnsupportedModelError, UsageError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.models.shipped import data_folder

CONFIG = {"d_model": 16, "n_layer": 2, "vocab_size": 13, "ssm_cfg": {"d_state": 4}}
IDS = torch.tensor([[1, 5, 3, 12, 7]])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MambaLM(MambaConfig(**CONFIG)).eval()


def write_config(folder, config=CONFIG):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def state_of(model, tied=False):
    """The state dict as files hold it: without the tied head, or with a copy of it."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if not tied:
        del state["lm_head.weight"]
    return state


def same_logits(a, b):
    with torch.no_grad():
        return torch.equal(a(IDS).logits, b(IDS).logits)


def write_shards(folder, state, suffix):
    names = sorted(state)
    halves = {f"part-{i}{suffix}": names[i::2] for i in range(2)}
    for file, members in halves.items():
        part = {name: state[name] for name in members}
        save_file(part, folder / file) if suffix == ".safetensors" else torch.save(
            part, folder / file
        )
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    index = {"weight_map": {name: file for file, members in halves.items() for name in members}}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


WRITERS = {
    "safetensors": lambda f, m: save_file(state_of(m), f / "model.safetensors"),
    "head stored too": lambda f, m: save_file(state_of(m, tied=True), f / "model.safetensors"),
    "bin": lambda f, m: torch.save(m.state_dict(), f / "pytorch_model.bin"),
    "bin before torch 1.6": lambda f, m: torch.save(
        m.state_dict(), f / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
    "safetensors shards": lambda f, m: write_shards(f, state_of(m), ".safetensors"),
    "bin shards": lambda f, m: write_shards(f, state_of(m), ".bin"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_weights_file_gives_the_same_model_and_digest(tmp_path, model, writer):
    WRITERS[writer](write_config(tmp_path), model)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, MambaLM)
    assert not loaded.training
    assert same_logits(loaded, model)
    assert loaded.lm_head.weight is loaded.backbone.embedding.weight
    reference = write_config(tmp_path / "reference")
    save_file(state_of(model), reference / "model.safetensors")
    assert loaded.source.digest == load_model(reference).source.digest


def test_source_says_where_it_comes_from(tmp_path, model):
    save_file(state_of(model), write_config(tmp_path) / "model.safetensors")
    loaded = load_model(tmp_path)
    source = loaded.source
    assert (source.name, source.backend, source.layout) == (str(tmp_path), "torch", "mamba_ssm")
    assert source.revision is None
    assert len(source.digest) == 64
    assert loaded.tokenizer is None
    assert "no tokenizer.json" in source.tokenizer_problem


def test_digest_sees_one_bit_one_name_and_one_shape_but_not_the_dtype_asked_for(tmp_path, model):
    def digest(state, name, **options):
        save_file(state, write_config(tmp_path / name) / "model.safetensors")
        return load_model(tmp_path / name, **options).source.digest

    plain = digest(state_of(model), "plain")
    assert digest(state_of(model), "bf16", dtype=torch.bfloat16) == plain
    bit = state_of(model)
    bit["backbone.norm_f.weight"].view(torch.int32)[3] ^= 1
    swapped = state_of(model)
    a, b = "backbone.layers.0.norm.weight", "backbone.layers.1.norm.weight"
    swapped[a], swapped[b] = swapped[b] + 1, swapped[a]
    assert len({plain, digest(bit, "bit"), digest(swapped, "swapped")}) == 3


def test_dtype_is_mamba_ssms(tmp_path, model):
    save_file(state_of(model), write_config(tmp_path) / "model.safetensors")
    loaded = load_model(tmp_path, dtype=torch.bfloat16)
    wide = {n.split(".")[-1] for n, p in loaded.named_parameters() if p.dtype == torch.float32}
    assert wide == {"A_log", "D"}
    assert load_model(tmp_path, dtype=torch.float64)(IDS).logits.dtype == torch.float64


def test_untied_head(tmp_path):
    torch.manual_seed(0)
    config = CONFIG | {"tie_embeddings": False}
    model = MambaLM(MambaConfig(**config)).eval()
    save_file(state_of(model, tied=True), write_config(tmp_path, config) / "model.safetensors")
    assert same_logits(load_model(tmp_path), model)


def test_head_and_embedding_that_should_be_tied_and_differ(tmp_path, model):
    state = state_of(model, tied=True)
    state["lm_head.weight"][0, 0] += 1
    save_file(state, write_config(tmp_path) / "model.safetensors")
    with pytest.raises(SsmlensError, match='"tie_embeddings": false'):
        load_model(tmp_path)


def test_nan_in_the_weights_is_loaded(tmp_path, model):
    state = state_of(model, tied=True)
    state["backbone.embedding.weight"][0, 0] = float("nan")
    state["lm_head.weight"][0, 0] = float("nan")
    save_file(state, write_config(tmp_path) / "model.safetensors")
    assert load_model(tmp_path).backbone.embedding.weight.isnan().sum() == 1


def test_a_model_that_is_loaded_can_be_trained_without_touching_the_file(tmp_path, model):
    save_file(state_of(model), write_config(tmp_path) / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    loaded = load_model(tmp_path).train()
    loaded(IDS).logits.square().mean().backward()
    torch.optim.SGD(loaded.parameters(), lr=1.0).step()
    assert not same_logits(loaded, model)
    assert (tmp_path / "model.safetensors").read_bytes() == before


class Exploit:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "bare"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, model, protocol):
    witness = tmp_path / "it-ran"
    content = model.state_dict() | {"x": Exploit(witness)}
    path = write_config(tmp_path) / "pytorch_model.bin"
    if protocol == "bare":
        path.write_bytes(pickle.dumps({"x": Exploit(witness)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(
        UsageError, match=r"refused .*pytorch_model\.bin: .*nothing was run"
    ) as error:
        load_model(tmp_path)
    assert protocol == "bare" or "posix.mkdir" in str(error.value)
    assert "\n" not in str(error.value)
    assert not witness.exists()


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], write_config(tmp_path) / "pytorch_model.bin")
    with pytest.raises(UsageError, match="not a state dict"):
        load_model(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_a_file_that_is_cut_short_is_named(tmp_path, model, file, kept):
    path = write_config(tmp_path) / file
    if path.suffix == ".bin":
        torch.save(state_of(model), path)
    else:
        save_file(state_of(model), path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(SsmlensError, match="is damaged or cut short") as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_shard_is_named(tmp_path, model):
    write_shards(write_config(tmp_path), state_of(model), ".safetensors")
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(SsmlensError, match=r"lacks part-1\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("elsewhere", ["../secret.bin", "/etc/passwd"])
def test_an_index_cannot_point_outside_its_folder(tmp_path, elsewhere):
    index = {"weight_map": {"x": elsewhere}}
    path = write_config(tmp_path) / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(SsmlensError, match="which is not a plain file name"):
        load_model(tmp_path)


def test_tensors_that_do_not_fit_are_named(tmp_path, model):
    state = state_of(model)
    del state["backbone.norm_f.weight"]
    state["stranger"] = torch.ones(1)
    state["backbone.layers.0.mixer.D"] = torch.ones(5)
    save_file(state, write_config(tmp_path) / "model.safetensors")
    with pytest.raises(SsmlensError) as error:
        load_model(tmp_path)
    message = str(error.value)
    assert "missing: backbone.norm_f.weight" in message
    assert "unexpected: stranger" in message
    assert "mis-shaped: backbone.layers.0.mixer.D (5,) for (32,)" in message
    assert "\n" not in message


def test_names_that_lead_nowhere(tmp_path, model):
    save_file(state_of(model), write_config(tmp_path / "m") / "model.safetensors")
    for name, hint in (
        ("copy-mamba1-mimetik", "did you mean 'copy-mamba1-mimetic'"),
        ("nothing-like-it", "shipped: copy-mamba1-default"),
        ("./nowhere", "no such folder"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "m" / "model.safetensors", "is a file; pass the folder"),
        (tmp_path, r"no config\.json"),
    ):
        with pytest.raises(UsageError, match=hint):
            load_model(name)
    with pytest.raises(UsageError, match=r"a revision .* does not apply"):
        load_model(tmp_path / "m", revision="main")


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(UsageError, match=r"has no weights: expected one of model\.safetensors"):
        load_model(write_config(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "it is not a JSON object"),
        ('{"hidden_size": 8}', "neither in mamba_ssm's layout"),
        (json.dumps(CONFIG | {"attn_layer_idx": [1]}), "attn_cfg lacks what MHA needs: num_heads"),
        (json.dumps(CONFIG | {"surprise": 1}), "surprise"),
    ],
)
def test_configurations_that_are_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UsageError, match=message):
        load_model(tmp_path)


def test_options_that_do_not_fit(tmp_path, model):
    save_file(state_of(model), write_config(tmp_path) / "model.safetensors")
    for options, message in (
        ({"backend": "jax"}, "choose from: auto, mamba-ssm, transformers, torch"),
        ({"backend": "transformers"}, "these do: auto, torch, mamba-ssm"),
        ({"backend": "mamba-ssm"}, "runs on CUDA"),
        ({"device": "warp"}, "unknown device"),
    ):
        with pytest.raises(UsageError, match=message):
            load_model(tmp_path, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_that_is_not_there(tmp_path, model):
    save_file(state_of(model), write_config(tmp_path) / "model.safetensors")
    with pytest.raises(UsageError, match="no CUDA here"):
        load_model(tmp_path, device="cuda")
    assert next(load_model(tmp_path, device="auto").parameters()).device.type == "cpu"


def their_model(cls="MambaForCausalLM", **config):
    import transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 16, "state_size": 4}
    if "2" in cls:
        shape |= {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 8}
    model_class = getattr(transformers, cls)
    return model_class(model_class.config_class(**(shape | config))).eval()


@pytest.mark.parametrize("backend", ["auto", "transformers", "torch"])
@pytest.mark.parametrize("cls", ["MambaForCausalLM", "Mamba2ForCausalLM"])
def test_transformers_layout(tmp_path, cls, backend, capfd):
    theirs = their_model(cls)
    theirs.save_pretrained(tmp_path)
    capfd.readouterr()
    loaded = load_model(tmp_path, backend=backend)
    assert "Loading weights" not in capfd.readouterr().err  # no foreign progress bar
    assert type(loaded) is type(theirs)
    assert same_logits(loaded, theirs)
    assert (loaded.source.backend, loaded.source.layout) == ("transformers", "transformers")


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_transformers_layout_in_shards_and_pickles(tmp_path, suffix):
    theirs = their_model()
    theirs.config.save_pretrained(tmp_path)
    state = {n: t for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    write_shards(tmp_path, state, suffix)
    assert same_logits(load_model(tmp_path), theirs)


def test_transformers_layout_refuses_a_pickle_that_would_run_code(tmp_path):
    their_model().config.save_pretrained(tmp_path)
    torch.save({"x": Exploit(tmp_path / "it-ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="nothing was run"):
        load_model(tmp_path)
    assert not (tmp_path / "it-ran").exists()


def test_transformers_layout_names_tensors_that_do_not_fit(tmp_path):
    their_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["backbone.norm_f.weight"]
    state["backbone.layers.0.mixer.D"] = torch.ones(5)
    state["stranger"] = torch.ones(1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(SsmlensError) as error:
        load_model(tmp_path)
    message = str(error.value)
    for part in ("missing: backbone.norm_f.weight", "unexpected: stranger", "mixer.D (5,) for"):
        assert part in message


def test_transformers_layout_does_not_take_kernels(tmp_path):
    their_model().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="these do: auto, transformers, torch"):
        load_model(tmp_path, backend="mamba-ssm")


def test_a_model_without_mamba_layers_is_named(tmp_path):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8}
    write_config(tmp_path, config | {"n_layer": 1, "n_head": 1, "vocab_size": 8})
    with pytest.raises(
        UnsupportedModelError,
        match=r"mixers are GPT2Attention, which.*Mamba2For",
    ):
        load_model(tmp_path)


def test_an_architecture_that_transformers_does_not_know_is_named(tmp_path):
    write_config(tmp_path, {"model_type": "hyena", "architectures": ["HyenaForCausalLM"]})
    with pytest.raises(UnsupportedModelError, match="HyenaForCausalLM, which transformers cannot"):
        load_model(tmp_path)


def test_code_in_a_model_folder_is_not_run(tmp_path):
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    write_config(tmp_path, {"model_type": "evil", "auto_map": auto_map})
    (tmp_path / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'it-ran')!r})")
    with pytest.raises(UnsupportedModelError, match="evil"):
        load_model(tmp_path)
    assert not (tmp_path / "it-ran").exists()


def test_a_copy_of_a_shipped_folder_is_the_same_model(tmp_path):
    shutil.copytree(data_folder() / "models" / "copy-mamba1-mimetic", tmp_path / "copy")
    copy, shipped = load_model(tmp_path / "copy"), load_model("copy-mamba1-mimetic")
    assert copy.source.digest == shipped.source.digest
    assert shipped.source.name == "copy-mamba1-mimetic"
    assert copy.tokenizer.encode("a|") == [3, 1]
