"""Each command end to end: what it prints for people and as JSON."""

import shlex
import sys

import pytest

from ssmlens.store import open_capture

SMALL = ("capture", "--model", "copy-mamba2-mimetic", "--layers", 3)


def test_capture_from_letters(cli, here):
    said = cli(*SMALL, "--prompt", "abcd|abcd", "xyz|xyz", "--channels", 4, 2, "--out", "run")
    assert said.code == 0
    assert said.out == "run: 1 layer, 2 prompts, closure error at most 0.0e+00 (1e-04 allowed)\n"
    assert said.err == ""  # short work shows no progress
    with open_capture(here / "run") as capture:
        assert capture.layers == (3,)
        assert capture.length.tolist() == [9, 7]
        assert capture.prompt_texts == ["abcd|abcd", "xyz|xyz"]
        assert capture.layer(3).read("channel").tolist() == [4, 2]
        assert capture.attributes["model"] == "copy-mamba2-mimetic"


def test_the_command_is_kept(cli, here, monkeypatch):
    words = [*map(str, SMALL), "--prompt", "a|a", "--out", "my run"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ssmlens", *words])
    assert cli(*words).code == 0
    with open_capture(here / "my run") as capture:
        assert shlex.split(str(capture.attributes["command"])) == ["ssmlens", *words]


def test_the_default_output_is_the_models_name(cli, here):
    told = cli(*SMALL, "--prompt", "a|a", "--json").json
    assert told["out"] == "copy-mamba2-mimetic.h5"
    assert (here / told["out"]).is_file()
    assert told["complete"] is True
    assert told["closure_error"] == {"3": 0.0}
    assert told["not_finite"] == {}
    assert told["digest"] == cli("info", told["out"], "--json").json["digest"]


def test_files_of_prompts(cli, here):
    (here / "p.jsonl").write_text('{"text": "ab|ab"}\n{"tokens": [5, 1, 5]}\n')
    assert cli(*SMALL, "--prompts", "p.jsonl", "--out", "run").code == 0
    with open_capture(here / "run") as capture:
        assert capture.prompt_kinds == ["text", "tokens"]
        assert capture.tokens.tolist() == [[3, 4, 1, 3, 4], [5, 1, 5, 0, 0]]


def test_tasks_and_their_seed(cli, here):
    for name, seed in (("a", 0), ("b", 0), ("c", 7)):
        options = ["--task", "repeat", "--length", 6, "--count", 3, "--seed", seed]
        assert cli(*SMALL, *options, "--out", name).code == 0
    tokens = {}
    for name in "abc":
        with open_capture(here / name) as capture:
            assert capture.prompt_kinds == ["repeat"] * 3
            tokens[name] = capture.tokens.tolist()
    assert tokens["a"] == tokens["b"] != tokens["c"]


@pytest.mark.parametrize("task", ["copy", "stack", "sort", "recall", "ngram", "repeat"])
def test_every_task_on_a_shipped_model(cli, task):
    said = cli(*SMALL, "--task", task, "--count", 1, "--out", "run.h5")
    assert (said.code, said.err) == (0, "")
    with open_capture("run.h5") as capture:
        assert capture.prompt_kinds == [task]
        assert (capture.target >= 0).any()
    assert cli("rank-layers", "run.h5", "--json").json["layers"][0]["layer"] == 3


def test_one_token(cli):
    assert cli(*SMALL, "--prompt", "a", "--out", "one.h5").code == 0
    assert cli("verify", "one.h5").code == 0
    ranked = cli("rank-layers", "one.h5", "--json").json
    assert ranked["by"] == ["bc_effective"]
    assert all("a one-token prompt has no earlier tokens" in note for note in ranked["notes"])
    assert cli("report", "one.h5", "--out", "one.html").code == 0


def test_shards_then_pack(cli, here):
    whole = ("capture", "--model", "copy-mamba2-mimetic", "--prompt", "abc|abc")
    digest = cli(*whole, "--out", "whole", "--json").json["digest"]
    first = cli(*whole, "--out", "run", "--shard", "1/2", "--json")
    assert first.json == {"out": "run", "complete": False}
    half = cli("info", "run")
    assert half.code == 1
    assert "run.partial is not finished" in half.complaint
    assert cli(*whole, "--out", "run", "--shard", "2/2", "--json").json["digest"] == digest
    packed = cli("pack", "run", "--json").json
    assert packed == {"out": "run.h5", "digest": digest}
    assert cli("pack", "run").complaint.startswith("run.h5 exists; pass --overwrite")
    assert cli("verify", "run.h5").code == cli("verify", "run").code == 0


def test_info_for_people(cli, copies):
    path = copies("copy-mamba2-default", 17)
    lines = cli("info", path).out.splitlines()
    assert lines[0] == str(path)
    assert any(line.split() == ["model", "copy-mamba2-default"] for line in lines)
    assert any(line.startswith("prompt 1: copy, 36 tokens  '") for line in lines)
    assert sum(line.endswith("ssmlens.models.mamba2.Mamba2") for line in lines) == 4
    arrays = cli("info", path, "--json").json["layers"][0]["arrays"]
    assert arrays["delta"] == ["prompt", "token", "head"]
    assert arrays["attention_map"] == ["prompt", "query", "key"]


def test_rank_layers(cli, copies):
    path = copies("copy-mamba1-mimetic", 17)
    table = cli("rank-layers", path, "--top", 1).out.splitlines()
    assert table[0] == "layers by copy_score"
    assert table[2].split()[:2] == ["1", "3"]
    assert table[3].startswith("chance ")
    assert all(line.startswith("note: ") for line in table[4:])
    several = cli("rank-layers", path, "--by", "mask_ones", "diagonal_sharpness", "--json").json
    assert several["by"] == ["mask_ones", "diagonal_sharpness"]
    assert len(several["layers"]) == 4


def test_report(cli, copies, here):
    path = copies("copy-mamba2-default", 17)
    told = cli("report", path, "--out", "page.html", "--json").json
    page = (here / "page.html").read_text()
    assert told == {"out": "page.html", "bytes": len(page.encode())}
    assert page.lstrip().lower().startswith("<!doctype html")
    refused = cli("report", path, "--out", "page.html")
    assert refused.code == 2
    assert refused.complaint.startswith("page.html exists; pass --overwrite")
    assert (here / "page.html").read_text() == page
    assert cli("report", path, "--out", "page.html", "--overwrite").code == 0


def test_scores_are_explained(cli):
    told = {entry["name"]: entry for entry in cli("scores", "--json").json["scores"]}
    listed = cli("scores").out.split("\n\n")
    assert [block.split()[0] for block in listed] == list(told)
    (copying,) = [block for block in listed if block.startswith("copy_score")]
    assert copying.splitlines()[2:] == [
        "  range: 0 to 1",
        f"  chance: {told['copy_score']['chance']}",
    ]


def test_models(cli):
    told = cli("models", "--json").json["models"]
    names = [model["name"] for model in told]
    assert names == sorted(names)
    assert len(names) == 4
    listed = cli("models").out.splitlines()
    assert [line.split()[0] for line in listed] == ["name", *names]


def test_resume_after_an_interrupt(cli, here, monkeypatch):
    from ssmlens.cli import capture as command

    whole = ("capture", "--model", "copy-mamba2-mimetic", "--prompt", "abc|abc")
    digest = cli(*whole, "--out", "whole", "--json").json["digest"]

    class Interrupted:
        def __enter__(self):
            return self.tell

        def __exit__(self, *_):
            return None

        def tell(self, done, total, what=""):
            if done == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "progress", lambda title: Interrupted())
        said = cli(*whole, "--out", "run")
    assert (said.code, said.complaint) == (130, "interrupted")
    assert not (here / "run").exists()
    assert len(list((here / "run.partial").glob("layer-*.h5"))) == 2
    assert "--resume" in cli(*whole, "--out", "run").complaint
    assert cli(*whole, "--out", "run", "--resume", "--json").json["digest"] == digest
    assert not (here / "run.partial").exists()


