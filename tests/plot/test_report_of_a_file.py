"""The report of a real capture file says what the same arrays in memory say."""

import re
from pathlib import Path

import numpy as np
import pytest

from ssmlens.plot.report_page import report
from ssmlens.store import CaptureHeader, CaptureWriter, open_capture
from ssmlens.store.schema import SCHEMA_VERSION

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def memory(make_capture):
    capture = make_capture(kinds=("recency", "copying"), lengths=(13, 13))
    rng = np.random.default_rng(0)
    for layer in capture.fakes.values():
        layer.arrays |= {
            "delta": rng.uniform(0, 1, (2, 13, 6)),
            "A": -rng.uniform(0, 1, (6, 8)),
            "B": rng.normal(size=(2, 13, 1, 8)),
            "C": rng.normal(size=(2, 13, 1, 8)),
        }
    return capture


def stored(memory, out):
    """Write the capture in memory to a file, and open it."""
    header = CaptureHeader(
        tokens=np.array([[ord(t) for t in tokens] for tokens in memory.tokens]),
        length=memory.length,
        layers=memory.layers,
        attributes=memory.attributes,
        target=memory.target,
        token_strings=memory.tokens,
        prompt_texts=memory.prompt_texts,
        prompt_kinds=memory.prompt_kinds,
    )
    writer = CaptureWriter(out, header, layers=memory.layers)
    for layer in memory.fakes.values():
        arrays = {name: np.asarray(layer.read(name)) for name in layer.arrays}
        floats = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}
        layer.arrays |= floats
        writer.write(layer.index, 0, floats, {"finite": layer.state, **layer.attributes})
    writer.finish()
    return open_capture(out)


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_a_file_makes_the_page_of_its_arrays(memory, tmp_path, out):
    with stored(memory, tmp_path / out) as capture:
        page = report(capture).html
        memory.digest = capture.digest
        memory.schema_version = capture.schema_version
    assert str(tmp_path) not in page
    assert page == report(memory).html


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION])
def test_the_schema_is_the_files_own(memory, tmp_path, version):
    made = FIXTURES / "captures" / "version-1.h5"
    with open_capture(made) if version == 1 else stored(memory, tmp_path / "run.h5") as capture:
        facts = dict(re.findall(r"<dt.*?>(.*?)</dt>\s*<dd.*?>(.*?)</dd>", report(capture).html))
    assert facts["Schema"] == str(version)


def test_a_file_without_texts_or_token_strings_has_a_page(memory, tmp_path):
    header = CaptureHeader(
        tokens=np.array([[7, 8, 9]]), length=np.array([3]), layers=[0], attributes={}
    )
    writer = CaptureWriter(tmp_path / "run.h5", header, layers=[0])
    rng = np.random.default_rng(0)
    arrays = {
        "delta": np.ones((1, 3, 2)),
        "A": -np.ones((2, 4)),
        "B": rng.normal(size=(1, 3, 1, 4)),
        "C": rng.normal(size=(1, 3, 1, 4)),
        "attention_map": np.tril(rng.normal(size=(1, 3, 3))),
        "attention_mask": np.tril(np.ones((1, 3, 3))),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    writer.write(0, 0, arrays, {"finite": "yes"})
    writer.finish()
    with open_capture(tmp_path / "run.h5") as capture:
        page = report(capture).html
    assert "unnamed model" in page
    assert "(token ids)" in page
    assert '"0 7","1 8","2 9"' in page
    assert re.search("no closure_error", page)
