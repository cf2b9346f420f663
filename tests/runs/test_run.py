"""Run folders as a trainer writes them, half-writes them, and as somebody hostile would."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ssmlens.errors import RunFileError, UsageError
from ssmlens.runs import run as runs
from ssmlens.runs.measures import SHARES, WORDS
from ssmlens.runs.run import find_runs, open_run
from ssmlens.runs.table import tabulate


@pytest.fixture
def folder(tmp_path):
    """A run of three steps, evaluated twice at lengths 25 and 50."""
    path = tmp_path / "run-a"
    path.mkdir()
    config = {
        "arm": "mimetic",
        "seed": 3,
        "learning_rate": 1e-3,
        "length": 25,
        "model": {"d_model": 64},
    }
    (path / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": 1, "split": "train", "loss": 3.0},
        {"step": 2, "split": "train", "loss": 2.5},
        {"step": 2, "split": "eval", "length": 50, "loss": 2.0, "char": 0.25, "string": 0.0},
        {"step": 2, "split": "eval", "length": 25, "loss": 1.0, "char": 0.5, "string": 0.1},
        {"step": 3, "split": "train", "loss": None},
        {"step": 3, "split": "eval", "length": 25, "loss": 0.9, "char": 0.75, "string": 0.5},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = {"state": "running", "step": 3, "steps": 10, "seconds": 1.5}
    (path / "status.json").write_text(json.dumps(status))
    return path


HOLD = """
import sys, time
from pathlib import Path
from ssmlens.files.lock import Lock
lock = Lock(Path(sys.argv[1]), Path("x"), "busy")
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("status", ['{"state": "running", "step": 3}', None])
def test_a_run_that_nobody_trains_any_more_is_stopped(folder, status):
    (folder / "status.json").unlink()
    if status:
        (folder / "status.json").write_text(status)
    going = "running" if status else "starting"
    assert open_run(folder).status.state == going  # no lock: what it says is believed
    lock = folder / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE) as trainer:
        trainer.stdout.readline()
        run = open_run(folder)
        assert run.status.state == going
        assert run.reread() is run
        trainer.kill()
    again = run.reread()
    assert again.status == dataclasses.replace(run.status, state="stopped")
    assert again.reread() is again
    (folder / "status.json").write_text('{"state": "failed", "error": "no"}')
    assert open_run(folder).status.state == "failed"


def append(folder, text):
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(text)


def test_a_run_says_what_it_is_and_what_it_measured(folder):
    run = open_run(folder)
    assert (run.name, run.arm, run.seed, run.learning_rate, run.length) == (
        "run-a",
        "mimetic",
        3,
        1e-3,
        25,
    )
    assert run.teacher_layer is None
    assert run.teacher_scores == {}
    assert (run.status.state, run.status.step, run.status.steps, run.status.seconds) == (
        "running",
        3,
        10,
        1.5,
    )
    assert run.config["model"] == {"d_model": 64}
    assert run.metrics.lengths() == [25, 50]
    steps, loss = run.metrics.curve("loss")
    assert steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(loss, [3.0, 2.5, np.nan])
    steps, char = run.metrics.curve("char", "eval", 25)
    assert (steps.tolist(), char.tolist()) == ([2, 3], [0.5, 0.75])
    assert run.metrics.final("string", 25) == 0.5
    assert np.isnan(run.metrics.final("string", 99))
    assert len(run.metrics.curve("loss", "no such split")[0]) == 0


def test_splits_are_kept_apart_where_neither_tells_a_length(folder):
    append(folder, '{"step": 1, "split": "eval", "loss": 7.0}\n')
    metrics = open_run(folder).metrics
    steps, loss = metrics.curve("loss", "eval")
    assert (steps.tolist(), loss.tolist()) == ([1], [7.0])
    assert metrics.curve("loss")[1].tolist()[:2] == [3.0, 2.5]


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    run = open_run(tmp_path)
    assert (run.arm, run.seed, run.status.state, len(run.metrics)) == ("run", None, "starting", 0)
    assert np.isnan(run.learning_rate)
    assert run.metrics.lengths() == []
    assert tabulate([run]).sizes == {"run": 1, "length": 0}


