"""`pack`: a folder becomes one file that says the same."""

import h5py
import pytest

from ssmlens.errors import CaptureFileError, SsmlensError, UsageError
from ssmlens.store import open_capture, pack, packing, verify
from ssmlens.store.assemble import OtherDigestError


@pytest.fixture
def folder(sample, tmp_path):
    return sample.write_capture(tmp_path / "run", 2)


def test_the_same_digest_and_content(folder, sample, tmp_path):
    out = pack(folder, tmp_path / "packed.h5")
    assert verify(out) == []
    with open_capture(out) as packed, open_capture(folder) as whole:
        assert packed.digest == whole.digest
        assert packed.attributes == whole.attributes
        for index in sample.LAYERS:
            assert packed.layer(index).attributes == whole.layer(index).attributes
            for name in whole.layer(index).names:
                stored = packed.layer(index).read(name)
                assert stored.tobytes() == whole.layer(index).read(name).tobytes()
    assert verify(folder) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed.h5", "run"]


def test_requests_that_must_change(folder, sample, tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.h5"):
        pack(folder, tmp_path / "packed")
    with pytest.raises(UsageError, match="is not a folder"):
        pack(folder / "header.h5", tmp_path / "packed.h5")
    with pytest.raises(CaptureFileError, match=r"has no manifest\.json"):
        pack(tmp_path, tmp_path / "packed.h5")
    with pytest.raises(SsmlensError, match="the folder does not exist; needs"):
        pack(folder, tmp_path / "none" / "packed.h5")
    sample.CaptureWriter(tmp_path / "half.h5", sample.header(), layers=[0, 2])
    with pytest.raises(UsageError, match="is half captured"):
        pack(folder, tmp_path / "half.h5")


def test_overwriting(folder, tmp_path):
    out = tmp_path / "packed.h5"
    out.write_text("old")
    with pytest.raises(UsageError, match="exists; pass `overwrite`"):
        pack(folder, out)
    pack(folder, out, overwrite=True)
    assert verify(out) == []


def test_a_damaged_layer_stays_known_as_damaged(folder, tmp_path):
    path = folder / "layer-002.h5"
    with h5py.File(path) as file:
        chunk = file["layers/002/B"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 7] ^= 1
    path.write_bytes(data)
    out = pack(folder, tmp_path / "packed.h5")
    (problem,) = verify(out)
    assert "layer 2 is damaged" in problem


def test_a_folder_replaced_twice_by_what_it_was_is_noticed(sample, tmp_path, monkeypatch):
    """Its manifest is the same again, but the files read meanwhile were of two captures."""
    path, calls = sample.write_capture(tmp_path / "run"), []
    real = packing.assemble

    def assemble(jobs):
        calls.append(0)
        if len(calls) == 1:
            for model in ("other", "m"):
                asked = sample.header(attributes={"model": model})
                sample.write_capture(path, asked=asked, overwrite=True)
            raise OtherDigestError("its layers are of two captures")
        real(jobs)

    asked = sample.header(attributes={"model": "m"})
    sample.write_capture(path, asked=asked, overwrite=True)
    with open_capture(path) as capture:
        digest = capture.digest
    monkeypatch.setattr(packing, "assemble", assemble)
    with open_capture(pack(path, tmp_path / "one.h5")) as packed:
        assert packed.digest == digest
    assert len(calls) == 2


def test_a_folder_that_is_replaced_all_the_time_is_given_up(sample, tmp_path, monkeypatch):
    path, calls = sample.write_capture(tmp_path / "run"), []

    def assemble(_):
        calls.append(0)
        sample.write_capture(path, overwrite=True)
        raise OtherDigestError("its layers are of two captures")

    monkeypatch.setattr(packing, "assemble", assemble)
    monkeypatch.setattr(packing, "_PATIENCE", 0.2)
    with pytest.raises(CaptureFileError, match="keeps being replaced by new captures"):
        pack(path, tmp_path / "one.h5")
    assert len(calls) > 1
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
