"""What is found below a folder, and that a folder is read anew only when it has changed."""

import os
import time

import pytest

from ssmlens.errors import OpenFilesError
from ssmlens.files.folders import Folders


def never(_):
    return False


def tree(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def age(folder):
    """Make a folder and all below it look as if nothing had changed for an hour."""
    before = time.time() - 3600
    for path, _, _ in os.walk(folder):
        os.utime(path, (before, before))


def names(folders, root, ends=never, **more):
    return [path.relative_to(root).as_posix() for path, _ in folders.walk(root, ends, **more)]


@pytest.fixture
def reads(monkeypatch):
    """The directories that were read, in order."""
    read, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: read.append(path) or scandir(path))
    return read


def test_folders_are_walked_in_the_order_of_names_three_levels_down(tmp_path):
    tree(tmp_path, "b/x", "a/x", "a/b/c/d/x", ".hidden/x", "a/.hidden/x")
    assert names(Folders(), tmp_path) == [".", "a", "a/b", "a/b/c", "b"]
    assert names(Folders(), tmp_path, depth=1) == [".", "a", "b"]
    assert names(Folders(), tmp_path, depth=0) == ["."]
    assert names(Folders(), tmp_path, lambda listed: "x" in listed.files) == [
        *(".", "a", "b"),
    ]


def test_what_a_folder_holds_is_told_by_kind(tmp_path):
    tree(tmp_path, "two", "one", ".three", "sub/x")
    (tmp_path / "link").symlink_to("one")
    os.mkfifo(tmp_path / "pipe")
    listed = Folders().listed(tmp_path)
    assert (listed.files, listed.folders, listed.links) == (("one", "two"), ("sub",), ("link",))
    assert Folders().listed(tmp_path / "one") is None
    assert Folders().listed(tmp_path / "nothing") is None


def test_a_folder_is_read_once_as_long_as_it_does_not_change(tmp_path, reads):
    tree(tmp_path, "a/x", "b/x")
    age(tmp_path)
    reads.clear()
    folders = Folders()
    for _ in range(5):
        assert names(folders, tmp_path) == [".", "a", "b"]
    assert reads == [tmp_path, tmp_path / "a", tmp_path / "b"]
    tree(tmp_path, "b/y")
    ((_, held),) = (it for it in folders.walk(tmp_path, never) if it[0].name == "b")
    assert held.files == ("x", "y")
    assert reads[3:] == [tmp_path / "b"]


def test_a_folder_that_has_just_changed_is_read_again(tmp_path, reads):
    """Its time may stay the same at the next change: file systems count in milliseconds."""
    tree(tmp_path, "x")
    folders = Folders()
    for _ in range(3):
        assert folders.listed(tmp_path).files == ("x",)
    assert len(reads) == 3


def test_a_change_that_hides_its_time_is_seen(tmp_path):
    tree(tmp_path, "x")
    age(tmp_path)
    folders, before = Folders(), tmp_path.stat()
    assert folders.listed(tmp_path).files == ("x",)
    tree(tmp_path, "y")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folders.listed(tmp_path).files == ("x", "y")


def test_another_folder_of_the_same_age_and_name_is_read(tmp_path):
    for name in ("old", "new"):
        tree(tmp_path, f"{name}/{name}")
    age(tmp_path)
    folders = Folders()
    assert folders.listed(tmp_path / "old").files == ("old",)
    (tmp_path / "old").rename(tmp_path / "aside")
    (tmp_path / "new").rename(tmp_path / "old")
    assert folders.listed(tmp_path / "old").files == ("new",)


def test_no_link_is_followed(tmp_path):
    tree(tmp_path, "inside/x", "outside/y")
    (tmp_path / "inside" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "inside" / "round").symlink_to(tmp_path / "inside")
    assert names(Folders(), tmp_path / "inside") == ["."]


def test_links_that_are_followed_lead_to_each_place_once(tmp_path):
    tree(tmp_path, "inside/b/x", "outside/y")
    inside = tmp_path / "inside"
    (inside / "a").symlink_to(tmp_path / "outside")
    (inside / "again").symlink_to(tmp_path / "outside")
    (inside / "b" / "round").symlink_to(inside)
    (inside / "to-b").symlink_to(inside / "b")
    (inside / "nowhere").symlink_to(inside / "nothing")
    (inside / "itself").symlink_to(inside / "itself")
    (inside / "b" / "z").symlink_to(tmp_path / "outside" / "y")
    folders = Folders(follow_links=True)
    found = {
        path.relative_to(inside).as_posix(): held for path, held in folders.walk(inside, never)
    }
    assert list(found) == [".", "b", "a"]
    assert found["b"].files == ("x", "z"), "a link to a file is among the files"
    assert found["a"].files == ("y",)


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path, monkeypatch):
    tree(tmp_path, "a/x", "b/x")
    scandir = os.scandir

    def refuse(path):
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(Folders(), tmp_path) == [".", "b"]


@pytest.mark.parametrize("number", [23, 24])
def test_a_process_that_may_open_no_more_files_is_told_so(tmp_path, monkeypatch, number):
    def refuse(_):
        raise OSError(number, "Too many open files")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OpenFilesError, match="too many files are open"):
        names(Folders(), tmp_path)
