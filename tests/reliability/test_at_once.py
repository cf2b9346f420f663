"""Several processes at one output: shards that start together, packs to one name, readers of what is replaced.

`SSMLENS_ROUNDS=60` asks for more rounds. Children are forked where nothing of torch runs: the store alone.
"""

import os
import signal
import time
import traceback

import pytest

from ssmlens.errors import BusyError, CaptureFileError, SsmlensError, UsageError
from ssmlens.files import place
from ssmlens.store import CaptureWriter, open_capture, output_lock, pack, verify

ROUNDS = int(os.environ.get("SSMLENS_ROUNDS", "2"))
LAYERS = tuple(range(8))


def together(jobs):
    """Run each function in a child of its own; all begin at once. Their exit codes: 1 for any error."""
    ready, gate = os.pipe(), os.pipe()
    children = []
    for job in jobs:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(gate[1])
                os.write(ready[1], b"r")
                os.read(gate[0], 1)  # until the other end is closed
                job()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    for _ in jobs:
        os.read(ready[0], 1)
    os.close(gate[1])
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for end in (*ready, gate[0]):
        os.close(end)
    return codes


class Stopped(BaseException):
    """Stands for a kill."""


def stop(path):
    raise Stopped


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_eight_shards_that_start_in_the_same_moment_complete(sample, tmp_path, out):
    asked, arrays = sample.header(layers=LAYERS), sample.samples(LAYERS)
    whole = sample.write_capture(tmp_path / "whole", asked=asked, arrays=arrays)
    with open_capture(whole) as capture:
        digest = capture.digest

    def shard(place, layer):
        writer = CaptureWriter(place / out, asked, layers=[layer], batches=1 + layer % 2)
        sample.write_missing(writer, arrays)
        writer.finish()

    for number in range(ROUNDS):
        place = tmp_path / str(number)
        place.mkdir()
        codes = together([lambda layer=layer: shard(place, layer) for layer in LAYERS])  # noqa: B023
        assert codes == [0] * len(LAYERS)
        assert verify(place / out) == []
        with open_capture(place / out) as capture:
            assert capture.digest == digest
        assert [path.name for path in place.iterdir()] == [out]


