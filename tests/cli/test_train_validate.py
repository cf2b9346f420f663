"""`ssmlens validate-ranking`: the table over the students of a shipped model's layers."""

import json

import pytest

from ssmlens.runs.run import find_runs, open_run

TEACHER = "copy-mamba1-mimetic"
TINY = {
    "--letters": 20,
    "--length": 4,
    "--min-length": 2,
    "--n-layer": 1,
    "--steps": 2,
    "--batch": 2,
    "--eval-count": 4,
    "--device": "cpu",
}
SMALL = [word for option in TINY.items() for word in option]


def test_a_teacher_and_its_numbers(cli, here):
    asked = ["validate-ranking", "--teacher", TEACHER, *SMALL, "--out", "out"]
    asked += ["--rates", 1e-3, "--seeds", 0, "--layers", 0, 1, 3]
    said = cli(*asked, "--figure", "fig.html")
    assert said.code == 0, said.err
    title, header, first, *_ = said.out.splitlines()
    assert title.startswith("3 layers, 1 complete seed, char at 8")
    assert header.split()[:2] == ["score", "ρ"]
    assert first.split()[0] == "rank-layers"
    assert "order of rank-layers: copy_score" in said.out
    page = (here / "fig.html").read_text()
    assert "mask_ones" in page
    assert "teacher layer" in page

    told = cli(*asked, "--json").json
    assert told["layers"] == [0, 1, 3]
    by_name = {it["score"]: it for it in told["predictions"]}
    runs = [open_run(path) for path in find_runs(here / "out")]
    assert len(runs) == 2 + 3 + 3, "default, mimetic, real and shuffled"
    reached = {run.teacher_layer: run for run in runs if not run.control}
    assert told["real"] == [reached[n].metrics.final("char", 8) for n in told["layers"]]
    scores = [reached[n].teacher_scores["copy_score"] for n in told["layers"]]
    if len(set(told["real"])) > 1:
        assert by_name["copy_score"]["rho"] == pytest.approx(by_name["rank-layers"]["rho"])
        assert (by_name["copy_score"]["rho"] > 0) == (concordant(scores, told["real"]) > 0)
    else:
        assert by_name["copy_score"]["rho"] is None
    assert "log_scale" in reached[0].teacher_scores
    assert "log_scale" not in by_name
    json.dumps(told, allow_nan=False)


def concordant(a, b):
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    return sum((a[i] - a[j]) * (b[i] - b[j]) > 0 for i, j in pairs) - len(pairs) / 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--layers all", "give --teacher"),
        (
            f"--teacher {TEACHER} --controls some",
            "--controls some: choose from best, all, shuffled",
        ),
        (f"--teacher {TEACHER} --controls best all", "--controls: give best or all, not both"),
    ],
)
def test_bad_use(cli, here, words, told):
    said = cli("validate-ranking", *words.split())
    assert said.code == 2
    assert told in said.complaint
    assert list(here.iterdir()) == []


def test_fewer_than_three_layers_have_no_order(cli, here):
    said = cli(
        *["validate-ranking", "--teacher", TEACHER, *SMALL, "--layers", 0, "--out", "out"],
        *["--rates", 1e-3, "--seeds", 0, "--controls", "best", "gaussian", "memory-only"],
    )
    assert "students of 1 layers: an order needs at least three" in said.err
    arms = {open_run(path).arm for path in find_runs(here / "out")}
    assert arms == {"default", "mimetic", "transplant 0", "gaussian 0", "memory-only 0"}