def test_a_half_written_line_waits_for_its_end(folder):
    append(folder, '{"step": 4, "split": "train", "lo')
    run = open_run(folder)
    assert run.metrics.curve("loss")[0].tolist() == [1, 2, 3]
    append(folder, 'ss": 2.25}\n{"step"')
    later = run.reread()
    assert later.metrics.curve("loss")[0].tolist() == [1, 2, 3, 4]
    assert later.metrics.curve("loss")[1][-1] == 2.25
    assert run.metrics.curve("loss")[0].tolist() == [1, 2, 3], (
        "what was read before stays as it was"
    )


def test_only_what_grew_is_read(folder, monkeypatch):
    run = open_run(folder)
    read = []
    whole = runs.read_metrics
    monkeypatch.setattr(
        runs, "read_metrics", lambda path, known: read.append(known.end) or whole(path, known)
    )
    assert run.reread() is run
    assert read == []
    before = (folder / "metrics.jsonl").stat().st_size
    append(folder, '{"step": 4, "split": "train", "loss": 2}\n')
    assert run.reread().metrics.curve("loss")[0].tolist() == [1, 2, 3, 4]
    assert read == [before]


def test_a_run_that_resumes_is_read_from_the_start(folder):
    run = open_run(folder)
    first = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:1]
    longer = [json.dumps({"step": s, "split": "train", "loss": s / 2}) + "\n" for s in range(2, 40)]
    (folder / "metrics.jsonl").write_text("".join(first + longer))
    steps, loss = run.reread().metrics.curve("loss")
    assert steps.tolist() == list(range(1, 40))
    assert loss.tolist() == [3.0, *(s / 2 for s in range(2, 40))]
    (folder / "metrics.jsonl").write_text("".join(first))
    assert run.reread().metrics.curve("loss")[0].tolist() == [1]


def test_where_a_step_comes_twice_the_later_line_counts(folder):
    append(folder, '{"step": 2, "split": "train", "loss": 7}\n\n')
    steps, loss = open_run(folder).metrics.curve("loss")
    assert steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(loss, [3.0, 7.0, np.nan])


BAD_LINES = [
    "nonsense",
    "[1, 2]",
    '"step"',
    "{}",
    '{"step": 5}',
    '{"step": -1, "split": "train"}',
    '{"step": 1.5, "split": "train"}',
    '{"step": true, "split": "train"}',
    '{"step": 99999999999999999999999, "split": "train"}',
    '{"step": 9007199254740993, "split": "train"}',
    '{"step": 5, "split": 7}',
    '{"step": 5, "split": "' + "x" * 65 + '"}',
    '{"step": 5, "split": "train", "loss": NaN}',
    '{"step": 5, "split": "train", "loss": -Infinity}',
    '{"step": 5, "split": "train", "loss": 1e999}',
    '{"step": 5, "split": "train", "loss": "1"}',
    '{"step": 5, "split": "train", "loss": false}',
    '{"step": 5, "split": "train", "loss": ' + "9" * 5000 + "}",
    '{"step": 5, "split": "eval", "length": -4}',
    '{"step": 5, "split": "eval", "length": [1]}',
    '{"step": 5, "split": "train", "more": ' + "[" * 100_000,
    '{"step": 5, "split": "train", "more": "' + "x" * 70_000 + '"}',
    '{"step": 5, "split": "train", \udcff}',
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named(folder, line):
    with (folder / "metrics.jsonl").open("ab") as stream:
        stream.write(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(RunFileError, match=r"metrics\.jsonl: line 7: ") as told:
        open_run(folder)
    assert len(str(told.value)) < 400 + len(str(folder))
    assert "\n" not in str(told.value)


def test_a_bad_line_is_counted_from_the_start_when_it_comes_later(folder):
    run = open_run(folder)
    append(folder, '{"step": 4, "split": "train"}\nnonsense\n')
    with pytest.raises(RunFileError, match="line 8"):
        run.reread()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "["),
        ("config.json", "[]"),
        ("config.json", '{"learning_rate": Infinity}'),
        ("config.json", '{"learning_rate": "fast"}'),
        ("config.json", '{"arm": {"a": 1}}'),
        ("config.json", '{"arm": "' + "x" * 100 + '"}'),
        ("config.json", '{"seed": 1.5}'),
        ("config.json", '{"teacher_layer": -3}'),
        ("config.json", '{"a": ' + "[" * 100_000),
        ("config.json", " " * (1 << 20) + "{}"),
        ("status.json", '{"state": "gone"}'),
        ("status.json", '{"state": "running", "step": "x"}'),
        ("status.json", '{"state": "failed", "error": ["x"]}'),
        ("scores.json", '{"scores": [1]}'),
        ("scores.json", '{"scores": {"mask_ones": "1"}}'),
        ("scores.json", '{"scores": {"mask_ones": NaN}}'),
        ("scores.json", json.dumps({"scores": {f"s{i}": i for i in range(300)}})),
    ],
)
def test_bad_files_beside_the_metrics_are_named(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(RunFileError, match=name):
        open_run(folder)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "status.json", "scores.json"])
