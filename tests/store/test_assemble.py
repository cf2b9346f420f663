"""The child that assembles: it tells in one line, and does not outlive its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssmlens.errors import SsmlensError
from ssmlens.store import CaptureWriter
from ssmlens.store.assemble import Assembly, assemble

PARENT = """
import sys
from ssmlens.store.assemble import Assembly, assemble
source, digest, folder = sys.argv[1:]
assemble([Assembly(f"{folder}/{i}.h5", None, digest, {0: [source]}) for i in range(2000)])
"""


@pytest.fixture
def source(sample, tmp_path):
    writer = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2])
    sample.write_missing(writer, sample.samples())
    return writer.partial / "layer-000.h5"


def test_the_child_dies_with_its_parent(sample, source, tmp_path):
    folder = tmp_path / "assembled"
    folder.mkdir()
    command = [sys.executable, "-c", PARENT, source, sample.header().digest(), folder]
    with subprocess.Popen(command) as parent:
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(parent.pid, signal.SIGKILL)
    time.sleep(1)
    there = len(list(folder.iterdir()))
    time.sleep(0.5)
    assert 3 <= there < 2000
    assert len(list(folder.iterdir())) == there


def test_a_bad_source_is_one_line(sample, source, tmp_path):
    source.write_bytes(source.read_bytes()[:3000])
    job = Assembly(str(tmp_path / "x.h5"), None, sample.header().digest(), {0: [str(source)]})
    with pytest.raises(SsmlensError, match=r"layer-000\.h5: its structure is damaged") as error:
        assemble([job])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("x.h5*"))


@pytest.mark.parametrize("room", [True, False])
def test_a_child_that_dies_is_one_line(sample, source, tmp_path, monkeypatch, room):
    """HDF5 crashes on a full disk. A stand-in dies as it would, leaving half a file."""
    target = tmp_path / "x.h5"
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nread line\necho half > {target}.partial\nkill -SEGV $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    if not room:
        usage = type("Usage", (), {"free": 100})
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    job = Assembly(str(target), None, sample.header().digest(), {0: [str(source)]})
    told = "HDF5 died of SIGSEGV; needs .* free" if room else "no space left.*, 100 bytes free"
    with pytest.raises(SsmlensError, match=rf"cannot write {target}: {told}"):
        assemble([job])
    assert not list(tmp_path.glob("x.h5*"))


def test_consumed_sources_go_only_once_the_target_is_there(sample, source, tmp_path):
    bad = Path(f"{source}.bad")
    bad.write_bytes(b"")
    target, digest = tmp_path / "x.h5", sample.header().digest()
    with pytest.raises(SsmlensError):
        assemble([Assembly(str(target), None, digest, {0: [str(source), str(bad)]}, consume=True)])
    assert source.exists()
    assemble([Assembly(str(target), None, digest, {0: [str(source)]}, consume=True)])
    assert target.exists()
    assert not source.exists()
