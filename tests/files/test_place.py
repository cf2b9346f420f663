"""Names change in one step; links are never followed."""

import threading

import pytest

from ssmlens.files import place


def folder_with(path, text):
    path.mkdir()
    (path / "a").write_text(text)
    return path


@pytest.fixture(params=["one step", "three renames"])
def way(request, monkeypatch):
    if request.param == "three renames":
        monkeypatch.setattr(place, "_renameat2", lambda: None)
    elif place._renameat2() is None:
        pytest.skip("this system has no renameat2")
    return request.param


def test_names_change_places(tmp_path, way):
    one, other = folder_with(tmp_path / "one", "1"), folder_with(tmp_path / "other é", "2")
    place.exchange(one, other)
    assert ((one / "a").read_text(), (other / "a").read_text()) == ("2", "1")
    place.put(one, other)
    assert (other / "a").read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["other é"]
    with pytest.raises(FileNotFoundError):
        place.exchange(tmp_path / "none", other)


def test_a_folder_is_there_at_any_moment_while_others_take_its_place(tmp_path):
    if place._renameat2() is None:
        pytest.skip("this system has no renameat2")
    path = folder_with(tmp_path / "x", "0")
    absent, ended = [], threading.Event()

    def look():
        while not ended.is_set():
            if not path.exists():
                absent.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        place.put(folder_with(tmp_path / "new", str(number)), path)
    ended.set()
    reader.join()
    assert (path / "a").read_text() == "199"
    assert absent == []


def test_removing_does_not_follow_links(tmp_path):
    outside = folder_with(tmp_path / "outside", "dear")
    link = tmp_path / "link"
    link.symlink_to(outside)
    place.remove(link)
    assert not link.is_symlink()
    place.remove(link)
    assert (outside / "a").read_text() == "dear"
    place.remove(outside)
    assert not outside.exists()


def test_what_writers_left_is_known_by_its_name(tmp_path):
    long = tmp_path / ("y" * 255)
    for path in (tmp_path / "x.h5", tmp_path / "x.h", long):
        place.own_name(path).write_bytes(b"")
    (tmp_path / "x.h5.partial").mkdir()
    (tmp_path / "x.h5.old.partial").write_bytes(b"")
    for path in (tmp_path / "x.h5", tmp_path / "x.h", long):
        (left,) = place.own_names(path)
        assert left.name.startswith(path.name[:200])
        assert left.name.endswith(".partial")


def test_a_copy_in_its_place_has_another_identity(tmp_path):
    path = folder_with(tmp_path / "one", "1")
    identities = {place.identity(path)}
    for _ in range(5):  # numbers of inodes are used again
        place.exchange(folder_with(tmp_path / "other", "1"), path)
        place.remove(tmp_path / "other")
        identities.add(place.identity(path))
    assert len(identities) == 6
    assert place.identity(path) == place.identity(path)
    assert place.identity(tmp_path / "none") is None
