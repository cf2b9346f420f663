"""Every command on a capture that has layers of softmax attention and no other."""

import html
import json

import pytest
import torch

from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.store import open_capture


@pytest.fixture(params=[[1], [0, 1, 2]], ids=["hybrid", "attention"])
def captured(request, cli, tmp_path):
    """The file of layer 1, and what was said; of a hybrid, and of a model that has attention in every block."""
    torch.manual_seed(0)
    config = {
        "d_model": 16,
        "n_layer": 3,
        "vocab_size": 32,
        "attn_layer_idx": request.param,
        "attn_cfg": {"num_heads": 2, "causal": True},
    }
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    torch.save(MambaLM(MambaConfig.from_dict(config)).state_dict(), model / "pytorch_model.bin")
    out = tmp_path / "run.h5"
    task = ["--task", "repeat", "--length", 5, "--count", 2]
    return out, cli("capture", "--model", model, *task, "--layers", 1, "--out", out)


def test_it_says_what_is_there_and_how_it_closes(captured):
    out, said = captured
    assert (said.code, said.err) == (0, "")
    told, _, allowed = said.out.partition(" (")
    assert allowed == "1e-04 allowed)\n"
    begins, _, error = told.rpartition(" ")
    assert begins == f"{out}: 1 layer of softmax attention, 2 prompts, closure error at most"
    assert float(error) < 1e-5
    with open_capture(out) as capture:
        assert capture.layer(1).verdict.answer == "yes"


def test_every_command_reads_it(cli, captured, tmp_path):
    out, _ = captured
    assert cli("verify", out).code == 0
    assert cli("info", out, "--json").json["layers"][0]["closure_error"] < 1e-5
    assert cli("rank-layers", out, "--json").json["layers"][0]["layer"] == 1
    page = tmp_path / "page.html"
    assert cli("report", out, "--out", page).code == 0
    told = html.unescape(page.read_text(encoding="utf-8"))
    assert "Only softmax attention: its maps are the model's own weights." in told
    assert "reproduce what the model computed" not in told
