"""`ssmlens capture --effects`, then the ranking by what was measured: on models whose copying layer is known."""

import pytest

COPYING = {"copy-mamba2-default": 1, "copy-mamba2-mimetic": 3}


@pytest.mark.parametrize("name", COPYING)
def test_cross_talk_finds_the_layer_that_copies_and_ablation_the_one_that_all_passes(
    cli, tmp_path, name
):
    out = tmp_path / "run.h5"
    task = ["--task", "copy", "--length", 30, "--count", 2]
    said = cli("capture", "--model", name, *task, "--effects", "--out", out)
    assert said.code == 0, said.err
    assert cli("verify", out).code == 0

    def ranked(*by):
        return cli("rank-layers", out, *by, "--json").json

    looks = ranked()
    assert looks["by"] == ["copy_score"]
    assert looks["layers"][0]["layer"] == COPYING[name]
    assert looks["layers"][0]["scores"]["cross_talk_effect"] < -5
    (note,) = [note for note in looks["notes"] if note.startswith("scores and effects disagree")]
    assert f"copy_score layer {COPYING[name]}, ablation_effect layer 0" in note
    assert ranked("--by", "cross_talk_effect")["layers"][0]["layer"] == COPYING[name]
    assert ranked("--by", "ablation_effect")["layers"][0]["layer"] == 0


def test_prompts_without_targets_and_captures_without_effects_say_so(cli, tmp_path):
    out = tmp_path / "run.h5"
    model = ["--model", "copy-mamba2-default", "--layers", 0, "--out", out]
    refused = cli("capture", *model, "--prompt", "abc", "--effects")
    assert refused.code == 2
    assert refused.complaint.startswith("effects are measured at the prompts' targets")
    assert not out.exists()
    assert cli("capture", *model, "--prompt", "abc").code == 0
    complaint = cli("rank-layers", out, "--by", "ablation_effect").complaint
    assert "captured without effects: see --effects" in complaint
