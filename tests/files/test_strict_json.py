import json
import math

import numpy as np
import pytest

from ssmlens.files.strict_json import without_nan

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (NAN, None),
        (-INF, None),
        (1.5, 1.5),
        (3, 3),
        (True, True),
        (None, None),
        ("nan", "nan"),
        ({"a": NAN, 2: {"b": (1.0, INF)}}, {"a": None, 2: {"b": [1.0, None]}}),
        ((), []),
        ([{}, [NAN]], [{}, [None]]),
        (np.float32("nan"), None),
        (np.float64(0.25), 0.25),
        (np.int64(7), 7),
        (np.array(NAN), None),
        (np.array([[1, NAN], [INF, 0]], np.float32), [[1.0, None], [None, 0.0]]),
        (np.zeros((0, 3)), []),
        ([np.array([NAN]), np.float16(2)], [[None], 2.0]),
    ],
)
def test_nan_is_none_at_any_depth_and_the_rest_stays(value, plain):
    found = without_nan(value)
    assert found == plain
    assert type(found) is type(plain)
    json.dumps(found, allow_nan=False)


def test_what_is_given_is_not_changed():
    value = {"a": [NAN, 1.0]}
    assert without_nan(value) == {"a": [None, 1.0]}
    assert math.isnan(value["a"][0])
