"""Files made to harm: refused by name, before anything in them, or anything they point to, is read.

What an evil file points to is a FIFO: whoever opens it waits for ever, and the test's time runs out.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from ssmlens.errors import CaptureFileError, SsmlensError
from ssmlens.store import open_capture, verify
from ssmlens.store.manifest import MANIFEST


@pytest.fixture(scope="module")
def original(sample, tmp_path_factory):
    return sample.write_capture(tmp_path_factory.mktemp("original") / "run.h5")


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copy(original, tmp_path / "copy.h5")


@pytest.fixture
def trap(tmp_path):
    """A file that cannot be opened without being noticed."""
    os.mkfifo(tmp_path / "secret.h5")

    def ran_out(*_):
        raise AssertionError("the file pointed to was opened")

    before = signal.signal(signal.SIGALRM, ran_out)
    signal.alarm(20)
    yield "secret.h5"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(path, told):
    with pytest.raises(CaptureFileError, match=told) as error:
        open_capture(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    problems = verify(path)
    assert len(problems) == 1


def replace(path, name, make):
    with h5py.File(path, "r+") as file:
        del file[name]
        make(file)


@pytest.mark.parametrize("name", ["layers/002", "layers/000/delta", "tokens", "layers"])
def test_external_link(copy, trap, name):
    replace(copy, name, lambda f: f.update({name: h5py.ExternalLink(trap, "/x")}))
    refused(copy, f"{name} is an external link")


@pytest.mark.parametrize("name", ["layers/000/B", "layers/002", "length"])
def test_soft_link(copy, name):
    replace(copy, name, lambda f: f.update({name: h5py.SoftLink("/tokens")}))
    refused(copy, f"{name} is a soft link")


def test_external_storage(copy, trap):
    def make(file):
        stored = [(trap, 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("layers/000/delta", (4, 9, 6), np.float32, external=stored)

    replace(copy, "layers/000/delta", make)
    refused(copy, "layers/000/delta has external storage")


@pytest.mark.parametrize("files", ["one", "numbered"])
def test_virtual_dataset(copy, trap, files):
    """Even asking a virtual dataset's shape can open its files: the layout is looked at first."""
    unlimited = h5py.h5s.UNLIMITED
    source = h5py.h5s.create_simple((1, 9, 6), (unlimited, 9, 6) if files == "one" else (1, 9, 6))
    target = h5py.h5s.create_simple((1, 9, 6), (unlimited, 9, 6))
    target.select_hyperslab((0, 0, 0), (unlimited, 1, 1), (1, 1, 1), (1, 9, 6))
    if files == "one":
        source.select_hyperslab((0, 0, 0), (unlimited, 1, 1), (1, 1, 1), (1, 9, 6))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.VIRTUAL)
    name = trap if files == "one" else "secret%b.h5"
    os.link(copy.parent / trap, copy.parent / "secret0.h5")
    made.set_virtual(target, name.encode(), b"/x", source)

    def make(file):
        h5py.h5d.create(file.id, b"layers/000/delta", h5py.h5t.IEEE_F32LE, target, dcpl=made)

    replace(copy, "layers/000/delta", make)
    refused(copy, "layers/000/delta is a virtual dataset")


def test_four_tebibytes(copy):
    def make(file):
        shape, chunks = (4, 9, 1 << 35), (1, 9, 64)
        options = {"chunks": chunks, "fletcher32": True, "compression": 0}
        file.create_dataset("layers/000/delta", shape, np.float32, **options)

    replace(copy, "layers/000/delta", make)
    assert copy.stat().st_size < 1 << 20
    refused(copy, "layers/000/delta declares 4947802324992 bytes, out of all proportion")


def test_tebibytes_in_the_header(copy):
    def make(file):
        options = {"chunks": (1, 1 << 20), "fletcher32": True, "compression": 0}
        file.create_dataset("tokens", (4, 1 << 37), np.int64, **options)

    replace(copy, "tokens", make)
    refused(copy, "tokens declares|along token")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"chunks": (1, 9, 6), "fletcher32": True, "compression": "lzf"},
            r"unknown filter \(32000\)",
        ),
        ({"chunks": (1, 9, 6), "compression": 1}, "no checksum"),
        ({"chunks": (1, 9, 6), "fletcher32": True}, "no checksum"),
        ({}, "not chunked"),
    ],
)
def test_filters_and_layouts(copy, options, told):
    def make(file):
        file.create_dataset("layers/000/delta", data=np.ones((4, 9, 6), np.float32), **options)

    replace(copy, "layers/000/delta", make)
    refused(copy, told)


