"""Files of schema 2, written by the release before operators: the same maps, scores and digests."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ssmlens.scores.table import compute
from ssmlens.store import open_capture, verify

FILES = Path(__file__).parents[1] / "fixtures/captures/schema-2"
SAID = json.loads((FILES / "said.json").read_text())  # what that release said of them


@pytest.mark.parametrize("name", SAID)
def test_digests_arrays_and_scores_are_those_of_then(name):
    said = SAID[name]
    with open_capture(FILES / f"{name}.h5") as capture:
        assert capture.schema_version == 2
        assert capture.digest == said["digest"]
        for index, then in said["layers"].items():
            layer = capture.layer(int(index))
            assert (layer.digest, layer.kind) == (then["digest"], then["kind"])
            assert {*layer.names} == {*then["arrays"]}
            for array, digest in then["arrays"].items():
                data = np.ascontiguousarray(layer.read(array)).tobytes()
                assert hashlib.sha256(data).hexdigest() == digest
        table = compute(capture)
        for score, values in said["scores"].items():
            np.testing.assert_allclose(table[score].values, values, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SAID)
def test_they_verify_and_know_their_operators(name):
    path = FILES / f"{name}.h5"
    assert verify(path) == []
    with open_capture(path) as capture:
        for index in capture.layers:
            layer = capture.layer(index)
            attends = layer.kind == "attention"
            assert layer.operator == ("softmax" if attends else "decay scan")
            assert layer.maps == (("map",) if attends else ("map", "mask"))
            assert layer.has_operands != attends
