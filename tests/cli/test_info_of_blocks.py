"""`ssmlens info` lists every block of the model: what it is, and whether it was captured."""

import numpy as np

from ssmlens.store import CaptureHeader, CaptureWriter


def test_blocks_of_a_hybrid(cli, tmp_path):
    kinds = ["mamba+attention", "attention", "mlp", "mamba"]
    header = CaptureHeader(
        tokens=np.array([[7, 8]]),
        length=np.array([2]),
        layers=[0, 1],
        attributes={"model": "tiny", "n_layer": 4},
        block_kinds=kinds,
    )
    writer = CaptureWriter(tmp_path / "run.h5", header, layers=[0, 1])
    shares = np.array([[[1, 0], [0.5, 0.5]]], np.float32)
    operands = {"delta": np.ones((1, 2, 3)), "A": -np.ones(3), "B": np.ones((1, 2, 1, 2))}
    arrays = {n: a.astype(np.float32) for n, a in (operands | {"C": operands["B"]}).items()}
    arrays["closure_error"] = np.array([3e-7], np.float32)
    writer.write(0, 0, arrays, {"finite": "yes", "mixer": "x.Mamba2"})
    writer.write(1, 0, {"attention_map": shares}, {"finite": "yes", "kind": "attention"})
    path = writer.finish()

    told = cli("info", path, "--json").json
    assert told["block_kinds"] == kinds
    assert [(la["layer"], la["kind"], la["closure_error"]) for la in told["layers"]] == [
        (0, "mamba", np.float32(3e-7)),
        (1, "attention", None),
    ]
    lines = cli("info", path).out.splitlines()[-5:]
    assert [line.split() for line in lines] == [
        ["block", "kind", "finite", "closure_error", "map_closure", "verdict", "mixer"],
        ["0", "mamba+attention", "yes", "3.0e-07", "-", "yes", "x.Mamba2"],
        ["1", "attention", "yes", "-", "-", "yes"],
        ["2", "mlp", "not", "captured"],
        ["3", "mamba", "not", "captured"],
    ]
    assert cli("verify", path).code == 0


def test_a_closure_error_that_is_not_a_number_is_not_hidden_by_the_others(cli, tmp_path):
    header = CaptureHeader(
        tokens=np.array([[7, 8], [8, 7]]), length=np.array([2, 2]), layers=[0], attributes={}
    )
    writer = CaptureWriter(tmp_path / "run.h5", header, layers=[0])
    arrays = {"delta": np.ones((2, 2, 3)), "A": -np.ones(3), "B": np.ones((2, 2, 1, 2))}
    arrays = {n: a.astype(np.float32) for n, a in (arrays | {"C": arrays["B"]}).items()}
    arrays["closure_error"] = np.array([1e-6, np.nan], np.float32)
    writer.write(0, 0, arrays, {"finite": "yes", "mixer": "x.Mamba2"})
    path = writer.finish()
    (layer,) = cli("info", path, "--json").json["layers"]
    assert (layer["closure_error"], layer["believed"]) == (None, "no")
    assert cli("info", path).out.splitlines()[-1].split()[3] == "nan"
