"""A logit's terms as a JSON file: what comes back, and what is refused in one line."""

import json
import os

import numpy as np
import pytest
import xarray as xr

from ssmlens.errors import SsmlensError
from ssmlens.store.attribution_file import attribution_json, is_attribution, open_attribution


def terms(strings=("<b>", "é", "=1")):
    rows = np.array([[1.5, -2.0, 0.25], [0.0, 1e-9, 3.0]])
    data = xr.Dataset(
        {
            "value": ("term", [0.5, *rows.sum(1), -2.0]),
            "by_source": (("mixer", "source"), rows),
            "by_head": (("mixer", "head"), np.array([[1.0, np.nan], [2.0, 3.0]])),
        },
        coords={
            "term": ["embedding", "0 mamba", "1 attention", "head bias"],
            "mixer": ["0 mamba", "1 attention"],
            "kind": ("term", ["embedding", "mamba", "attention", "bias"]),
            "layer": ("term", [-1, 0, 1, -1]),
            "module": ("term", ["embed", "layers.0.mixer", "layers.1.attn", "lm_head"]),
        },
        attrs={
            **{"position": 2, "token": 7, "against": -1, "token_text": "</script>"},
            **{"logit": 1.25, "sum": 1.25, "largest_logit": 4.0, "closure": 1e-7, "soft_cap": 0.0},
        },
    )
    return data if strings is None else data.assign_coords(token_string=("source", [*strings]))


def written(path, data, **changes):
    held = json.loads(attribution_json(data, "tiny", "a b c")) | changes
    path.write_text(json.dumps(held))
    return path


@pytest.mark.parametrize("strings", [None, ("<b>", "é", "=1")])
def test_terms_come_back(tmp_path, strings):
    data = terms(strings)
    path = tmp_path / "a.json"
    path.write_bytes(attribution_json(data, "tiny", "a b c"))
    assert is_attribution(path)
    wanted = data.drop_vars("by_head").assign_attrs(model="tiny", prompt="a b c")
    xr.testing.assert_identical(open_attribution(path), wanted)


def test_terms_that_are_not_split(tmp_path):
    data = terms(None).drop_vars(["by_source", "by_head"]).drop_dims("mixer", errors="ignore")
    found = open_attribution(written(tmp_path / "a.json", data))
    assert "by_source" not in found
    np.testing.assert_array_equal(found["value"], data["value"])


def test_other_files_are_none(tmp_path):
    for name, text in (
        ("a.json", '{"model": 1}'),
        ("b.json", ""),
        ("c.txt", '{"format": "ssmlens attribution"}'),
    ):
        (tmp_path / name).write_text(text)
        assert not is_attribution(tmp_path / name)
    (tmp_path / "d.json").mkdir()
    os.mkfifo(tmp_path / "e.json")
    assert not any(is_attribution(tmp_path / f"{name}.json") for name in "de")
    assert not is_attribution(tmp_path / "nothing.json")


def changed(number, **values):
    held = json.loads(attribution_json(terms(), "tiny", "a b c"))["terms"]
    held[number] |= values
    return held


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2}, "version 1"),
        ({"format": "other"}, "'ssmlens attribution'"),
        ({"terms": []}, "it has no terms"),
        ({"terms": [3]}, "it has no terms"),
        ({"terms": changed(1, term="embedding")}, "two terms have the same name"),
        ({"terms": changed(1, value="3")}, "value is not a number"),
        ({"terms": changed(1, value=True)}, "value is not a number"),
        ({"terms": changed(1, layer=0.5)}, "layer is not a whole number"),
        ({"terms": changed(1, by_source=[1, 2])}, "the sources of '1 attention' are not 2 numbers"),
        ({"terms": changed(2, by_source=[1, 2, "3"])}, "'1 attention' are not 3 numbers"),
        ({"terms": changed(2, by_source=7)}, "by_source is not a list"),
        ({"tokens": ["a", "b"]}, "its tokens are not 3 strings"),
        ({"tokens": ["a", "b", 3]}, "its tokens are not 3 strings"),
        ({"attributes": None}, "it has no attributes"),
        ({"attributes": {"position": 0}}, "token is not a whole number"),
        ({"attributes": terms().attrs | {"position": 3}}, "its position is not among its 3 tokens"),
        ({"model": 3}, "model is not a text"),
    ],
)
def test_what_is_refused(tmp_path, changes, says):
    path = written(tmp_path / "a.json", terms(), **changes)
    with pytest.raises(SsmlensError, match="not a readable attribution") as told:
        open_attribution(path)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_files_that_are_no_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"format": "ssmlens attribution", "terms": [NaN]}')
    assert is_attribution(path)
    with pytest.raises(SsmlensError, match="NaN is not a finite number"):
        open_attribution(path)
    with pytest.raises(SsmlensError, match="there is no"):
        open_attribution(tmp_path / "nothing.json")
    (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(SsmlensError, match="it is a link"):
        open_attribution(tmp_path / "link.json")
