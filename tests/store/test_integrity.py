"""`verify` finds what checksums cannot: a file rewritten with other numbers, checksums and all."""

import shutil

import h5py
import numpy as np
import pytest

from ssmlens.errors import UsageError
from ssmlens.store import digest, open_capture, verify
from ssmlens.store.hdf5 import read_attributes, write_attributes
from ssmlens.store.integrity import TOLERANCE
from ssmlens.store.schema import has_prompts

ARRAYS = (
    "delta",
    "A",
    "B",
    "C",
    "D",
    "W_B",
    "attention_map",
    "attention_mask",
    "channel_map",
    "closure_error",
)


@pytest.fixture(scope="module")
def original(sample, tmp_path_factory):
    return sample.write_capture(tmp_path_factory.mktemp("original") / "run.h5")


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copy(original, tmp_path / "copy.h5")


def forge(path, index):
    """Make the digests agree with the file again, as someone who knows ssmlens would."""
    with h5py.File(path, "r+") as file:
        layers = []
        for name, group in file["layers"].items():
            attributes = read_attributes(group)
            if int(name) == index:
                known = [n for n in group if n in (*ARRAYS, "dt_bias", "channel")]
                arrays = {n: group[n][...] for n in known}
                mine = {n: a for n, a in arrays.items() if has_prompts(n)}
                group["prompt_digest"][...] = digest.prompt_digests(mine, 4)
                shared = {n: a for n, a in arrays.items() if n not in mine}
                attributes["static_digest"] = digest.static_digest(shared)
                said = str(attributes["static_digest"]), group["prompt_digest"][...]
                attributes["digest"] = digest.layer_digest(index, attributes, *said)
                write_attributes(group, attributes)
            layers.append(str(attributes["digest"]))
        whole = digest.capture_digest(str(read_attributes(file)["header_digest"]), layers)
        write_attributes(file, {"digest": whole})


