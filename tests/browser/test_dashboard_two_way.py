"""A layer that looks ahead in a real browser: what lies above the diagonal can be pointed at."""

import numpy as np
import pytest
from two_way_models import two_way_capture

from ssmlens.store import open_capture


@pytest.fixture(scope="module")
def path(typeseg, tmp_path_factory):
    return two_way_capture(typeseg, tmp_path_factory.mktemp("two-way") / "run.h5")


def test_a_key_after_its_query_has_its_value_under_the_pointer(visit, point_at, serve, path):
    page = visit(f"{serve(path)}/maps?layer=1&query=3")
    page.wait_for_selector("#maps-map .imagelayer image", state="attached")
    with open_capture(path) as capture:
        wanted = capture.layer(1).whole_map("map")
    query, key = 3, 9
    point_at(page, "maps-map", query, key, wanted.shape)
    page.locator("#hover", has_text="value").wait_for()
    lines = page.locator("#hover").inner_text().splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["query", "3"], ["key", "9"]]
    assert np.isclose(float(lines[2].split()[1].replace("−", "-")), wanted[query, key], rtol=6e-3)
    assert page.locator("#maps-text .later").count() == 0
