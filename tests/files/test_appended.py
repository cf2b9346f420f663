"""A line is appended whole, or not at all."""

import os
import resource
import signal

import pytest

from ssmlens.errors import SsmlensError
from ssmlens.files.appended import AppendedFile


def test_lines_are_added_to_those_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for text in (b"one\n", b"two\n"):
        file = AppendedFile(path)
        file.append(text)
        file.sync()
        file.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_no_part_of_a_line_is_left_where_the_disk_ends(tmp_path):
    """A limit on the size of files stands for the disk: the system writes what fits, then refuses the rest."""
    path = tmp_path / "metrics.jsonl"
    file = AppendedFile(path)
    file.append(b"a" * 100)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(SsmlensError, match=r"cannot write .*: file too large; needs 100 bytes"):
            file.append(b"b" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"a" * 100
    file.append(b"c")
    file.close()
    assert path.read_bytes() == b"a" * 100 + b"c"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_plain_file_is_appended_to(tmp_path, kind):
    path, precious = tmp_path / "metrics.jsonl", tmp_path / "precious"
    precious.write_text("dear")
    {
        "link": lambda: path.symlink_to(precious),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises(SsmlensError, match=r"cannot write .*metrics\.jsonl: "):
        AppendedFile(path)
    assert precious.read_text() == "dear"
