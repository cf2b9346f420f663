"""How many files the dashboard has open, and what it says where it may open no more."""

import errno
import gc
import itertools
import os
import resource
import shutil
from pathlib import Path

import pytest
from ssmlens_dashboard.library import Library

from ssmlens.errors import OpenFilesError
from ssmlens.store import open_capture


def open_now():
    """Descriptors that this process has open, but for the one that counts them."""
    return len(list(Path("/proc/self/fd").iterdir())) - 1


def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@pytest.fixture
def allow():
    """allow(n): this process may open n files beyond those it has open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(beyond):
        taken = {number for number in range(4096) if _is_open(number)}
        free = (number for number in itertools.count() if number not in taken)
        most = next(itertools.islice(free, beyond, None))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def ninety(tmp_path_factory, write_capture):
    """A folder of ninety captures that are files."""
    folder = tmp_path_factory.mktemp("ninety")
    one = write_capture(folder / "00.h5", layers=1, tokens=5)
    for number in range(1, 90):
        shutil.copy(one, folder / f"{number:02}.h5")
    return folder


def test_more_captures_can_be_looked_at_than_files_can_be_open(ninety, allow):
    library = Library([ninety])
    before = open_now()
    allow(60)
    for entry in library.entries("capture"):
        assert library.capture(entry.id).layers == (0,), entry.name
        assert open_now() < before + 60
    assert len(library.entries("capture")) == 90


def test_a_folder_counts_for_as_many_files_as_it_has_layers(tmp_path, write_capture, allow):
    for name in "abcdef":
        write_capture(tmp_path / name, layers=8, tokens=5)
    library = Library([tmp_path])
    before = open_now()
    allow(200)
    quarter = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
    assert 8 <= quarter < 6 * 8 + before
    for entry in library.entries("capture") * 2:
        assert library.capture(entry.id).layer(7).read("attention_map", 0).shape == (5, 5)
        gc.collect()
        assert open_now() - before <= quarter


def test_the_least_recently_used_is_let_go_of_and_stays_readable(ninety, allow):
    library = Library([ninety])
    first, second, *others = library.entries("capture")
    allow(60)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
    oldest, kept = library.capture(first.id), library.capture(second.id)
    for entry in others[: most - 2]:
        library.capture(entry.id)
    assert library.capture(first.id) is oldest, "there is room for it"
    library.capture(others[most - 2].id)
    assert library.capture(first.id) is oldest, "it was used last but one"
    assert library.capture(second.id) is not kept
    assert kept.layer(0).read("attention_map", 0).shape == (5, 5)


def test_what_the_process_may_open_no_more_files_for_is_told_as_such(ninety, allow, monkeypatch):
    monkeypatch.setattr("ssmlens_dashboard.open_captures.time.sleep", lambda _: None)
    library = Library([ninety])
    entries = library.entries("capture")
    allow(0)
    with pytest.raises(OpenFilesError, match=r"too many files are open .*ulimit"):
        library.capture(entries[0].id)
    with pytest.raises(OpenFilesError, match="too many files are open"):
        Library([ninety]).capture(entries[0].id)
    with pytest.raises(OpenFilesError, match="too many files are open"):
        open_capture(entries[0].path)
    allow(60)
    assert library.capture(entries[0].id).layers == (0,)


def test_a_page_and_what_it_fetches_say_so_too(ninety, allow, monkeypatch, client_of):
    client = client_of(ninety)
    assert client.get("/values?zoom=0-2,0-2").status_code == 200

    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("ssmlens_dashboard.open_captures.time.sleep", lambda _: None)
    monkeypatch.setattr(os, "scandir", refuse)
    (ninety / "new.txt").touch()  # what the folder holds has to be read again
    answer = client.get("/values?zoom=0-2,0-2")
    assert answer.status_code == 503
    assert "too many files are open" in answer.json["error"]
    assert str(ninety) not in answer.json["error"]


def test_captures_that_others_let_go_of_make_room(ninety, allow):
    """Where other files of the process leave less than its share, what is open makes room."""
    library = Library([ninety])
    entries = library.entries("capture")
    allow(60)
    quarter = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(60 - quarter // 2)]
    try:
        for entry in entries:
            assert library.capture(entry.id).layers == (0,)
    finally:
        for handle in taken:
            os.close(handle)
