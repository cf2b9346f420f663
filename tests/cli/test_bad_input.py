"""Bad input: one line on stderr that names what is wrong, the right exit code, nothing left behind."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

from ssmlens.models.shipped import data_folder

SHIPPED = "copy-mamba2-default"


@pytest.fixture(autouse=True)
def here(here):
    (here / "empty.txt").write_text("\n\n")
    (here / "empty_line.jsonl").write_text('{"text": "ab|ab"}\n{"text": ""}\n')
    (here / "beyond.jsonl").write_text('{"tokens": [3, 4, 32]}\n')
    (here / "negative.jsonl").write_text('{"tokens": [-1]}\n')
    (here / "words.txt").write_text("Hello\n")
    (here / "taken.h5").write_text("mine")
    (here / "folder").mkdir()
    return here


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(cli, here):
    """refused(code, words): runs a command that must fail so; its line. Nothing may have changed on the disk."""

    def run(code, *words):
        before = files(here)
        said = cli(*words)
        assert said.code == code, said
        assert said.out == ""
        assert files(here) == before
        with_json = cli(*words, "--json")
        assert with_json.code == code
        assert with_json.err == said.err
        assert with_json.json == {"error": said.complaint, "exit_code": code}
        return said.complaint

    return run


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--model copy-mamba2-defualt", ["copy-mamba2-defualt", "did you mean", SHIPPED]),
        ("--model nowhere", ["unknown model 'nowhere'", "no such folder", SHIPPED]),
        ("--model folder", ["folder", "no config.json"]),
        ("--model taken.h5", ["taken.h5 is a file; pass the folder"]),
        ("--prompts empty.txt", ["empty.txt contains no prompt"]),
        ("--prompts empty_line.jsonl", ["empty_line.jsonl, line 2", "is empty"]),
        ("--prompts nowhere.txt", ["cannot read nowhere.txt", "No such file"]),
        ("--prompts folder", ["folder", ".txt", ".jsonl"]),
        ("--prompts words.txt", ["words.txt, line 1: 'H' is not a token"]),
        ("--prompts beyond.jsonl", ["prompt 0: token id 32 is out of range", "0..31"]),
        ("--prompts negative.jsonl", ["token id -1 is out of range"]),
        ("--layers 4", ["layer 4 is out of range", "0..3"]),
        ("--layers -1", ["layer -1 is out of range"]),
        ("--layers 0 x", ["--layers", "'x'", "see ssmlens capture --help"]),
        ("--channels 6", ["channel 6 is out of range: layer 0 has 0..5"]),
        ("--channels -1", ["channel -1 is out of range"]),
        ("--out taken.h5", ["taken.h5 exists", "--overwrite"]),
        ("--out nowhere/run.h5", ["cannot write nowhere/run.h5", "folder does not exist"]),
        ("--out folder --overwrite", ["folder is a folder but not a capture"]),
        ("--out run.h5.partial", ["run.h5.partial cannot be the name of a capture"]),
        ("--out .", ["cannot be the name of a capture"]),
        ("--out ..", ["cannot be the name of a capture"]),
        ("--out /", ["cannot be the name of a capture"]),
        ("--length 17", ["--length and --count go with --task"]),
        ("--count 2", ["--length and --count go with --task"]),
        ("--task copy --length 0", ["copy task needs --length"]),
        ("--task copy --length x", ["--length", "'x'"]),
        ("--task repeat --length 1", ["repeat task needs --length of at least 2"]),
        (
            "--task repeat --seed 99999999999999999999",
            ["seed 99999999999999999999 is out of range"],
        ),
        ("--task copy --length 5000 --channels 0", ["--channels", "8192 tokens"]),
        ("--task shuffle", ["unknown task 'shuffle'", "copy", "repeat"]),
        ("--prompt a --task copy", ["--prompt and --task, not both"]),
        ("--prompt a --prompts p.txt", ["--prompt and --prompts, not both"]),
        ("--shard 2", ["--shard is i/N, such as 1/4, not '2'"]),
        ("--shard 0/2", ["shard 0/2", "1 ≤ i ≤ N ≤ 4"]),
        ("--shard 3/2", ["shard 3/2"]),
        ("--shard 1/5", ["shard 1/5", "N ≤ 4"]),
        ("--dtype int8", ["--dtype", "'int8'", "float32", "bfloat16"]),
        ("--device tpu9", ["unknown device 'tpu9'"]),
        ("--backend mamba-ssm", ["mamba-ssm"]),
        ("--revision main", [f"{SHIPPED} is not on the hub", "'main'"]),
        ("--layer 3", ["--layer", "Perhaps you meant: --layers"]),
        ("--length", ["Missing value for argument '--length'"]),
        ("extra", ["Unrecognized options: extra"]),
    ],
)
def test_capture(refused, options, told):
    words = options.split()
    if "--model" not in words:
        words = ["--model", SHIPPED, *words]
    line = refused(2, "capture", *words)
    assert all(part in line for part in told), line


def test_an_empty_prompt(refused):
    assert "prompt 1 ('') is empty" in refused(2, "capture", "--prompt", "a", "")


@pytest.mark.parametrize("command", ["info", "verify", "rank-layers", "report", "pack"])
def test_a_capture_that_is_not_there(refused, command):
    assert "nowhere" in refused(2, command, "nowhere")
    assert "Missing from" in refused(2, command)


@pytest.mark.parametrize("command", ["info", "rank-layers", "report"])
def test_what_is_no_capture(refused, command):
    assert refused(1, command, "taken.h5") == "taken.h5 is not an HDF5 file, so not a capture"
    assert refused(1, command, "folder") == "folder has no manifest.json: it is not a capture"


def test_scores_and_tops(refused, copies):
    path = copies(SHIPPED, 17)
    line = refused(2, "rank-layers", path, "--by", "copy_scor")
    assert line == "unknown score 'copy_scor'; did you mean 'copy_score'?"
    assert "induction_score" in refused(2, "rank-layers", path, "--by", "induction_score")
    assert "at least 1" in refused(2, "rank-layers", path, "--top", "0")


def test_outputs_that_exist_or_cannot_be(refused, copies):
    path = copies(SHIPPED, 17)
    assert "taken.h5 exists" in refused(2, "report", path, "--out", "taken.h5")
    line = refused(1, "report", path, "--out", "nowhere/page.html")
    assert line.startswith("cannot write nowhere/page.html: the folder does not exist")
    assert "taken.h5 is a file" in refused(2, "demo", "--out", "taken.h5")


def test_a_capture_of_another_schema_version(refused, cli, copies, here):
    other = here / "other.h5"
    shutil.copy(copies(SHIPPED, 17), other)
    with h5py.File(other, "r+") as file:
        file.attrs["schema_version"] = 4
        file.attrs.create("needs", "packed-maps", dtype=h5py.string_dtype(length=11))
    for command in ("info", "rank-layers", "report"):
        line = refused(1, command, other)
        assert "needs packed-maps to be read (schema version 4), which this ssmlens lacks" in line
        assert "a later ssmlens, or capture it again" in line
    verified = cli("verify", other, "--json")
    assert verified.code == 1
    assert "needs packed-maps" in verified.json["problems"][0]


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("it_ran"),)


def test_a_pickle_that_would_run_code_is_refused_and_nothing_run(refused, here):
    shutil.copy(data_folder() / "models" / SHIPPED / "config.json", here / "folder")
    torch.save({"backbone.embedding.weight": RunsCode()}, here / "folder" / "pytorch_model.bin")
    line = refused(2, "capture", "--model", "folder")
    assert "folder/pytorch_model.bin" in line
    assert "nothing was run" in line
    assert "safetensors" in line
    assert not (here / "it_ran").exists()
    pickle.loads(pickle.dumps(RunsCode()))
    assert (here / "it_ran").exists()  # where pickles are read as they are


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            {
                "model_type": "gpt2",
                "architectures": ["GPT2LMHeadModel"],
                "n_layer": 1,
                "n_embd": 8,
                "n_head": 2,
            },
            [
                "GPT2LMHeadModel",
                "token mixers are GPT2Attention",
                "MambaForCausalLM",
                "Mamba2ForCausalLM",
            ],
        ),
        ({"model_type": "mamba9"}, ["mamba9", "MambaForCausalLM"]),
        (
            {"d_model": 8, "n_layer": 1, "ssm_cfg": {"layer": "Mamba9"}},
            ["'Mamba9'", "Mamba1, Mamba2, Mamba3"],
        ),
        ({"d_model": 8, "n_layer": 1, "attn_layer_idx": [0]}, ["MHA needs: num_heads"]),
        ({"hidden": 8}, ["neither in mamba_ssm's layout", "transformers"]),
    ],
)
def test_an_architecture_that_is_not_supported(refused, here, config, told):
    (here / "folder" / "config.json").write_text(json.dumps(config))
    line = refused(2, "capture", "--model", "folder")
    assert all(part in line for part in told), line


def test_letters_for_a_model_without_a_tokenizer(refused, here):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(data_folder() / "models" / SHIPPED / name, here / "folder")
    line = refused(2, "capture", "--model", "folder", "--prompt", "ab")
    assert line.startswith("this model has no tokenizer (folder has no tokenizer.json)")
    assert "use --task repeat" in refused(2, "capture", "--model", "folder", "--task", "copy")


def test_a_hub_out_of_reach(here):
    """In a process of its own: the hub's client reads its settings when it is imported."""
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(here / "cache")}
    said = subprocess.run(
        [sys.executable, "-m", "ssmlens", "capture", "--model", "state-spaces/mamba-130m"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **closed},
    )
    assert said.returncode == 1
    (line,) = said.stderr.splitlines()
    for part in (
        "state-spaces/mamba-130m",
        "http://127.0.0.1:9 cannot be reached",
        "pass a folder with config.json and weights, or a shipped model",
        SHIPPED,
    ):
        assert part in line
    assert not (here / "mamba-130m.h5").exists()
    assert not (here / "mamba-130m.h5.partial").exists()
