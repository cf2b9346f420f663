"""The one file of a capture, assembled while later layers are computed: it saves time and changes nothing."""

import errno
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from ssmlens.files import place
from ssmlens.store import CaptureWriter, assemble, early, open_capture, verify, writer


def write(sample, out, batches=1, *, resume=False, overlapped=True, layers=(0, 2)):
    """Write the sample; `overlapped`: in the background, as a capture does."""
    arrays = sample.samples()
    made = CaptureWriter(out, sample.header(), layers=[0, 2], batches=batches, resume=resume)

    def go():
        for batch in range(batches):
            for layer in layers:
                if not made.done(layer, batch):
                    part = sample.batch_of(arrays[layer], made.prompts(batch))
                    made.write(layer, batch, part, sample.attributes(layer))
        if set(layers) == {0, 2}:
            made.finish()

    if overlapped:
        with made:
            go()
    else:
        go()
        made.close()


def stored(path):
    """Each dataset's values, axes, filters and attributes, read with h5py alone."""
    found = {}

    def visit(name, thing):
        if isinstance(thing, h5py.Dataset):
            axes = [axis.label for axis in thing.dims]
            filters = thing.compression_opts, thing.shuffle, thing.fletcher32, thing.chunks
            found[name] = thing[...].tobytes(), axes, filters

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def counted(monkeypatch, owner, name):
    real, calls = getattr(owner, name), []
    monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(a), real(*a, **k))[1])
    return calls


@pytest.mark.parametrize("batches", [1, 3])
def test_the_file_is_the_one_that_is_assembled_at_the_end(sample, tmp_path, monkeypatch, batches):
    write(sample, tmp_path / "late.h5", batches, overlapped=False)
    guarded = counted(monkeypatch, assemble, "open_guarded")
    write(sample, tmp_path / "early.h5", batches)
    assert len(guarded) == 1  # the header: no shard was left for the end
    assert stored(tmp_path / "early.h5") == stored(tmp_path / "late.h5")
    assert verify(tmp_path / "early.h5") == []
    with open_capture(tmp_path / "early.h5") as one, open_capture(tmp_path / "late.h5") as other:
        assert one.digest == other.digest
        delta = sample.samples()[2]["delta"]
        np.testing.assert_array_equal(one.layer(2).read("delta"), delta)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["early.h5", "late.h5"]


def test_a_disk_without_room_for_it_leaves_it_to_the_end(sample, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(early.GrowingFile, "add", full)
    discarded = counted(monkeypatch, early.GrowingFile, "discard")
    write(sample, tmp_path / "run.h5")
    assert len(discarded) == 1  # and the second layer did not begin it again
    assert verify(tmp_path / "run.h5") == []
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize("short", [0, 1])
def test_it_leaves_the_room_that_later_shards_need(sample, tmp_path, monkeypatch, short):
    write(sample, tmp_path / "run", layers=(0,))
    part = tmp_path / "run.partial" / "layer-000.h5"
    # Of five layers, four shards and five copies are still to be written.
    free = SimpleNamespace(free=9 * part.stat().st_size - short)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    file = early.EarlyAssembly(tmp_path / "whole.h5", 5)
    file.add(0, [part])
    grown = file.take()
    assert (grown is None) == bool(short)
    if grown:
        grown.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]


def test_a_write_that_failed_is_noticed(sample, tmp_path, monkeypatch):
    real, calls = assemble._write_layer, []

    def write_in_vain(file, *args):
        calls.append(args)
        if len(calls) == 2:
            file.sink._error = OSError(errno.ENOSPC, "no space")
        return real(file, *args)

    monkeypatch.setattr(assemble, "_write_layer", write_in_vain)
    write(sample, tmp_path / "run.h5")
    assert len(calls) == 4  # two early, two at the end
    assert verify(tmp_path / "run.h5") == []
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def test_what_a_killed_run_left_is_removed_when_it_is_resumed(sample, tmp_path):
    write(sample, tmp_path / "run.h5", layers=(0,))
    folder = tmp_path / "run.h5.partial"
    assert sorted(path.name for path in folder.iterdir()) == ["header.h5", "layer-000.h5"]
    left_over = place.own_name(folder / writer._ASSEMBLED)
    left_over.write_bytes(b"half a file")
    resumed = CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2], resume=True)
    assert not left_over.exists()
    resumed.close()
    write(sample, tmp_path / "run.h5", resume=True)
    assert verify(tmp_path / "run.h5") == []
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def test_a_layer_is_added_once(sample, tmp_path):
    write(sample, tmp_path / "run", layers=(0,))
    part = tmp_path / "run.partial" / "layer-000.h5"
    file = early.EarlyAssembly(tmp_path / "whole.h5", 2)
    file.add(0, [part])
    file.add(0, [part])
    grown = file.take()
    assert file.take() is None
    assert grown is not None
    grown.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]
