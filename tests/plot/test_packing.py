import base64
import json
import struct
import zlib

import numpy as np
import pytest

from ssmlens.plot.packing import lower_triangle, pack, rounded, script_json


def unpack(text):
    """bfloat16 from its definition: the upper half of a float32."""
    planes = zlib.decompress(base64.b64decode(text))
    count = len(planes) // 2
    halves = zip(planes[:count], planes[count:], strict=True)
    return [struct.unpack(">f", bytes([high, low, 0, 0]))[0] for high, low in halves]


def test_values_come_back_within_half_a_unit_of_eight_bits():
    rng = np.random.default_rng(0)
    values = rng.normal(size=999) * 10.0 ** rng.uniform(-30, 30, 999)
    back = np.array(unpack(pack(values.astype(np.float32))))
    assert np.abs(back / values - 1).max() <= 2.0**-8


def test_rounding_is_to_nearest_even():
    one, step = 1.0, 2.0**-7
    values = [one + step / 2, one + 1.5 * step, one + 0.51 * step, -0.0, 0.0]
    assert unpack(pack(np.array(values, np.float32))) == [one, one + 2 * step, one + step, 0.0, 0.0]


@pytest.mark.parametrize("values", [[], [0.25]])
def test_none_and_one(values):
    assert unpack(pack(np.array(values, np.float32))) == values


def test_lower_triangle_is_row_after_row():
    values = np.arange(9.0).reshape(3, 3)
    assert lower_triangle(values).tolist() == [0, 3, 4, 6, 7, 8]


@pytest.mark.parametrize(
    "text",
    ["</script><img src=x onerror=alert(1)>", "<!--<script>", "&amp;", "\u2028\u2029", 'a"\\'],
)
def test_json_cannot_leave_its_script(text):
    written = script_json({text: [text, None, 1.5]})
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written) == {text: [text, None, 1.5]}


def test_nan_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([float("nan")])


def test_rounded_numbers_are_the_ones_that_python_prints():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(500) * 10.0 ** rng.integers(-15, 15, 500)
    assert rounded(values) == [float(f"{value:.4g}") for value in values]


def test_rounded_to_json():
    values = np.array([0, np.nan, -1.23456, np.inf, 1e-40], np.float32)
    assert json.loads(script_json(rounded(values, 3))) == [0, None, -1.23, None, 1e-40]
    assert rounded(np.array([1e300, -1e-300])) == [1e300, -1e-300]
    assert rounded(np.zeros(0)) == []