def test_packs_to_one_name_never_publish_a_bad_file(sample, tmp_path):
    folder, out = sample.write_capture(tmp_path / "run", 2), tmp_path / "p.h5"

    def packs():
        done = 0
        while done < 2 * ROUNDS:
            try:
                pack(folder, out, overwrite=True)
            except BusyError:
                time.sleep(0.001)
                continue
            done += 1
            assert verify(out) == []

    assert together([packs] * 3) == [0] * 3
    assert verify(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.h5", "run"]


def test_a_pack_that_is_killed_harms_no_other(sample, tmp_path):
    """What F2 says: the second writer opens what the first is about to rename, and is killed."""
    folder, out = sample.write_capture(tmp_path / "run"), tmp_path / "p.h5"
    for number in range(5 * ROUNDS):
        child = os.fork()
        if not child:
            try:
                pack(folder, out, overwrite=True)
            finally:
                os._exit(0)
        time.sleep(0.002 * (number % 8))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if out.exists():
            assert verify(out) == []
    pack(folder, out, overwrite=True)
    assert verify(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.h5", "run"]


def test_a_capture_that_is_being_replaced_is_packed_and_read_whole(sample, tmp_path):
    """Readers see the one or the other; a pack has the digest of one of them."""
    path, out = tmp_path / "run", tmp_path / "p.h5"
    models = "old", "new"
    digests = set()
    for model in models:
        asked = sample.header(attributes={"model": model})
        sample.write_capture(path, asked=asked, overwrite=True)
        with open_capture(path) as capture:
            digests.add(capture.digest)

    def replace():
        for number in range(4 * ROUNDS):
            asked = sample.header(attributes={"model": models[number % 2]})
            sample.write_capture(path, asked=asked, overwrite=True)
            time.sleep(0.1)  # as nothing is captured in less

    def read():
        for _ in range(8 * ROUNDS):
            with open_capture(path) as capture:
                assert capture.digest in digests

    def packs():
        for _ in range(3 * ROUNDS):
            with open_capture(pack(path, out, overwrite=True)) as capture:
                assert capture.digest in digests

    assert together([replace, read, packs]) == [0] * 3
    assert verify(out) == []


def test_a_pack_is_checked_before_it_has_its_name(sample, tmp_path):
    """A folder whose layers are not those of its manifest: nothing appears, and what is there stays."""
    path, other = sample.write_capture(tmp_path / "run"), sample.samples()
    other[2]["delta"] = other[2]["delta"] * 2
    stranger = sample.write_capture(tmp_path / "x", arrays=other)
    out = pack(path, tmp_path / "p.h5")
    (stranger / "layer-002.h5").replace(path / "layer-002.h5")
    with pytest.raises(CaptureFileError, match="its header and layers are not those it was comp"):
        pack(path, out, overwrite=True)
    assert verify(out) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.h5", "run", "x"]


def test_no_writer_discards_what_another_writes(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(output_lock, "_START_WAIT", 0.1)
    out, asked = tmp_path / "run", sample.header()
    first = CaptureWriter(out, asked, layers=[0])
    sample.write_missing(first, sample.samples())
    for others in ([0, 2], [0]):
        with pytest.raises(BusyError, match="another process is writing"):
            CaptureWriter(out, asked, layers=others, overwrite=True)
    assert first.done(0, 0)
    first.close()
    alone = CaptureWriter(out, asked, layers=[0, 2], resume=True)
    with pytest.raises(BusyError, match="another process is writing"):
        CaptureWriter(out, asked, layers=[2])
    sample.write_missing(alone, sample.samples())
    assert verify(alone.finish()) == []


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_links_in_the_way_of_a_capture_are_refused(sample, tmp_path, out):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "layer-000.h5").write_text("dear")
    (tmp_path / f"{out}.partial").symlink_to(outside)
    for options in ({}, {"resume": True}):
        with pytest.raises(SsmlensError, match="a link stands in its place"):
            CaptureWriter(tmp_path / out, sample.header(), layers=[0, 2], **options)
    sample.write_capture(tmp_path / out, overwrite=True)  # removes the link, not what it leads to
    assert verify(tmp_path / out) == []
    if out == "run":
        (tmp_path / "link").symlink_to(tmp_path / out)
        with pytest.raises(UsageError, match="is a link"):
            CaptureWriter(tmp_path / "link", sample.header(), layers=[0, 2], overwrite=True)
    precious = outside / "layer-000.h5"
    packed, folder = tmp_path / "x.h5", sample.write_capture(tmp_path / "whole")
    (tmp_path / "x.h5.partial").symlink_to(precious)
    pack(folder, packed)
    assert precious.read_text() == "dear"


def test_a_replacement_that_was_stopped_before_it_tidied_up(sample, tmp_path, monkeypatch):
    """The old capture has the name of the half captured one then, and is never gone on with."""
    path, old = tmp_path / "run", sample.samples()
    old[0]["delta"] = old[0]["delta"] * 2
    sample.write_capture(path, arrays=old)
    writer = CaptureWriter(path, sample.header(), layers=[0, 2], overwrite=True)
    sample.write_missing(writer, sample.samples())
    with monkeypatch.context() as patch:
        patch.setattr(place, "remove", stop)
        with pytest.raises(Stopped):
            writer.finish()
    writer.close()
    with open_capture(path) as capture:
        digest = capture.digest
    assert (tmp_path / "run.partial").exists()
    again = CaptureWriter(path, sample.header(), layers=[0, 2], overwrite=True, resume=True)
    assert sample.write_missing(again, sample.samples()) == 2
    again.finish()
    with open_capture(path) as capture:
        assert capture.digest == digest
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