def test_links_and_pipes_are_not_followed(folder, tmp_path, name):
    secret = tmp_path / "secret"
    secret.write_text('{"arm": "stolen"}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(RunFileError, match="it is a link"):
        open_run(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(RunFileError, match="not a plain file"):
        open_run(folder)


def test_a_file_too_large_is_refused_unread(folder):
    os.truncate(folder / "metrics.jsonl", (64 << 20) + 1)
    with pytest.raises(RunFileError, match="more than 67108864"):
        open_run(folder)


def test_a_run_that_is_gone(folder):
    run = open_run(folder)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="there is no run"):
        run.reread()


def test_scores_of_a_transplant(folder):
    (folder / "config.json").write_text('{"arm": "transplant", "teacher_layer": 31}')
    (folder / "scores.json").write_text(
        '{"layer": 31, "scores": {"mask_ones": 0.5, "copy_score": null}}'
    )
    run = open_run(folder)
    assert run.teacher_layer == 31
    assert run.teacher_scores["mask_ones"] == 0.5
    assert np.isnan(run.teacher_scores["copy_score"])


def test_runs_are_found_below_a_folder_and_not_through_links(folder, tmp_path):
    for name in ("sweep/b", "sweep/a", "sweep/.hidden", "one/two/three/four"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").touch()
    (tmp_path / "sweep" / "c").symlink_to(folder)
    (tmp_path / "sweep" / "around").symlink_to(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in find_runs(tmp_path)] == [
        "run-a",
        "sweep/a",
        "sweep/b",
    ]
    assert find_runs(folder) == [folder]
    with pytest.raises(UsageError, match="no folder"):
        find_runs(tmp_path / "nowhere")


def test_a_table_of_runs(folder, tmp_path):
    other = tmp_path / "run-b"
    other.mkdir()
    (other / "config.json").write_text('{"arm": "default", "seed": 0}')
    (other / "metrics.jsonl").write_text(
        '{"step": 9, "split": "eval", "length": 100, "char": 0.125}\n'
    )
    table = tabulate([open_run(folder), open_run(other)])
    assert table["arm"].values.tolist() == ["mimetic", "default"]
    assert table["seed"].values.tolist() == [3, 0]
    assert table["teacher_layer"].values.tolist() == [-1, -1]
    assert table["state"].values.tolist() == ["running", "starting"]
    np.testing.assert_array_equal(table["learning_rate"], [1e-3, np.nan])
    assert table["length"].values.tolist() == [25, 50, 100]
    np.testing.assert_array_equal(table["char"], [[0.75, 0.25, np.nan], [np.nan, np.nan, 0.125]])
    np.testing.assert_array_equal(table["train_loss"], [np.nan, np.nan])
    assert tabulate([]).sizes == {"run": 0, "length": 0}


def test_accuracy_of_a_model_that_runs_freely_is_read_where_it_was_measured(folder):
    append(
        folder,
        '{"step": 4, "split": "eval", "length": 25, "char": 0.8, "char_free": 0.5, "string_free": null}\n',
    )
    metrics = open_run(folder).metrics
    assert metrics.final("char_free", 25) == 0.5
    assert np.isnan(metrics.curve("char_free", "eval", 25)[1][:-1]).all(), "earlier lines lack it"
    assert np.isnan(metrics.final("string_free", 25))
    assert np.isnan(metrics.final("char_free", 50))
    assert set(WORDS) == {"loss", "bits", *SHARES}


@pytest.mark.parametrize(
    ("told", "shuffled"), [({}, False), ({"shuffled": True}, True), ({"shuffled": "no"}, False)]
)
def test_a_control_says_that_it_is_one(folder, told, shuffled):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | told))
    assert open_run(folder).shuffled is shuffled