@pytest.mark.parametrize(
    "dtype",
    [
        h5py.string_dtype(),
        h5py.vlen_dtype(np.float32),
        h5py.ref_dtype,
        np.dtype([("a", "f4")]),
        np.dtype("c8"),
        np.dtype("f2"),
        np.dtype("S8"),
    ],
    ids=str,
)
def test_kinds_of_values(copy, dtype):
    options = {"chunks": (1, 9, 6), "fletcher32": True, "compression": 1}
    if h5py.check_vlen_dtype(dtype) or h5py.check_string_dtype(dtype):
        options = {} if dtype.kind == "O" else options  # HDF5 does not filter such values
    replace(
        copy,
        "layers/000/delta",
        lambda f: f.create_dataset("layers/000/delta", (4, 9, 6), dtype, **options),
    )
    refused(copy, "layers/000/delta (holds values of an unsupported type|is not chunked)")


@pytest.mark.parametrize(
    "value", ["a string", np.array([(1, 2)], "i4,i4"), h5py.Empty("f4")], ids=str
)
@pytest.mark.parametrize("where", ["/", "layers/000", "layers/000/delta"])
def test_kinds_of_attributes(copy, where, value):
    with h5py.File(copy, "r+") as file:
        file[where].attrs["model"] = value
    refused(copy, "the attribute model of")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.create_group("extra"), "extra is not part of a capture"),
        (lambda f: f["layers/000"].create_group("x"), "layers/000/x is not a dataset"),
        (lambda f: f.create_group("layers/5"), "layers/5 is not part of a capture"),
        (lambda f: f.move("layers/002", "layers/003"), "layers/003 is not part of a capture"),
        (lambda f: f.pop("layers/002"), "layers lacks 002"),
        (lambda f: f.pop("layers/000/C"), "layers/000 lacks C"),
        (lambda f: f.pop("layers/000/A"), "layers/000 lacks exactly one of A and log_decay"),
        (
            lambda f: f["layers/000"].attrs.update(kind=np.bytes_("mlp")),
            r"the kind of layers/000 is unknown \('mlp'\)",
        ),
        (lambda f: f.pop("layers/000/prompt_digest"), "layers/000 lacks prompt_digest"),
        (lambda f: f.pop("length"), "the root lacks length"),
        (lambda f: f.pop("layers"), "lacks layers"),
        (lambda f: f["layers/000"].attrs.pop("finite"), "layers/000 says finite=None"),
        (lambda f: f.attrs.pop("digest"), "lacks digest"),
        (lambda f: f.attrs.pop("layers"), "lacks its attribute layers"),
        (lambda f: f.attrs.pop("format"), "not an ssmlens capture"),
        (lambda f: f["layers/000"].update({"D": f["layers"]}), "is not part|unable|name already"),
        (lambda f: f["layers"].update({"007": f["/"]}), "layers/007 is not part of a capture"),
        (lambda f: f.update({"target2": f["tokens"]}), "target2 is not part of a capture"),
        (lambda f: f.update({"named": np.dtype("f4")}), "named is not part of a capture"),
    ],
)
def test_names(copy, change, told):
    with h5py.File(copy, "r+") as file:
        try:
            change(file)
        except (OSError, ValueError):
            del file["layers/000/D"]
            change(file)
            told = "layers/000/D is not a dataset"
    refused(copy, told)


@pytest.mark.parametrize("version", [0, -3])
def test_a_schema_version_that_nobody_writes(copy, version):
    with h5py.File(copy, "r+") as file:
        file.attrs["schema_version"] = np.int64(version)
    refused(copy, f"has schema version {version}, which no ssmlens writes: capture it again")


@pytest.mark.parametrize("version", [3, 99])
def test_another_schema_version_that_needs_what_is_not_here(copy, version):
    with h5py.File(copy, "r+") as file:
        file.attrs["schema_version"] = np.int64(version)
        file.attrs["needs"] = np.bytes_("time-travel")
    refused(copy, rf"needs time-travel to be read \(schema version {version}\), which this")


