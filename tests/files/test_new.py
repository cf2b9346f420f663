"""Files and folders are complete or absent, whoever else writes them or has put a link there."""

import os
import stat

import pytest

from ssmlens.errors import SsmlensError
from ssmlens.files import place
from ssmlens.files.new import ensure_folder, new_file, new_folder, write_file


class Killed(BaseException):
    pass


def killed_while_writing(path):
    with pytest.raises(Killed), new_file(path) as file:  # noqa: PT012
        file.write(b"sec")
        raise Killed


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_writers_of_one_name_never_meet_in_a_file(tmp_path):
    path = tmp_path / "x.h5"
    with new_file(path) as first:
        first.write(b"first")
        killed_while_writing(path)
    assert path.read_bytes() == b"first"
    with new_file(path) as first:
        first.write(b"a" * 9)
        write_file(path, b"b")
    assert path.read_bytes() == b"a" * 9
    assert names(tmp_path) == ["x.h5"]


def test_a_link_planted_at_a_temporary_name_is_not_written_through(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("dear")
    (tmp_path / "x.h5.partial").symlink_to(precious)
    write_file(tmp_path / "x.h5", b"new")
    assert (precious.read_text(), (tmp_path / "x.h5").read_bytes()) == ("dear", b"new")
    # Even the very name that will be chosen.
    monkeypatch.setattr(place, "own_name", lambda path: tmp_path / "x.h5.partial")
    for make in (new_file, new_folder):
        with (
            pytest.raises(SsmlensError, match=r"cannot write .*: file exists; needs"),
            make(tmp_path / "y"),
        ):
            pass
    assert precious.read_text() == "dear"


def test_a_link_under_the_final_name_is_replaced(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("dear")
    (tmp_path / "x").symlink_to(precious)
    write_file(tmp_path / "x", b"new")
    assert precious.read_text() == "dear"
    assert (tmp_path / "x").read_bytes() == b"new"
    assert not (tmp_path / "x").is_symlink()


def test_a_new_file_has_the_rights_that_the_user_gives_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("length", [255, 256])
def test_long_names(tmp_path, length):
    path = tmp_path / ("é" * 100 + "x" * (length - 200))
    if length == 255:
        write_file(path, b"all")
        assert names(tmp_path) == [path.name]
        with new_folder(tmp_path / ("y" * 255)) as folder:
            folder.write("a", b"")
    else:
        with pytest.raises(SsmlensError, match=r"its name is too long; needs"), new_file(path):
            pytest.fail("the work was begun")


def test_a_folder_takes_the_place_of_another(tmp_path):
    path = tmp_path / "step"
    for text in (b"one", b"two"):
        with new_folder(path) as folder:
            folder.write("a", text)
            with folder.file(f"only-{text.decode()}") as file:
                file.write(text)
    assert names(path) == ["a", "only-two"]
    assert (path / "a").read_bytes() == b"two"
    with pytest.raises(Killed), new_folder(path) as folder:  # noqa: PT012
        folder.write("a", b"three")
        raise Killed
    assert (path / "a").read_bytes() == b"two"
    assert names(tmp_path) == ["step"]


def test_no_folder_gives_way_to_a_file(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("dear")
    with pytest.raises(SsmlensError, match="a folder stands in its place"):
        write_file(tmp_path / "thesis", b"report")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "dear"
    assert names(tmp_path) == ["thesis"]


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    ensure_folder(outside)
    (tmp_path / "checkpoints").symlink_to(outside)
    with pytest.raises(SsmlensError, match="a link stands in its place"):
        ensure_folder(tmp_path / "checkpoints")
    with (
        pytest.raises(SsmlensError, match="a link stands in its place"),
        new_folder(tmp_path / "checkpoints") as folder,
    ):
        folder.write("a", b"")
    assert names(outside) == []
    assert names(tmp_path) == ["checkpoints", "outside"]
