import os
import re
import shutil

import h5py
import numpy as np
import pytest
from ssmlens_dashboard.library import GrowingError, Library

from ssmlens.errors import SsmlensError, UsageError


def test_captures_are_found_in_files_folders_and_below(tmp_path, write_capture):
    one = write_capture(tmp_path / "one.h5", layers=1, tokens=5)
    (tmp_path / "sub").mkdir()
    write_capture(tmp_path / "sub" / "two", layers=1, tokens=5)
    (tmp_path / "notes.txt").write_text("no capture")
    library = Library([one, tmp_path])
    assert [entry.name for entry in library.entries("capture")] == ["one.h5", "two"]
    assert library.entries("run") == []
    assert Library([tmp_path / "sub" / "two"]).capture(None).layers == (0,)


def test_ids_say_nothing_of_paths(tmp_path, write_capture):
    write_capture(tmp_path / "one.h5", layers=1, tokens=5)
    (entry,) = Library([tmp_path]).entries("capture")
    assert re.fullmatch("[0-9a-f]{10}", entry.id)
    assert (entry.id,) == tuple(e.id for e in Library([tmp_path / "one.h5"]).entries("capture"))


def test_two_of_one_name_are_told_apart_by_their_folders(tmp_path, write_capture):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_capture(tmp_path / folder / "run.h5", layers=1, tokens=5)
    assert [e.name for e in Library([tmp_path]).entries("capture")] == ["a/run.h5", "b/run.h5"]


def test_as_many_folders_are_named_as_tell_two_apart(tmp_path, write_capture):
    for folder in ("a/x", "b/x", "b/y"):
        (tmp_path / folder).mkdir(parents=True)
        write_capture(tmp_path / folder / "run.h5", layers=1, tokens=5)
    write_capture(tmp_path / "other.h5", layers=1, tokens=5)
    names = [e.name for e in Library([tmp_path]).entries("capture")]
    assert names == ["a/x/run.h5", "b/x/run.h5", "y/run.h5", "other.h5"]


def test_captures_of_a_run_bear_its_name(tmp_path, write_capture):
    for sweep in ("first", "second"):
        for run in ("mimetic", f"only-{sweep}"):
            folder = tmp_path / sweep / run
            (folder / "captures").mkdir(parents=True)
            (folder / "metrics.jsonl").write_text("")
            for step in (60, 0):
                write_capture(folder / "captures" / f"step-{step:06}.h5", layers=1, tokens=5)
    write_capture(tmp_path / "teacher.h5", layers=1, tokens=5)
    library = Library([tmp_path])
    entries = library.entries("capture")
    assert [e.name for e in entries[:5]] == [
        "first/mimetic/step-000000.h5",
        "first/mimetic/step-000060.h5",
        "only-first/step-000000.h5",
        "only-first/step-000060.h5",
        "second/mimetic/step-000000.h5",
    ]
    assert entries[-1].name == "teacher.h5"
    assert entries[-1].run is None
    runs = {run.id: run for run in library.entries("run")}
    assert [runs[e.run.id].path for e in entries[:-1]] == [e.path.parents[1] for e in entries[:-1]]
    assert library.capture(entries[1].id).layers == (0,)
    (alone,) = Library([entries[1].path]).entries("capture")
    assert (alone.id, alone.name, alone.run) == (entries[1].id, "step-000060.h5", None)


def test_training_runs_are_listed_apart(tmp_path):
    run = tmp_path / "sweep" / "seed-0"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    library = Library([tmp_path])
    assert [entry.name for entry in library.entries("run")] == ["seed-0"]
    assert library.entries("capture") == []


def test_a_capture_is_opened_once_and_again_when_it_changed(tmp_path, write_capture):
    path = write_capture(tmp_path / "run.h5", layers=1, tokens=5)
    library = Library([tmp_path])
    first = library.capture(None)
    assert library.capture(None) is first
    write_capture(path, layers=2, tokens=7, seed=1)
    second = library.capture(None)
    assert second.layers == (0, 1)
    assert first.layer(0).read("attention_map", 0).shape == (
        5,
        5,
    )  # who still reads the old one can


def test_an_empty_library_says_what_to_type(tmp_path):
    with pytest.raises(UsageError, match="ssmlens capture"):
        Library([tmp_path]).capture(None)
    with pytest.raises(UsageError, match="no longer"):
        Library([tmp_path]).capture("0123456789")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing-here"):
        Library([tmp_path / "nothing-here"])


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("not HDF5")


def _newer(path):
    newer = path.with_suffix(".new")
    shutil.copy(path, newer)
    with h5py.File(newer, "r+") as file:
        file.attrs["schema_version"] = 99
        file.attrs["needs"] = np.bytes_(b"more-than-this")
    newer.rename(path)


def _folder(path):
    path.unlink()
    (path / "x").mkdir(parents=True)


@pytest.mark.parametrize(
    "harm", [_truncate, _empty, _text, _newer, lambda path: path.unlink(), _folder]
)
def test_a_file_that_goes_bad_while_open_is_a_message_without_its_folder(
    tmp_path, write_capture, harm
):
    path = write_capture(tmp_path / "run.h5", layers=1, tokens=5)
    sound = tmp_path / "sound.h5"
    shutil.copy(path, sound)
    library = Library([tmp_path])
    (entry,) = (e for e in library.entries("capture") if e.name == "run.h5")
    assert library.capture(entry.id).layers == (0,)
    harm(path)
    with pytest.raises(SsmlensError) as told:
        library.capture(entry.id)
    assert str(tmp_path) not in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    if path.is_file():
        shutil.copy(sound, path)
        assert library.capture(entry.id).layers == (0,)


def test_a_growing_capture_is_listed_and_refused_by_name(tmp_path, write_capture):
    write_capture(tmp_path / "run", layers=2, tokens=5)
    shutil.move(tmp_path / "run", tmp_path / "run.partial")
    (tmp_path / "run.partial" / "manifest.json").unlink()
    (entry,) = Library([tmp_path]).entries("capture")
    assert entry.growing
    with pytest.raises(GrowingError, match=r"^run is not finished: 2 of its layers .*--resume$"):
        Library([tmp_path]).capture(entry.id)


@pytest.mark.parametrize("opened_on", ["", "run.h5", "run.h5.partial"])
def test_a_capture_has_one_id_and_name_while_it_grows_and_when_it_is_there(
    tmp_path, write_capture, opened_on
):
    done, growing = tmp_path / "run.h5", tmp_path / "run.h5.partial"
    write_capture(growing.with_suffix(""), layers=2, tokens=5)
    shutil.move(done, tmp_path / "aside")
    write_capture(tmp_path / "folder", layers=2, tokens=5).rename(growing)
    library = Library([tmp_path / opened_on])
    (before,) = library.entries("capture")
    assert before.growing
    shutil.move(tmp_path / "aside", done)
    (both,) = library.entries("capture")  # as when it is captured anew
    assert library.capture(both.id).layers == (0, 1)
    shutil.rmtree(growing)
    (after,) = library.entries("capture")
    assert before.id == both.id == after.id
    assert before.name == both.name == after.name == "run.h5"
    assert not both.growing
