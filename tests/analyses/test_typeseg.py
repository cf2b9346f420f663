"""typeseg's trained blocks, read by the adapter of analyses/typeseg, against typeseg's own numpy code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from oracles import relative
from typeseg import _mamba_kernel, _numpy_backend, _runtime

import ssmlens
from analyses.typeseg.ahead import ahead, table

FOLDER = Path(__file__).parents[2] / "analyses" / "typeseg"
TEXT = "<p>a</p><style>p { color: red }</style>\nSELECT a FROM b WHERE c = 'é'; <b>"


@pytest.fixture(scope="module")
def weights():
    return _runtime._weights("mamba_al.npz")


@pytest.fixture(scope="module")
def model(typeseg):
    return ssmlens.load_model(FOLDER / "model")


def test_logits_are_those_of_the_package(model, weights):
    ids = model.tokenizer.encode(TEXT)
    assert len(ids) == len(TEXT.encode())
    assert model.tokenizer.decode(ids) == TEXT.replace("é", "¤¤")
    with torch.no_grad():
        got = model(torch.tensor([ids]))[0]
    assert relative(got, _numpy_backend.mamba_forward(weights, np.array(ids))) < 1e-5


def test_every_block_closes_against_the_packages_scan(model, weights):
    """Its output less its input, by the package alone; and M and D of the operands, by that definition."""
    ids = model.tokenizer.encode(TEXT)
    hidden = _mamba_kernel._embed(np, weights, np.array(ids))
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(torch.tensor([ids]))
    scan = _mamba_kernel._selective_scan_seq
    for index, record in enumerate(rec):
        after = _mamba_kernel._mamba_block(np, weights, index, hidden, 16, 16, 4, scan)
        o = record.operands
        assert relative(record.call.output[0], after - hidden) < 1e-4
        assert record.closure_error < 1e-5
        hidden = after
        maps = ssmlens.channel_maps(o.sequence(0), [0, 100, 255])
        arrays = (array[0].numpy() for array in (o.x[..., 0], o.delta, o.B[:, :, 0], o.C[:, :, 0]))
        u, delta, B, C = arrays
        own = o.A.numpy(), o.D[:, 0].numpy() / 2
        y = scan(np, u, delta, B, C, *own)
        y = y + scan(np, u[::-1], delta[::-1], B[::-1], C[::-1], *own)[::-1]
        mixed = (maps[0] @ o.x[0, :, [0, 100, 255], 0].T.unsqueeze(2))[..., 0] + (
            o.D[[0, 100, 255]] * o.x[0, :, [0, 100, 255], 0].T
        )
        assert relative(mixed.T, y[:, [0, 100, 255]]) < 1e-5


def test_taps_see_one_byte_back_and_two_ahead(model):
    mixer, hidden = model.layers[0].mixer, torch.randn(1, 9, 256)
    changed = hidden.clone()
    changed[0, 4] += 1
    with torch.no_grad():
        one, other = (ssmlens_operands(mixer, given).x[0, :, :, 0] for given in (hidden, changed))
    moved = (one != other).any(1).nonzero().flatten().tolist()
    assert moved == [2, 3, 4, 5]


def ssmlens_operands(mixer, hidden):
    from ssmlens_typeseg import TypesegAdapter

    from ssmlens.adapters.adapter import MixerInput

    return TypesegAdapter().project(mixer, MixerInput(hidden))


def test_shares_of_a_map_by_hand():
    said = ahead(np.array([[2.0, -6.0], [1.0, 1.0]]))
    assert said == {"back": 0.1, "own": 0.3, "ahead": 0.6, "rows_ahead": 0.5}


def test_the_readme_has_the_table_of_its_results():
    results = json.loads((FOLDER / "results.json").read_text())
    assert table(results) in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(results["blocks"]) == 6
    assert all(
        row["closure_error"] < 1e-5 and row["believed"] == "yes" for row in results["blocks"]
    )
    assert all(row["ahead"] > 0.1 for row in results["blocks"])


def test_it_is_captured_from_the_command_line_where_it_is_installed(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "source")  # pip builds there
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    to = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", to]
    subprocess.run([*command, tmp_path / "source"], check=True, timeout=300)
    own = [path for path in sys.path if path and Path(path) != FOLDER]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(to), *own])}

    def run(*words):
        command = [sys.executable, "-m", "ssmlens", *map(str, words)]
        said = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    run("capture", "--model", FOLDER / "model", "--prompt", TEXT, "a{}", "--out", "page.h5")
    run("verify", "page.h5")
    with h5py.File(tmp_path / "page.h5") as file:
        assert len(file["layers"]) == 6
        for layer in file["layers"].values():
            assert np.triu(layer["attention_map"][0], 1).any(1)[:-1].sum() > len(TEXT) - 5
            assert not layer["attention_map"][1, :, 3:].any()
