"""`ssmlens verify` finds one flipped sign, wherever it is, with and without digests that betray it."""

import shutil

import h5py
import numpy as np
import pytest

import ssmlens
from ssmlens.store import CaptureWriter, open_capture

IDS = [[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5]]
ARRAYS = ["attention_map", "attention_mask", "channel_map", "delta", "A", "B", "C", "W_B", "D"]


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "run.h5"
    ssmlens.capture(tiny_model("transformers Mamba2Mixer"), IDS, path, channels=[1]).close()
    return path


def flip_one_sign(array, generator):
    """The same array with the sign of one of its entries, not the smallest, turned."""
    flipped = array.copy()
    loud = np.flatnonzero(np.abs(array) >= np.median(np.abs(array[array != 0])))
    flipped.reshape(-1)[generator.choice(loud)] *= -1
    return flipped


def test_a_sound_capture(cli, run):
    said = cli("verify", run)
    assert (said.code, said.out, said.err) == (0, f"{run} is sound\n", "")
    assert cli("verify", run, "--json").json == {"path": str(run), "sound": True, "problems": []}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_sign_flipped_in_the_file(cli, run, tmp_path, name):
    path = tmp_path / "run.h5"
    shutil.copy(run, path)
    with h5py.File(path, "r+") as file:
        dataset = file["layers/001"][name]
        dataset[...] = flip_one_sign(dataset[...], np.random.default_rng(0))
    said = cli("verify", path, "--json")
    assert said.code == 1
    assert not said.json["sound"]
    assert said.json["problems"]
    assert all(problem.startswith("layer 1: ") for problem in said.json["problems"])


@pytest.mark.parametrize("name", ["attention_map", "attention_mask", "channel_map", "B", "delta"])
def test_a_sign_flipped_before_the_digests_were_made(cli, run, tmp_path, name):
    """The bytes are what was written; only the maps and the operands disagree."""
    with open_capture(run) as capture:
        writer = CaptureWriter(tmp_path / "run", capture.header, layers=capture.layers)
        for index in capture.layers:
            layer = capture.layer(index)
            arrays = {n: layer.read(n) for n in layer.names}
            if index == 2:
                arrays[name] = flip_one_sign(arrays[name], np.random.default_rng(1))
            writer.write(index, 0, arrays, layer.attributes)
        writer.finish()
    said = cli("verify", tmp_path / "run")
    assert said.code == 1
    assert all(line.startswith("layer 2: prompt ") for line in said.out.splitlines())
    assert "does not follow from the operands" in said.out


def test_a_file_cut_short(cli, run, tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(run.read_bytes()[:-1000])
    said = cli("verify", path)
    assert said.code == 1
    assert str(path) in said.out
    for command in ("info", "rank-layers", "report"):
        refused = cli(command, path)
        assert refused.code == 1
        assert str(path) in refused.complaint
