"""`ssmlens compare` of runs that were measured running freely, and of some that were not."""

import pytest

TINY = {
    "--length": 4,
    "--letters": 5,
    "--d-model": 16,
    "--n-layer": 1,
    "--d-state": 8,
    "--headdim": 8,
    "--steps": 2,
    "--batch": 4,
    "--eval-count": 8,
    "--device": "cpu",
}
SMALL = [word for option in TINY.items() for word in option]


def test_what_is_measured_running_freely_can_be_compared(cli):
    said = cli("train", *SMALL, "--free-running", "--out", "runs/one", "--json")
    assert said.code == 0, said.err
    ((_, measured), *_) = said.json["runs"][0]["accuracy"].items()
    assert cli("train", *SMALL, "--free-running", "--seed", 1, "--out", "runs/two").code == 0
    title, _, row, _ = cli("compare", "runs", "--measure", "char_free").out.splitlines()
    assert title == "characters right, running freely at length 4"
    told = cli("compare", "runs", "--measure", "char_free", "--length", 8, "--json").json
    assert (told["length"], told["chosen_at"]) == (8, 4)
    told = cli("compare", "runs", "--measure", "char_free", "--json").json
    (arm,) = told["arms"]
    assert f"{arm['overall']:.3f}" in row
    low, high = arm["overall_spread"]
    assert low <= measured["char_free"] <= high
    assert arm["overall"] == arm["best"], "of one rate"


def test_it_is_told_beside_the_other_accuracy(cli):
    said = cli("train", *SMALL, "--free-running", "--out", "one").out
    assert said.count("(free-running ") == 2, "at both lengths"
    assert "(free-running" not in cli("train", *SMALL, "--out", "two").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--measure char_free", "no run has measured characters right, running freely; train with"),
        ("--length 5", "--length 5: no run was measured at it; measured: 4, 8"),
        ("--choose-at 5", "--choose-at 5: no run was measured at it; measured: 4, 8"),
        ("--measure letters", "--measure"),
        ("--threshold nan", "--threshold is above 0 and at most 1, not nan"),
    ],
)
def test_bad_use(cli, words, told):
    assert cli("train", *SMALL, "--out", "runs/one").code == 0
    said = cli("compare", "runs", *words.split())
    assert said.code == 2
    assert told in said.complaint
