"""A capture in one file, whose layers are written straight into it: the same file, and nothing lost when it stops."""

import errno
import json
import os
from contextlib import suppress

import h5py
import numpy as np
import pytest
import xarray

from ssmlens.errors import SsmlensError
from ssmlens.store import CaptureWriter, growing, open_capture, pack, shards, verify
from ssmlens.store.shards import layers_written

ALL = (0, 2, 3, 4, 7)


def write(sample, out, layers=ALL, *, overlapped=True, resume=False, stop_after=None):
    """Write the sample; `stop_after` so many layers it is left unfinished."""
    arrays, written = sample.samples(layers), []

    def go():
        for layer in layers:
            if not made.done(layer, 0) and len(written) != stop_after:
                made.write(layer, 0, arrays[layer], sample.attributes(layer))
                written.append(layer)
        if stop_after is None:
            made.finish()

    made = CaptureWriter(out, sample.header(layers=layers), layers=layers, resume=resume)
    if overlapped:
        with made:
            go()
    else:
        try:
            go()
        finally:
            made.close()
    return written


def stored(path):
    """Each dataset's values, axes, scales and filters, read with h5py alone."""
    found = {}

    def visit(name, thing):
        if isinstance(thing, h5py.Dataset):
            axes = [(axis.label, *(scale.name for scale in axis.values())) for axis in thing.dims]
            filters = thing.compression_opts, thing.shuffle, thing.fletcher32, thing.chunks
            found[name] = thing[...].tobytes(), axes, filters

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def packed(sample, tmp_path_factory):
    """The sample written as a folder, and packed."""
    folder = tmp_path_factory.mktemp("packed")
    write(sample, folder / "run")
    return pack(folder / "run", folder / "packed.h5")


@pytest.fixture(scope="module")
def digest(packed):
    with open_capture(packed) as capture:
        return capture.digest


def assert_whole(path, digest):
    with open_capture(path) as capture:
        assert capture.digest == digest
    assert verify(path) == []
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize("overlapped", [False, True])
def test_it_is_the_file_that_is_assembled_of_a_folder(
    sample, tmp_path, monkeypatch, packed, digest, overlapped
):
    monkeypatch.setattr(shards.Shards, "write", None)  # no shard is written
    out = tmp_path / "run.h5"
    write(sample, out, overlapped=overlapped)
    assert stored(out) == stored(packed)
    assert_whole(out, digest)
    for layer in ALL:
        expected = sample.samples(ALL)[layer]["delta"]
        with xarray.open_dataset(out, engine="h5netcdf", group=f"layers/{layer:03d}") as found:
            assert found["delta"].dims == ("prompt", "token", "head")
            np.testing.assert_array_equal(found["delta"], expected)


def test_layers_that_are_written_at_the_same_time(sample, tmp_path):
    """Threads share the file and HDF5, not what they lend."""
    layers = tuple(range(24))
    write(sample, tmp_path / "run.h5", layers)
    given = sample.samples(layers)
    with open_capture(tmp_path / "run.h5") as capture:
        for layer in layers:
            for name in ("delta", "attention_map", "B", "channel_map"):
                np.testing.assert_array_equal(capture.layer(layer).read(name), given[layer][name])
    assert verify(tmp_path / "run.h5") == []


@pytest.mark.parametrize("overlapped", [False, True])
def test_a_stopped_run_loses_no_complete_layer(sample, tmp_path, digest, overlapped):
    out = tmp_path / "run.h5"
    assert write(sample, out, overlapped=overlapped, stop_after=2) == [0, 2]
    assert [name for name in names(tmp_path / "run.h5.partial") if "written" in name] == [
        "layer-000.written.json",
        "layer-002.written.json",
    ]
    assert write(sample, out, overlapped=overlapped, resume=True, stop_after=1) == [3]
    assert write(sample, out, overlapped=overlapped, resume=True) == [4, 7]
    assert_whole(out, digest)


@pytest.mark.parametrize(("out", "batches"), [("run.h5", 1), ("run.h5", 2), ("run", 1)])
def test_layers_are_counted_while_they_are_written(sample, tmp_path, out, batches):
    """As the dashboard does: a layer counts once one of its shards, or all of it, is complete."""
    asked, arrays = sample.header(layers=ALL), sample.samples(ALL)
    made = CaptureWriter(tmp_path / out, asked, layers=ALL, batches=batches)
    assert layers_written(made.partial) == 0
    for count, layer in enumerate(ALL[:3], 1):
        for batch in range(batches):
            part = sample.batch_of(arrays[layer], made.prompts(batch))
            made.write(layer, batch, part, sample.attributes(layer))
            assert layers_written(made.partial) == count
    made.close()


def test_what_is_written_can_be_read_meanwhile(sample, tmp_path):
    arrays = sample.samples()[0]
    with CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2]) as made:
        made.write(0, 0, arrays, sample.attributes(0))
        np.testing.assert_array_equal(made.stored(0, 0, "channel"), arrays["channel"])
        assert made.stored(0, 0, "A_bar") is None
        assert made.done(0, 0)
        assert not made.done(2, 0)


def change_entry(**fields):
    def change(folder):
        path = folder / "layer-002.written.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def cut_entry(folder):
    path = folder / "layer-002.written.json"
    path.write_bytes(path.read_bytes()[:-30])


def link_entry(folder):
    path = folder / "layer-002.written.json"
    path.rename(folder.parents[1] / "elsewhere.json")
    path.symlink_to(folder.parents[1] / "elsewhere.json")


