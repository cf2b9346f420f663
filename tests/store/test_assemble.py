"""Putting files together: all of it or nothing, told in one line, whatever fails at whichever write."""

import os

import pytest

from ssmlens.errors import SsmlensError
from ssmlens.store import CaptureWriter, open_capture
from ssmlens.store.assemble import Assembly, assemble


@pytest.fixture
def source(sample, tmp_path):
    writer = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2])
    sample.write_missing(writer, sample.samples())
    return writer.partial / "layer-000.h5"


def job(sample, tmp_path, *sources, **options):
    return Assembly(
        tmp_path / "x.h5", None, sample.header().digest(), {0: list(sources)}, **options
    )


def test_a_bad_source_is_one_line(sample, source, tmp_path):
    source.write_bytes(source.read_bytes()[:3000])
    with pytest.raises(SsmlensError, match=r"layer-000\.h5: its structure is damaged") as error:
        assemble([job(sample, tmp_path, source)])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("x.h5*"))


def test_no_room_is_told_before_anything_is_written(sample, source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    told = rf"cannot write {tmp_path}/x.h5: no space left on the disk; needs .* KiB, 100 bytes free"
    with pytest.raises(SsmlensError, match=told):
        assemble([job(sample, tmp_path, source)])
    assert not list(tmp_path.glob("x.h5*"))


def test_consumed_sources_go_only_once_the_target_is_there(sample, source, tmp_path):
    bad = source.with_suffix(".bad")
    bad.write_bytes(b"")
    with pytest.raises(SsmlensError):
        assemble([job(sample, tmp_path, source, bad, consume=True)])
    assert source.exists()
    assemble([job(sample, tmp_path, source, consume=True)])
    assert (tmp_path / "x.h5").exists()
    assert not source.exists()


@pytest.mark.parametrize("call", ["pwrite", "fsync", "ftruncate"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "full"), SsmlensError),
        (OSError(5, "broken"), SsmlensError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full", "broken", "interrupted"],
)
def test_an_error_at_any_write_leaves_nothing_and_the_process_alive(
    sample, tmp_path, monkeypatch, call, error, told
):
    """HDF5 would crash sooner or later, were it told; a whole capture is assembled, failing from the n-th call on."""
    writer = CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2], batches=2)
    sample.write_missing(writer, sample.samples())
    before = sorted(writer.partial.iterdir())
    real, calls, after = getattr(os, call), [], 0
    while True:

        def fail(*args, last=after):
            calls.append(1)
            if len(calls) > last:
                raise error
            return real(*args)

        calls.clear()
        monkeypatch.setattr(os, call, fail)
        try:
            writer.finish()
            break
        except told:
            left = {*writer.partial.iterdir()} - {writer.partial / "assembled.h5"}
            assert sorted(left) == before
        finally:
            monkeypatch.setattr(os, call, real)
        after += 1 + after // 2
    assert after
    with open_capture(tmp_path / "run.h5") as capture:
        assert capture.layers == (0, 2)