def test_a_good_capture(original):
    steps = []
    assert verify(original, progress=lambda done, of: steps.append((done, of))) == []
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("name", ARRAYS)
def test_one_flipped_sign(copy, name, index):
    with h5py.File(copy, "r+") as file:
        array = file[f"layers/{index:03d}/{name}"]
        at = tuple(n // 2 for n in array.shape)
        at = (0, *(0 for _ in array.shape[1:])) if array[at] == 0 else at
        assert array[at] != 0
        array[at] = -array[at]
    problems = verify(copy)
    assert len(problems) == 1
    static = name in ("A", "D", "W_B")
    told = "its arrays without prompts" if static else "prompt"
    assert problems[0].startswith(f"layer {index}: {told}")


@pytest.mark.parametrize(
    "name", ["delta", "A", "B", "C", "attention_map", "attention_mask", "channel_map"]
)
@pytest.mark.parametrize("index", [0, 2])
def test_one_flipped_sign_and_forged_digests(copy, name, index):
    """The maps are recomputed from the operands, so one without the other is noticed all the same."""
    with h5py.File(copy, "r+") as file:
        array = file[f"layers/{index:03d}/{name}"]
        at = tuple(0 for _ in array.shape)
        assert array[at] != 0
        array[at] = -array[at]
    forge(copy, index)
    problems = verify(copy)
    assert problems
    assert all("does not follow from the operands" in problem for problem in problems)
    assert all(problem.startswith(f"layer {index}: prompt ") for problem in problems)


@pytest.mark.parametrize("name", ["attention_map", "channel_map"])
@pytest.mark.parametrize("size", [2.0**-12, 2.0**12])
def test_the_tolerance_is_a_share_of_the_map(sample, tmp_path, name, size):
    """Half of it passes and twice is told, of small maps as of large ones."""
    off = np.array([0.0, 0.5, 2.0, -2.0]) * TOLERANCE
    arrays = sample.samples()
    for linear_in_c in ("C", "attention_map", "channel_map"):
        arrays[2][linear_in_c] = arrays[2][linear_in_c] * np.float32(size)
    array = arrays[2][name]
    arrays[2][name] = (array * (1 + off.reshape(-1, *[1] * (array.ndim - 1)))).astype(np.float32)
    problems = verify(sample.write_capture(tmp_path / "run", arrays=arrays))
    assert {problem[: len("layer 2: prompt 0")] for problem in problems} == {
        "layer 2: prompt 2",
        "layer 2: prompt 3",
    }
    for problem in problems:
        assert float(problem.split("(difference ")[1].rstrip(")")) == pytest.approx(2 * TOLERANCE)


def test_a_map_of_nothing_is_zero(sample, tmp_path):
    """What is never read gives no map; a stored one that is something then has no share to be told."""
    arrays = sample.samples()
    for linear_in_c in ("C", "attention_map", "channel_map"):
        arrays[0][linear_in_c] = np.zeros_like(arrays[0][linear_in_c])
    assert verify(sample.write_capture(tmp_path / "run", arrays=arrays)) == []
    arrays[0]["attention_map"][1, 3, 2] = 1e-30
    problems = verify(sample.write_capture(tmp_path / "other", arrays=arrays))
    assert problems == ["layer 0: prompt 1: attention_map should be zero"]


def test_forging_is_what_the_test_says_it_is(copy):
    forge(copy, 0)
    assert verify(copy) == []


def test_a_nan_in_a_finite_layer(copy):
    with h5py.File(copy, "r+") as file:
        file["layers/000/W_B"][0, 0, 0] = np.nan
    forge(copy, 0)
    assert verify(copy) == ["layer 0: W_B is not finite"]


@pytest.mark.parametrize("error", [2e-4, np.nan, np.inf])
def test_closure_above_tolerance(sample, tmp_path, error):
    arrays = sample.samples()
    arrays[2]["closure_error"] = np.array([1e-7, error, 1e-4, 1e-5])
    problems = verify(sample.write_capture(tmp_path / "run", arrays=arrays))
    if np.isfinite(error):
        assert problems == [
            "layer 2: prompt 1: closure error 0.0002 is above 0.0001: the verdict on its maps is no"
        ]
    else:
        assert len(problems) == 2
        assert any("prompt 1: closure error" in problem for problem in problems)


def test_a_layer_that_says_why_it_is_not_finite(sample, tmp_path):
    arrays = sample.samples()
    nan = np.full_like(arrays[2]["delta"], np.nan)
    arrays[2] |= {"delta": nan, "closure_error": np.full(4, np.nan)}
    writer = sample.CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2])
    writer.write(0, 0, arrays[0], sample.attributes(0))
    why = {"finite": "weights", "reason": "A_log has 1 NaN"}
    writer.write(2, 0, arrays[2], sample.attributes(2) | why)
    path = writer.finish()
    assert verify(path) == []
    with open_capture(path) as capture:
        assert capture.layer(2).state == "weights"
        assert capture.layer(2).finite is False
        assert capture.layer(0).finite is True
        assert np.isnan(capture.layer(2).read("delta")).all()


def test_changed_attributes(copy):
    with h5py.File(copy, "r+") as file:
        file["layers/002"].attrs["d_conv"] = np.int64(3)
    assert verify(copy) == ["layer 2: its attributes: not what was written"]
    with h5py.File(copy, "r+") as file:
        file.attrs["n_layer"] = np.int64(3)
    (problem,) = verify(copy)
    assert "its header and layers are not those it was completed with" in problem


def test_a_volatile_attribute_may_change(copy):
    with h5py.File(copy, "r+") as file:
        write_attributes(file, {"command": "forget it"})
    assert verify(copy) == []


def test_what_cannot_be_opened_is_a_problem_and_what_is_not_there_an_error(copy, tmp_path):
    copy.write_bytes(copy.read_bytes()[:-100])
    (problem,) = verify(copy)
    assert "damaged or cut short" in problem
    with pytest.raises(UsageError, match="there is no capture"):
        verify(tmp_path / "none.h5")


def test_a_damaged_chunk_is_told_and_the_rest_is_checked(original, copy):
    data = bytearray(original.read_bytes())
    with h5py.File(original) as file:
        chunk = file["layers/000/delta"].id.get_chunk_info(1)
    data[chunk.byte_offset + 5] ^= 64
    copy.write_bytes(data)
    (problem,) = verify(copy)
    assert problem.startswith(f"{copy}: layer 0 is damaged")
