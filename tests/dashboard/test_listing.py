"""What the dashboard lists: once, at the time it is there, and by the rule by which runs are found."""

import os
import time

import pytest
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.listing import Listing

from ssmlens.runs.run import find_runs


def run(path):
    path.mkdir(parents=True)
    (path / "metrics.jsonl").touch()
    return path


def age(folder):
    before = time.time() - 3600
    for path, _, _ in os.walk(folder):
        os.utime(path, (before, before))


def paths(library, kind):
    return [entry.path for entry in library.entries(kind)]


@pytest.fixture
def linked(tmp_path, write_capture):
    """A served folder with links out of it, within it and around, to captures and to runs."""
    served, aside = tmp_path / "served", tmp_path / "aside"
    run(served / "sweep" / "a")
    run(aside / "run")
    one = write_capture(served / "one.h5", layers=1, tokens=5)
    write_capture(aside / "secret.h5", layers=1, tokens=5)
    write_capture(aside / "folder", layers=1, tokens=5)
    (served / "aside").symlink_to(aside)
    (served / "secret.h5").symlink_to(aside / "secret.h5")
    (served / "folder").symlink_to(aside / "folder")
    (served / "run").symlink_to(aside / "run")
    (served / "loop").symlink_to(served)
    (served / "link.h5").symlink_to(one)
    (served / "sweep" / "a" / "captures").symlink_to(aside)
    return served


def test_links_are_not_followed(linked):
    library = Library([linked])
    assert paths(library, "capture") == [linked / "one.h5"]
    assert paths(library, "run") == [linked / "sweep" / "a"]


def test_what_is_named_itself_may_be_a_link(linked):
    (entry,) = Library([linked / "secret.h5"]).entries("capture")
    assert entry.path == linked.parent / "aside" / "secret.h5"


def test_links_that_are_followed_show_each_thing_once(linked):
    library = Library([linked], follow_links=True)
    aside = linked.parent / "aside"
    captures = [path.resolve() for path in paths(library, "capture")]
    assert sorted(captures) == [aside / "folder", aside / "secret.h5", linked / "one.h5"]
    assert linked / "one.h5" in paths(library, "capture"), "under its own name"
    runs = [path.resolve() for path in paths(library, "run")]
    assert sorted(runs) == [aside / "run", linked / "sweep" / "a"]
    for entry in library.entries("capture"):
        assert library.capture(entry.id).layers == (0,)


def test_runs_are_those_that_find_runs_finds(linked, tmp_path):
    for name in ("b", ".hidden", "one/two/three", "one/two/too/deep", "sweep/a/inside", "cap/run"):
        run(linked / name)
    (linked / "cap" / "manifest.json").touch()
    assert paths(Library([linked]), "run") == find_runs(linked)
    assert linked / "cap" / "run" in find_runs(linked)


def test_no_more_runs_are_listed_than_are_found(linked, monkeypatch):
    for name in "bcd":
        run(linked / name)
    monkeypatch.setattr("ssmlens.runs.run.MOST_RUNS", 2)
    monkeypatch.setattr("ssmlens_dashboard.listing.MOST_RUNS", 2)
    assert paths(Library([linked]), "run") == find_runs(linked) == [linked / "b", linked / "c"]


def test_folders_are_not_read_anew_as_long_as_nothing_changes(tmp_path, write_capture, monkeypatch):
    run(tmp_path / "a")
    write_capture(tmp_path / "two", layers=3, tokens=5)
    age(tmp_path)
    read, scandir, listdir = [], os.scandir, os.listdir
    monkeypatch.setattr(os, "scandir", lambda *at: read.append(at) or scandir(*at))
    monkeypatch.setattr(os, "listdir", lambda *at: read.append(at) or listdir(*at))
    library = Library([tmp_path])
    library.capture(None)
    first = len(read)
    assert first >= 3
    for _ in range(20):
        (entry,) = library.entries("capture")
        library.capture(entry.id)
        library.entries("run")
    assert len(read) == first
    write_capture(tmp_path / "three.h5", layers=1, tokens=5)
    assert [entry.name for entry in library.entries("capture")] == ["three.h5", "two"]


def test_many_folders_are_looked_at_once_a_second(tmp_path, monkeypatch):
    for number in range(300):
        run(tmp_path / f"{number:03}")
    now = [100.0]
    monkeypatch.setattr("ssmlens_dashboard.listing.time.monotonic", lambda: now[0])
    listing = Listing([tmp_path])
    assert len(listing.entries("run")) == 300
    run(tmp_path / "300")
    assert len(listing.entries("run")) == 300
    now[0] += 1.0
    assert len(listing.entries("run")) == 301


def test_few_folders_are_looked_at_at_every_request(tmp_path):
    listing = Listing([tmp_path])
    for number in range(20):
        run(tmp_path / f"{number:03}")
        assert len(listing.entries("run")) == number + 1


def test_a_name_that_is_no_text_has_an_id(tmp_path):
    run(tmp_path / os.fsdecode(b"caf\xe9"))
    (entry,) = Listing([tmp_path]).entries("run")
    assert len(entry.id) == 10
