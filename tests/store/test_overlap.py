"""Writing beside the caller: the same files, never more than two layers held, and no error lost."""

import threading
import time

import numpy as np
import pytest

from ssmlens.errors import SsmlensError
from ssmlens.store import CaptureWriter, open_capture, verify
from ssmlens.store.overlap import Overlap
from ssmlens.store.shards import Shards


@pytest.mark.parametrize("out", ["run.h5", "run"])
@pytest.mark.parametrize("batches", [1, 3])
def test_the_same_capture(sample, tmp_path, out, batches):
    alone = sample.write_capture(tmp_path / f"alone-{out}", batches)
    with CaptureWriter(tmp_path / out, sample.header(), layers=[0, 2], batches=batches) as writer:
        sample.write_missing(writer, sample.samples())
        path = writer.finish()
    assert verify(path) == []
    with open_capture(path) as capture, open_capture(alone) as other:
        assert capture.digest == other.digest


def test_what_is_under_way_can_be_asked_for(sample, tmp_path, monkeypatch):
    may_write = threading.Event()
    write = Shards.write
    monkeypatch.setattr(Shards, "write", lambda *args: may_write.wait(30) and write(*args))
    with CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2]) as writer:
        writer.write(0, 0, sample.samples()[0], sample.attributes(0))
        writer.write(2, 0, sample.samples()[2], sample.attributes(2))
        assert not list(writer.partial.glob("layer*"))
        may_write.set()
        assert writer.done(2, 0)
        np.testing.assert_array_equal(writer.stored(0, 0, "channel"), sample.CHANNELS)


def broken(monkeypatch, layer):
    """Let writing one layer fail."""
    write = Shards.write

    def fail(shards, index, *rest):
        if index == layer:
            raise SsmlensError(f"layer {index} did not fit")
        return write(shards, index, *rest)

    monkeypatch.setattr(Shards, "write", fail)


def test_an_error_comes_at_the_next_write_or_at_the_end(sample, tmp_path, monkeypatch):
    asked, arrays = sample.header(layers=(0, 1, 2, 3)), sample.samples((0, 1, 2, 3))
    with monkeypatch.context() as patch:
        broken(patch, 0)
        told = []
        with CaptureWriter(tmp_path / "run", asked, layers=asked.layers) as writer:
            for layer in (0, 1, 2, 3):
                try:
                    writer.write(layer, 0, arrays[layer], sample.attributes(layer))
                except SsmlensError as error:
                    told.append((layer, str(error)))
                    break
        assert told[0][0] in (1, 2)  # as soon as it has happened, and not later than the third
        assert told[0][1] == "layer 0 did not fit"
    with monkeypatch.context() as patch:
        broken(patch, 3)
        options = {"layers": asked.layers, "resume": True}
        with (
            pytest.raises(SsmlensError, match="layer 3 did not fit"),
            CaptureWriter(tmp_path / "run", asked, **options) as writer,
        ):
            sample.write_missing(writer, arrays)
        with CaptureWriter(tmp_path / "run", asked, **options) as writer:
            assert sample.write_missing(writer, arrays) == 1
            with pytest.raises(SsmlensError, match="layer 3 did not fit"):
                writer.finish()
    with CaptureWriter(tmp_path / "run", asked, **options) as writer:
        assert sample.write_missing(writer, arrays) == 1
        assert verify(writer.finish()) == []


def test_the_callers_own_error_is_the_one_that_is_told_and_what_was_begun_is_finished(
    sample, tmp_path, monkeypatch
):
    broken(monkeypatch, 2)
    with (  # noqa: PT012
        pytest.raises(ZeroDivisionError),
        CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2]) as writer,
    ):
        writer.write(0, 0, sample.samples()[0], sample.attributes(0))
        writer.write(2, 0, sample.samples()[2], sample.attributes(2))
        raise ZeroDivisionError
    assert [path.name for path in writer.partial.glob("layer*")] == ["layer-000.h5"]
    assert not [t for t in threading.enumerate() if t.name.startswith("ssmlens")]


@pytest.fixture
def overlap():
    made = Overlap(at_once=2)
    yield made
    made.close()


def test_no_more_than_two_jobs_are_held(overlap):
    held, most, lock = set(), [], threading.Lock()

    def job(number):
        with lock:
            held.add(number)
            most.append(len(held))
        threading.Event().wait(0.002)
        with lock:
            held.remove(number)
        return lambda: None

    for number in range(20):
        overlap.start(number, lambda number=number: job(number))
    overlap.join_all()
    assert len(most) == 20
    assert max(most) <= 2


def test_the_next_is_encoded_while_two_wait_for_the_disk(overlap):
    """Four are under way then, and the fifth waits."""
    disk, encoded = threading.Event(), []

    def job(number):
        encoded.append(number)
        return lambda: disk.wait(30)

    def start_all():
        for number in range(7):
            overlap.start(number, lambda number=number: job(number))

    starter = threading.Thread(target=start_all)
    starter.start()
    end = time.monotonic() + 30
    while len(encoded) < 4 and time.monotonic() < end:
        time.sleep(0.001)
    starter.join(0.05)
    assert starter.is_alive()
    assert sorted(encoded) == [0, 1, 2, 3]
    disk.set()
    starter.join(30)
    overlap.join_all()
    assert sorted(encoded) == list(range(7))


def test_an_error_of_the_disk_is_told_and_what_follows_is_not_held_up(overlap):
    ended = []

    def job(number):
        def end():
            ended.append(number)
            if number == 1:
                raise SsmlensError("the disk is full")

        return end

    told = []
    for number in range(8):
        try:
            overlap.start(number, lambda number=number: job(number))
        except SsmlensError as error:
            told.append(str(error))
            overlap.start(number, lambda number=number: job(number))
    try:
        overlap.join_all()
    except SsmlensError as error:
        told.append(str(error))
    assert told == ["the disk is full"]
    assert sorted(ended) == list(range(8))