def change_data(change):
    def go(folder):
        (path,) = folder.glob("assembled.h5.*")
        entry = json.loads((folder / "layer-002.written.json").read_text())
        *_, place, size = next(rows for rows in entry["chunks"] if rows)[0]
        change(path, place + size // 2)

    return go


def flip(path, place):
    octets = bytearray(path.read_bytes())
    octets[place] ^= 1
    path.write_bytes(octets)


def erase(path, place):
    octets = bytearray(path.read_bytes())
    octets[place - 8 : place + 8] = bytes(16)
    path.write_bytes(octets)


DAMAGES = {
    "a cut entry": cut_entry,
    "a linked entry": link_entry,
    "no file": change_entry(file="nothing"),
    "a file elsewhere": change_entry(file="../elsewhere"),
    "no name": change_entry(file=""),
    "another request": change_entry(header_digest="0" * 64),
    "other attributes": change_entry(attributes={"finite": "finite", "digest": "0" * 64}),
    "attributes of a wrong type": change_entry(attributes={"finite": [1]}),
    "no datasets": change_entry(datasets=[], chunks=[]),
    "an unknown dataset": change_entry(datasets=[["x", [3], "<f4", 0]], chunks=[[]]),
    "a huge dataset": change_entry(datasets=[["delta", [1 << 40, 9, 9], "<f4", 0]], chunks=[[]]),
    "objects": change_entry(datasets=[["D", [3], "O", 0]], chunks=[[]]),
    "chunks of nothing": change_entry(chunks=[]),
    "a chunk out of the file": change_entry(
        datasets=[["D", [3], "<f4", 0]], chunks=[[[[0], 0, 1 << 50, 9]]]
    ),
    "a chunk out of the array": change_entry(
        datasets=[["D", [3], "<f4", 0]], chunks=[[[[9], 0, 0, 9]]]
    ),
    "a negative size": change_entry(datasets=[["D", [3], "<f4", 0]], chunks=[[[[0], 0, 0, -1]]]),
    "a flipped bit": change_data(flip),
    "lost bytes": change_data(erase),
    "a cut file": change_data(lambda path, place: os.truncate(path, place)),
    "no data": change_data(lambda path, _: path.unlink()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_is_written_again(sample, tmp_path, digest, damage):
    out = tmp_path / "folder" / "run.h5"
    out.parent.mkdir()
    write(sample, out, overlapped=False, stop_after=3)
    damage(out.parent / "run.h5.partial")
    again = write(sample, out, resume=True)
    assert 2 in again
    assert set(again) <= {0, 2, 3, 4, 7}
    assert_whole(out, digest)


@pytest.mark.parametrize("call", ["pwritev", "pwrite", "fsync", "ftruncate"])
@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(errno.ENOSPC, "full"), SsmlensError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["full", "interrupted"],
)
def test_an_error_at_any_write_loses_nothing(
    sample, tmp_path, monkeypatch, digest, call, error, told
):
    """HDF5 would crash sooner or later, were it told."""
    real, after, done = getattr(os, call), 0, []
    while True:
        out, calls = tmp_path / str(after) / "run.h5", []
        out.parent.mkdir()

        def fail(*args, last=after, calls=calls):
            calls.append(1)
            if len(calls) > last:
                raise error
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with suppress(told):
                write(sample, out, overlapped=after % 2)
        if out.exists():
            break
        complete = {path.name[6:9] for path in out.parent.glob("run.h5.partial/layer-*.json")}
        again = write(sample, out, resume=(out.parent / "run.h5.partial").exists())
        assert {f"{layer:03d}" for layer in again}.isdisjoint(complete)
        done.append(len(complete))
        assert_whole(out, digest)
        after += 1 + after // 2
    assert_whole(out, digest)
    assert after
    assert max(done) >= 3


def test_a_failed_write_is_no_end(sample, tmp_path, monkeypatch, digest):
    """The next layer begins another file, and the layers of the first become shards."""
    out, arrays = tmp_path / "run.h5", sample.samples(ALL)
    made = CaptureWriter(out, sample.header(layers=ALL), layers=ALL)
    made.write(0, 0, arrays[0], sample.attributes(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(SsmlensError, match=r"cannot write .*assembled\.h5: [^\n]*$"):
            made.write(2, 0, arrays[2], sample.attributes(2))
    assert made.done(0, 0)
    assert not made.done(2, 0)
    for layer in ALL[1:]:
        made.write(layer, 0, arrays[layer], sample.attributes(layer))
    made.finish()
    assert_whole(out, digest)


def test_a_failed_end_can_be_repeated(sample, tmp_path, monkeypatch, digest):
    out, arrays = tmp_path / "run.h5", sample.samples(ALL)
    made = CaptureWriter(out, sample.header(layers=ALL), layers=ALL)
    sample.write_missing(made, arrays)
    with monkeypatch.context() as patch:
        patch.setattr(
            growing, "write_assembly", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, ""))
        )
        with pytest.raises(SsmlensError, match="no space left on the disk"):
            made.finish()
    assert not out.exists()
    made.finish()
    assert_whole(out, digest)


def test_machines_that_take_over_a_stopped_run(sample, tmp_path, digest):
    """Each makes shards of its own layers, and leaves the rest."""
    out, arrays = tmp_path / "run.h5", sample.samples(ALL)
    write(sample, out, overlapped=False, stop_after=3)  # 0, 2, 3
    for layers, missing in (((0, 2), 0), ((3, 4, 7), 2)):
        made = CaptureWriter(out, sample.header(layers=ALL), layers=layers, resume=True)
        assert sample.write_missing(made, arrays) == missing
        made.finish()
    assert_whole(out, digest)