def test_shapes_that_disagree(copy):
    options = {"chunks": (1, 8, 6), "fletcher32": True, "compression": 1}
    replace(
        copy,
        "layers/000/delta",
        lambda f: f.create_dataset("layers/000/delta", (4, 8, 6), np.float32, **options),
    )
    refused(copy, "along token")


def test_lengths_that_lie(copy):
    with h5py.File(copy, "r+") as file:
        file["length"][...] = [9, 5, 7, 1000]
    refused(copy, "header is damaged")


def test_not_a_capture(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
    refused(path, "HDF5 but not an ssmlens capture")


def test_not_a_file(tmp_path, trap):
    with pytest.raises(CaptureFileError, match="is not a file"):
        open_capture(tmp_path / trap)


@pytest.fixture
def folder(sample, tmp_path):
    return sample.write_capture(tmp_path / "run")


def rewrite(folder, **changes):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name",
    ["../copy.h5", "/etc/passwd", "a/b.h5", ".hidden", "", "layer\n.h5", "..", "layer-000.h5\0"],
)
def test_manifest_that_points_elsewhere(folder, name):
    rewrite(folder, layers={"0": name, "2": "layer-002.h5"})
    with pytest.raises(CaptureFileError, match="not a plain file name"):
        open_capture(folder)


@pytest.mark.parametrize("name", ["layer-002.h5", "header.h5", MANIFEST])
def test_links_out_of_the_folder(folder, trap, name):
    (folder / name).unlink()
    (folder / name).symlink_to(folder.parent / trap)
    with pytest.raises(CaptureFileError, match=f"{name} is a symbolic link"):
        open_capture(folder)


def test_fifo_in_the_folder(folder, trap):
    (folder / "layer-002.h5").unlink()
    (folder.parent / trap).rename(folder / "layer-002.h5")
    with pytest.raises(CaptureFileError, match=r"layer-002\.h5 is not a regular file"):
        open_capture(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": "ssmlens capture"}', "[" * 100_000, '"\\ud800"', "\0"],
)
def test_manifest_that_is_damaged(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CaptureFileError, match="damaged") as error:
        open_capture(folder)
    assert "\n" not in str(error.value)


def test_manifest_of_another_version_or_with_layers_missing(folder):
    rewrite(folder, schema_version=4, needs="time-travel")
    with pytest.raises(CaptureFileError, match="needs time-travel to be read"):
        open_capture(folder)
    rewrite(folder, schema_version=3, needs="", layers={"0": "layer-000.h5"})
    with pytest.raises(CaptureFileError, match="list different layers"):
        open_capture(folder)
    rewrite(folder, layers={"0": "layer-000.h5", "2": "layer-000.h5"})
    with pytest.raises(CaptureFileError, match="layer-000"):
        open_capture(folder)
    (folder / "layer-002.h5").unlink()
    rewrite(folder, layers={"0": "layer-000.h5", "2": "layer-002.h5"})
    with pytest.raises(CaptureFileError, match=r"has no layer-002\.h5: it is not complete"):
        open_capture(folder)


def test_layer_file_with_an_external_link(folder, trap):
    path = folder / "layer-000.h5"
    target = str(folder.parent / trap)
    replace(
        path,
        "layers/000/W_B",
        lambda f: f.update({"layers/000/W_B": h5py.ExternalLink(target, "/x")}),
    )
    with pytest.raises(CaptureFileError, match="W_B is an external link"):
        open_capture(folder)


def test_the_trap_catches(tmp_path, trap):
    """The FIFO is noticed: plain h5py, told to follow the link, waits for ever."""
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["x"] = h5py.ExternalLink(trap, "/x")
    code = "import h5py, sys; print(h5py.File(sys.argv[1])['x'][...])"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", code, tmp_path / "evil.h5"], timeout=1.5, check=False)


def test_errors_are_of_one_kind(copy):
    with h5py.File(copy, "r+") as file:
        file.attrs["schema_version"] = np.int64(-5)
    with pytest.raises(SsmlensError) as error:
        open_capture(copy)
    assert error.value.exit_code == 1
