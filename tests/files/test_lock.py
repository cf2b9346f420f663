"""One process at a time; who is killed holds nothing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from ssmlens.errors import BusyError, SsmlensError
from ssmlens.files import lock
from ssmlens.files.lock import Lock, is_locked

HOLD = """
import sys, time
from pathlib import Path
from ssmlens.files.lock import Lock
lock = Lock(Path(sys.argv[1]), Path("x"), "busy")
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_goes_with_its_process(tmp_path):
    path = tmp_path / ".x.lock"
    assert is_locked(path) is None
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout.readline() == b"held\n"
        assert is_locked(path) is True
        with pytest.raises(BusyError, match="another is at it"):
            Lock(path, tmp_path / "x", "another is at it")
        os.kill(holder.pid, signal.SIGKILL)
    assert is_locked(path) is False
    with Lock(path, tmp_path / "x", "busy"):
        assert is_locked(path) is True
    assert is_locked(path) is False
    Lock(path, tmp_path / "x", "busy").remove()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_removed_as_it_is_asked_for_is_had(tmp_path, monkeypatch):
    """Between the refusal and the look at the file the holder lets go of both: others may write there all the same."""
    path = tmp_path / ".x.lock"
    holder = Lock(path, tmp_path / "x", "busy")

    def look(at):
        holder.remove()
        return is_locked(at)

    monkeypatch.setattr(lock, "is_locked", look)
    with Lock(path, tmp_path / "x", "busy"):
        assert is_locked(path) is True


def count_up(path, counter, times):
    for _ in range(times):
        lock = Lock(path, path, "busy", wait=120.0)
        number = int(counter.read_text())
        time.sleep(0.0005)
        counter.write_text(str(number + 1))
        lock.remove()


def test_no_two_hold_it_though_its_file_goes_and_comes_back(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    work = tmp_path / ".x.lock", counter, 25
    those = [context.Process(target=count_up, args=work) for _ in range(4)]
    for one in those:
        one.start()
    for one in those:
        one.join()
    assert [one.exitcode for one in those] == [0] * 4
    assert counter.read_text() == "100"
    assert [p.name for p in tmp_path.iterdir()] == ["counter"]


def test_a_link_in_its_place_is_refused(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("dear")
    (tmp_path / ".lock").symlink_to(precious)
    with pytest.raises(SsmlensError, match=r"cannot write .*x: a link stands in its place"):
        Lock(tmp_path / ".lock", tmp_path / "x", "busy")
    assert is_locked(tmp_path / ".lock") is None
    assert precious.read_text() == "dear"


def test_where_no_file_can_be_made(tmp_path):
    with pytest.raises(SsmlensError, match=r"cannot write .*x: the folder does not exist"):
        Lock(tmp_path / "none" / ".lock", tmp_path / "none" / "x", "busy")
    assert list(tmp_path.iterdir()) == []