@pytest.fixture
def tampered(monkeypatch):
    """tampered(factor): from now on layer 1 of every loaded model puts out `factor` times what it computes."""
    from ssmlens.adapters import load

    real = load.load_model

    def tamper(factor):
        def load_model(*args, **kwargs):
            model = real(*args, **kwargs)
            model.backbone.layers[1].mixer.register_forward_hook(lambda _, __, out: factor * out)
            return model

        monkeypatch.setattr(load, "load_model", load_model)

    return tamper


@pytest.mark.parametrize("factor", [1.01, -1, 0])
def test_a_layer_that_does_not_close_fails_by_name(cli, here, tampered, factor):
    tampered(factor)
    whole = ("capture", "--model", "copy-mamba2-mimetic", "--prompt", "abc|abc", "--out", "run")
    said = cli(*whole)
    assert said.code == 1
    assert said.complaint.startswith("layer 1 (ssmlens Mamba2): recomputed output differs by ")
    assert not (here / "run").exists()
    kept = cli(*whole, "--keep-going", "--resume", "--json")
    assert kept.code == 0
    error = kept.json["closure_error"][
        "1"
    ]  # infinite where the layer put out nothing: JSON has no such number
    assert error is None if factor == 0 else error == pytest.approx(abs(1 - 1 / factor), rel=1e-3)
    verified = cli("verify", "run")
    assert verified.code == 1
    assert all(line.startswith("layer 1: ") for line in verified.out.splitlines())
    assert "closure error" in verified.out
    assert cli("info", "run", "--json").json["layers"][1]["closure_error"] == error
    assert cli("rank-layers", "run", "--json").code == 0
