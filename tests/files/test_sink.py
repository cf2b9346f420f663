"""The sink behind HDF5: memory that is lent is written once, where it belongs."""

import errno
import os

import numpy as np
import pytest

from ssmlens.files.sink import Sink


@pytest.fixture
def sink(tmp_path):
    with Sink(tmp_path / "x") as sink:
        yield sink


def write(sink, place, data):
    sink.seek(place)
    assert sink.write(data) == len(memoryview(data).cast("B"))


def test_lent_memory_is_written_where_it_belongs(sink, tmp_path):
    parts = [np.full(n, n, np.uint8) for n in (3, 5, 0, 7)]
    places = (0, 3, 20, 30)
    for part, place in zip(parts, places, strict=True):
        sink.lend(part)
        write(sink, place, part)
    assert sink.size == 37
    assert (tmp_path / "x").stat().st_size == 0
    sink.sync()
    expected = bytearray(37)
    for part, place in zip(parts, places, strict=True):
        expected[place : place + len(part)] = part.tobytes()
    assert (tmp_path / "x").read_bytes() == expected


def test_reading_back_writes_lent_memory_first(sink):
    part = np.arange(9, dtype=np.uint8)
    sink.lend(part)
    write(sink, 2, part)
    sink.seek(0)
    assert sink.read(12) == b"\0\0" + part.tobytes() + b"\0"


@pytest.mark.parametrize("other", ["copy", "part", "longer"])
def test_only_that_memory_waits(sink, tmp_path, other):
    """HDF5 may write a copy, or in pieces: it must not find its own memory changed afterwards."""
    memory = np.arange(20, dtype=np.uint8)
    lent = memory[:10]
    written = {"copy": lent.copy(), "part": lent[:4], "longer": memory}[other]
    sink.lend(lent)
    write(sink, 0, written)
    assert (tmp_path / "x").read_bytes() == written.tobytes()
    write(sink, 30, lent)  # lent for one write only
    assert (tmp_path / "x").read_bytes()[30:] == lent.tobytes()


def test_pieces_that_the_disk_takes_are_followed_by_the_rest(sink, tmp_path, monkeypatch):
    parts = [np.random.default_rng(n).integers(0, 256, 10, np.uint8) for n in range(2000)]
    real = os.pwritev

    def short(file, run, place):
        assert len(run) <= 1024
        return real(file, [b"".join(bytes(view) for view in run)[:1501]], place)

    monkeypatch.setattr(os, "pwritev", short)
    for number, part in enumerate(parts):
        sink.lend(part)
        write(sink, 10 * number, part)
    sink.sync()
    assert (tmp_path / "x").read_bytes() == b"".join(map(bytes, parts))


def test_a_full_disk_is_told_at_the_end(sink, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    part = np.ones(9, np.uint8)
    sink.lend(part)
    write(sink, 0, part)
    monkeypatch.setattr(os, "pwritev", full)
    sink.write_lent()
    with pytest.raises(OSError, match="no space"):
        sink.sync()
