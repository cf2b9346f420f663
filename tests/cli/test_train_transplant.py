"""`ssmlens transplant`: a student from each layer of a shipped model, and what it is set beside."""

import dataclasses
import json

import pytest

import ssmlens
from ssmlens.cli.command import parse_options
from ssmlens.cli.transplant import TransplantCommand
from ssmlens.inits.init import choose_mixers
from ssmlens.runs.run import find_runs, open_run
from ssmlens.training.config import TrainConfig
from ssmlens.training.teacher import like_teacher

TEACHER = "copy-mamba1-mimetic"
TINY = {
    "--letters": 20,
    "--length": 4,
    "--min-length": 2,
    "--n-layer": 2,
    "--steps": 2,
    "--batch": 2,
    "--eval-count": 4,
    "--device": "cpu",
}
SMALL = [word for option in TINY.items() for word in option]


def test_students_of_two_layers_beside_the_arms_they_are_held_against(cli, here):
    asked = ["transplant", "--teacher", TEACHER, "--layers", 3, 1, *SMALL, "--out", "out"]
    said = cli(*asked, "--rates", 1e-2, "--figure", "fig.html")
    assert (here / "fig.html").read_text().startswith("<!doctype html>")
    assert said.code == 0, said.err
    title, header, *rows, more = said.out.splitlines()
    assert title.startswith("5 runs in out")
    assert header.split()[:2] == ["arm", "rank"]
    runs = [open_run(path) for path in find_runs(here / "out")]
    cells = sorted((run.arm, run.learning_rate) for run in runs)
    arms = ["default", "mimetic", "shuffled 3", "transplant 1", "transplant 3"]
    assert cells == [(arm, 1e-2) for arm in arms]
    assert [
        " ".join(row.split()[: len(arm.split())])
        for row, arm in zip(sorted(rows), arms, strict=True)
    ] == arms
    assert {run.config["d_model"] for run in runs} == {192}
    assert {(run.config["mixer"], run.config["d_state"]) for run in runs} == {("Mamba1", 32)}
    assert "ssmlens dashboard out" in more

    with ssmlens.open_capture(here / "out" / "teacher.h5") as capture:
        ranking = {row.layer: row for row in ssmlens.rank_layers(capture)}
    for run in runs:
        if run.teacher_layer is None:
            assert run.teacher_scores == {}
            continue
        for name in ("copy_score", "mask_ones", "diagonal_sharpness"):
            wanted = ranking[run.teacher_layer].scores[name]
            assert run.teacher_scores[name] == pytest.approx(wanted, rel=1e-6)

    again = cli(*asked, "--rates", 1e-2, "--json").json
    assert again["layers"] == [3, 1]  # the copying layer is ranked first
    best = {student["arm"]: student for student in again["students"]}
    assert best["transplant 3"]["rank"] == best["shuffled 3"]["rank"] == 1
    assert best["default"]["layer"] is None
    assert set(best["default"]["accuracy"]) == {"4", "8"}
    assert best["shuffled 3"]["control"] == "shuffled"
    assert best["transplant 3"]["control"] == ""


def test_a_student_from_a_file(here):
    """What it learns is the file's; how it starts is the arms'."""
    student = TrainConfig(letters=20, length=3, steps=1)
    mimetic = dataclasses.replace(student, init="mimetic", c=4)
    (here / "student.json").write_text(json.dumps(mimetic.to_dict()))
    words = ["--teacher", TEACHER, "--student", "student.json"]
    assert parse_options(TransplantCommand, "transplant", words).student_config() == student


def test_the_shape_of_a_student_is_its_teachers():
    (site, *_) = choose_mixers(ssmlens.load_model("copy-mamba2-default"))
    shaped = like_teacher(TrainConfig(steps=7, n_layer=3), site)
    module = site.module
    assert (shaped.mixer, shaped.d_model, shaped.expand) == (
        "Mamba2",
        module.d_model,
        module.expand,
    )
    assert (shaped.d_state, shaped.headdim) == (module.d_state, module.headdim)
    assert (shaped.d_conv, shaped.ngroups) == (module.d_conv, module.ngroups)
    assert (shaped.steps, shaped.n_layer) == (7, 3)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"lerning_rate": 1}, "a training config has no lerning_rate; did you mean learning_rate?"),
        ({"steps": "5"}, "--student: --steps is int, not '5'"),
        ({"schedule": "sudden"}, "--schedule is linear or cosine, not 'sudden'"),
        ({"task": "cpoy"}, "--task: unknown task 'cpoy'; did you mean 'copy'?"),
        ({"task": "sort", "letters": 5}, "the sort task needs --letters of at least 20"),
        ({"eval_lengths": [0]}, "--eval-lengths 0: the copy task needs --length of at least 1"),
        ({"attention_layers": [0], "attention_heads": 5}, "--attention-heads 5 does not divide"),
    ],
)
def test_a_bad_student_is_one_line_that_names_the_flag(cli, here, fields, told):
    (here / "student.json").write_text(json.dumps(fields))
    said = cli("transplant", "--teacher", TEACHER, "--student", "student.json")
    assert (said.code, told in said.complaint) == (2, True), said.err
    assert [file.name for file in here.iterdir()] == ["student.json"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--layers all", "give --teacher"),
        ("--teacher nowhere", "unknown model 'nowhere'"),
        (
            f"--teacher {TEACHER} --layers 4",
            "--layers 4: the teacher has Mamba mixers in 0, 1, 2, 3",
        ),
        (f"--teacher {TEACHER} --layers top:9", "give all, top:K (K in 1..4), or indices"),
        (f"--teacher {TEACHER} --layers best", "--layers best: give all, top:K"),
        (f"--teacher {TEACHER} --d-model 128", "--d-model 128 does not fit the teacher"),
        (f"--teacher {TEACHER} --init mimetic", "each arm sets --init; leave it out"),
        (f"--teacher {TEACHER} --teacher-layer 3", "each arm sets --teacher-layer; leave it out"),
        (f"--teacher {TEACHER} --task cpoy", "--task: unknown task 'cpoy'"),
        (f"--teacher {TEACHER} --figure fig.gif", "--figure fig.gif ends in none of .svg, .png"),
        (f"--teacher {TEACHER} --scope all", "scope must be one of"),
        (f"--teacher {TEACHER} --student none.json", "--student: none.json cannot be read"),
        (f"--teacher {TEACHER} --rates 1e-3 0", "--rates 0: --learning-rate is positive, not 0"),
        (f"--teacher {TEACHER} --seeds -1", "--seeds -1: --seed is at least 0, not -1"),
        (f"--teacher {TEACHER} --eval-lengths 0", "--eval-lengths 0: the copy task needs"),
        (f"--teacher {TEACHER} --task sort --length 600", "--letters of at least 600"),
        (
            f"--teacher {TEACHER} --attention-layers 1 --attention-heads 5",
            "--attention-heads 5 does not divide --d-model 192",
        ),
        (f"--teacher {TEACHER} --lerning-rate 1", "--lerning-rate"),
        (
            f"--teacher {TEACHER} --student none.json --steps 3",
            "--student does not go with options",
        ),
    ],
)
def test_bad_use(cli, here, words, told):
    said = cli("transplant", *words.split())
    assert said.code == 2
    assert told in said.complaint
    assert list(here.iterdir()) == []
