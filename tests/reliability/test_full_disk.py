"""A disk that is full, read-only or not there is one line with path, need and free space, and nothing is lost."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssmlens.errors import SsmlensError
from ssmlens.store import CaptureWriter, open_capture, pack, verify

LINE = r"cannot write {path}: {reason}; needs [\d.]+ (bytes|[KMGT]iB), [\d.]+ (bytes|[KMGT]iB) free"

# What cannot be written when there is no room for layer 2.
FULL = {"run": "layer-002.h5", "run.h5": "assembled.h5"}


def told(error, path, reason):
    pattern = LINE.format(path=re.escape(str(path)), reason=reason)
    assert re.fullmatch(pattern, str(error.value)), str(error.value)
    assert error.value.exit_code == 1


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_no_room_for_a_shard(sample, small_disk, out, fill):
    arrays = sample.samples()
    writer = CaptureWriter(small_disk / out, sample.header(), layers=[0, 2])
    writer.write(0, 0, arrays[0], sample.attributes(0))
    ballast = fill(small_disk, 8192)
    before = sorted(writer.partial.iterdir())
    with pytest.raises(SsmlensError) as error:
        writer.write(2, 0, arrays[2], sample.attributes(2))
    told(error, writer.partial / FULL[out], "no space left on the disk")
    assert sorted(writer.partial.iterdir()) == before
    writer.close()
    ballast.unlink()
    resumed = CaptureWriter(small_disk / out, sample.header(), layers=[0, 2], resume=True)
    assert sample.write_missing(resumed, arrays) == 1
    assert verify(resumed.finish()) == []


def test_the_disk_fills_up_while_a_shard_is_written(sample, small_disk, monkeypatch, fill):
    """As when another program takes the room between the look at it and the write."""
    monkeypatch.setattr("ssmlens.files.disk.check_space", lambda *_: None)
    writer = CaptureWriter(small_disk / "run", sample.header(), layers=[0, 2])
    fill(small_disk, 8192)
    with pytest.raises(SsmlensError) as error:
        writer.write(2, 0, sample.samples()[2], sample.attributes(2))
    told(error, writer.partial / "layer-002.h5", "no space left on the disk")
    assert [path.name for path in writer.partial.iterdir()] == ["header.h5"]


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_the_disk_fills_up_beside_a_caller_that_computes(sample, small_disk, out, fill):
    asked, arrays = sample.header(layers=(0, 2, 3)), sample.samples((0, 2, 3))
    with CaptureWriter(small_disk / out, asked, layers=asked.layers) as writer:
        writer.write(0, 0, arrays[0], sample.attributes(0))
        assert writer.done(0, 0)
        ballast = fill(small_disk, 8192)
        writer.write(2, 0, arrays[2], sample.attributes(2))
        with pytest.raises(SsmlensError) as error:
            writer.finish()
        told(error, writer.partial / FULL[out], "no space left on the disk")
    layers = [path.name for path in writer.partial.glob("layer-*")]
    assert layers == ["layer-000.h5" if out == "run" else "layer-000.written.json"]
    ballast.unlink()
    with CaptureWriter(small_disk / out, asked, layers=asked.layers, resume=True) as resumed:
        assert sample.write_missing(resumed, arrays) == 2
        assert verify(resumed.finish()) == []


def test_no_room_for_the_header(sample, small_disk, fill):
    fill(small_disk, 0)
    with pytest.raises(SsmlensError, match="no space left on the disk; needs"):
        CaptureWriter(small_disk / "run", sample.header(), layers=[0, 2])


def test_no_room_to_assemble(sample, small_disk, fill):
    writer = CaptureWriter(small_disk / "run.h5", sample.header(), layers=[0, 2], batches=2)
    sample.write_missing(writer, sample.samples())
    ballast = fill(small_disk, 30_000)
    with pytest.raises(SsmlensError) as error:
        writer.finish()
    told(error, writer.partial / "assembled.h5", "no space left on the disk")
    assert not writer.out.exists()
    ballast.unlink()
    assert verify(writer.finish()) == []


def test_no_room_to_merge_or_pack(sample, small_disk, fill):
    writer = CaptureWriter(small_disk / "run", sample.header(), layers=[0, 2], batches=2)
    sample.write_missing(writer, sample.samples())
    ballast = fill(small_disk, 30_000)
    with pytest.raises(SsmlensError) as error:
        writer.finish()
    told(error, writer.partial / "layer-000.h5", "no space left on the disk")
    ballast.unlink()
    path = writer.finish()
    ballast = fill(small_disk, 30_000)
    with pytest.raises(SsmlensError) as error:
        pack(path, small_disk / "packed.h5")
    told(error, small_disk / "packed.h5", "no space left on the disk")
    assert sorted(p.name for p in small_disk.iterdir()) == ["ballast", "run"]
    ballast.unlink()
    with open_capture(pack(path, small_disk / "packed.h5")) as packed, open_capture(path) as whole:
        assert packed.digest == whole.digest


def test_a_disk_that_is_read_only(sample, small_disk):
    writer = CaptureWriter(small_disk / "run", sample.header(), layers=[0, 2])
    writer.close()  # no disk becomes read-only under a lock that is held
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SsmlensError) as error:
        writer.write(0, 0, sample.samples()[0], sample.attributes(0))
    told(error, writer.partial / "layer-000.h5", "the file system is read-only")
    with pytest.raises(SsmlensError) as error:
        CaptureWriter(small_disk / "other.h5", sample.header(), layers=[0, 2])
    told(error, small_disk / "other.h5", "the file system is read-only")


def test_a_capture_on_a_read_only_disk_opens(sample, small_disk):
    path = sample.write_capture(small_disk / "run.h5")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert verify(path) == []


def test_a_folder_that_is_not_ours(sample, tmp_path):
    """Run as nobody, whom permissions bind."""
    if os.geteuid() != 0:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o555)
        with pytest.raises(SsmlensError) as error:
            CaptureWriter(folder / "run.h5", sample.header(), layers=[0, 2])
        told(error, folder / "run.h5", "permission denied")
    with pytest.raises(SsmlensError, match=r"cannot write /proc/run\.h5: .*; needs .* free"):
        CaptureWriter(Path("/proc/run.h5"), sample.header(), layers=[0, 2])


def test_the_folder_vanishes(sample, tmp_path):
    writer = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2])
    (writer.partial / "header.h5").unlink()
    writer.partial.rmdir()
    with pytest.raises(SsmlensError) as error:
        writer.write(0, 0, sample.samples()[0], sample.attributes(0))
    told(error, writer.partial / "layer-000.h5", "the folder does not exist")


LIMITED = """
import resource, runpy, sys
from pathlib import Path
from types import SimpleNamespace
from ssmlens.errors import SsmlensError
sample = SimpleNamespace(**runpy.run_path(sys.argv[1]))
writer = sample.CaptureWriter(Path(sys.argv[2]), sample.header(), layers=[0, 2], batches=2)
sample.write_missing(writer, sample.samples())
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    writer.finish()
except SsmlensError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_hdf5_cannot_write_while_assembling(sample, tmp_path):
    """HDF5 itself meets the limit, in the child: whatever it does there, here it is one line."""
    tests = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, tests / "store" / "sample_capture.py", tmp_path / "run.h5"],
        env=os.environ | {"PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    assert re.fullmatch(r"cannot write \S+/assembled\.h5: .+\n", run.stdout), run.stdout
    assert not (tmp_path / "run.h5").exists()
    asked = sample.header()
    writer = CaptureWriter(tmp_path / "run.h5", asked, layers=[0, 2], batches=2, resume=True)
    assert sample.write_missing(writer, {}) == 0
    assert verify(writer.finish()) == []


def test_large_numbers_are_told_in_units():
    from ssmlens.files.disk import size

    assert [size(n) for n in (0, 1023, 1024, 13_841_203, 5 << 30, 1 << 52)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "13.2 MiB",
        "5.0 GiB",
        "4096.0 TiB",
    ]