def test_measures_without_words_are_kept_under_their_names(folder):
    """Beside text and lists, which are no measures; and read again only where the file grew."""
    extra = {"f1": 0.5, "grad_norm": 2, "note": "x", "list": [1], "none": None, "flag": True}
    append(folder, json.dumps({"step": 4, "split": "eval", "length": 25, **extra}) + "\n")
    run = open_run(folder)
    assert run.metrics.measures() == ["loss", "char", "string", "f1", "grad_norm"]
    assert run.metrics.measures("train") == ["loss"]
    assert (run.metrics.final("f1", 25), run.metrics.final("grad_norm", 25)) == (0.5, 2)
    append(folder, '{"step": 5, "split": "train", "grad_norm": 3}\n')
    append(folder, '{"step": 6, "split": "eval", "length": 25, "f1": 0.75}\n')
    later = run.reread()
    assert later.metrics.curve("f1", "eval", 25)[1][-2:].tolist() == [0.5, 0.75]
    assert later.metrics.curve("grad_norm")[1][-1] == 3
    table = tabulate([later])
    np.testing.assert_array_equal(table["f1"], [[0.75, np.nan]])
    assert table["train_grad_norm"].values.tolist() == [3]
    assert table["train_loss"].isnull().all(), "not in the last line of training"
    assert run.metrics.measures("train") == ["loss"], "what was read before stays as it was"


def test_a_measure_named_like_a_column_of_the_table_does_not_hide_it(folder, tmp_path):
    append(folder, '{"step": 4, "split": "eval", "length": 25, "seed": 0.5, "a/b": 0.25}\n')
    table = tabulate([open_run(folder)])
    assert table["seed"].values.tolist() == [3]
    np.testing.assert_array_equal(table["seed_"], [[0.5, np.nan]])
    table.to_netcdf(tmp_path / "table.nc", engine="h5netcdf")


def test_too_many_measures_are_refused(folder):
    names = {f"m{k}": k for k in range(70)}
    append(folder, json.dumps({"step": 4, "split": "train", **names}) + "\n")
    with pytest.raises(RunFileError, match="more than 64 measures"):
        open_run(folder)
    append(folder, "")


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_measure_has_a_name_of_a_bounded_length(folder, name):
    append(folder, json.dumps({"step": 4, "split": "train", name: 1.0}) + "\n")
    with pytest.raises(RunFileError, match="line 7: the name of a measure"):
        open_run(folder)


@pytest.mark.parametrize("start", ["init", [1], {"a": 1}])
def test_what_says_how_a_model_starts_is_a_list_of_names(folder, start):
    (folder / "config.json").write_text(json.dumps({"start": start}))
    with pytest.raises(RunFileError, match="start is not a list of names"):
        open_run(folder)


def test_arms_may_differ_in_how_they_start_and_in_nothing_else(folder):
    def setting(**more):
        config = {"arm": "a", "init": "mimetic", "batch": 8, "seed": 1, "learning_rate": 0.1}
        (folder / "config.json").write_text(json.dumps(config | more))
        return open_run(folder).setting

    assert setting() == {"batch": 8}
    assert setting(new=1) == {"batch": 8, "new": 1}
    assert setting(new=1, start=["arm", "init", "new"]) == {"batch": 8}
