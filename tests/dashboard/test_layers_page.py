import math

import numpy as np
import pytest
from ssmlens_dashboard.pages import layers as page
from ssmlens_dashboard.views.scores import scores

from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE


@pytest.fixture
def scene(copying, scene_at):
    return scene_at(copying, "", "layers")


def test_scores_come_layer_by_layer_and_are_those_of_the_whole(copying):
    import ssmlens
    from ssmlens.scores import compute

    with ssmlens.open_capture(copying) as capture:
        first = scores(capture, 0.0)
        assert 1 <= first.sizes["layer"] <= 4
        found, expected = scores(capture, math.inf), compute(capture)
    assert found["layer"].values.tolist() == [0, 1, 2, 3]
    for name in expected.data_vars:
        assert found[name].dims == expected[name].dims
        if found[name].dtype.kind == "f":
            assert np.allclose(found[name], expected[name], equal_nan=True)


def test_the_copying_layer_comes_first_with_the_reason_of_the_order(scene):
    scores(scene.capture, math.inf)
    figure, columns, rows, notes, progress, unscored, style = page.ranked(scene)
    assert rows[0]["layer"] == 3
    assert rows[0]["sharpest_lag"] == 17
    assert notes.startswith("ordered by copy_score")
    assert (progress, unscored) == ("", 0)
    fields = [column["field"] for column in columns]
    seen = ["rank", "layer", "kind", "closure", "closure_error", "map_closure"]
    assert fields[:6] == seen, "without scrolling"
    assert set(fields) == set(rows[0]) - {"id", "reason", "passed"}, "no layer needs a reason"
    assert 4 * 28 < style["height"] < 6 * 28, "four rows of 28 pixels and what is around them"
    assert "copy_score" in figure.data[0].y
    letters = np.mean(1 / np.arange(18, 35))  # query 17, the separator, sees 18 tokens
    tooltips = {column["field"]: column.get("headerTooltip", "") for column in columns}
    assert tooltips["copy_score"].endswith(f"; by chance: {letters:.3f}")
    assert "by chance: none" in tooltips["mask_ones"]
    row = list(figure.data[0].y).index("copy_score")
    assert f"{letters:.3f} by chance" in figure.data[0].customdata[row][0]


def test_another_score_orders_when_the_address_says_so(copying, scene_at):
    scene = scene_at(copying, "by=diagonal_sharpness", "layers")
    scores(scene.capture, math.inf)
    assert page.ranked(scene)[3].startswith("ordered by diagonal_sharpness")
    scene = scene_at(copying, "by=no_such_score", "layers")
    assert "no_such_score" in page.ranked(scene)[3]


def test_effects_are_columns_and_rows_where_the_capture_has_them(cli, scene_at, tmp_path):
    out = tmp_path / "run.h5"
    task = ["--task", "copy", "--length", 17, "--count", 2]
    said = cli("capture", "--model", "copy-mamba2-default", *task, "--effects", "--out", out)
    assert said.code == 0, said.err
    scene = scene_at(out, "by=cross_talk_effect", "layers")
    scores(scene.capture, math.inf)
    figure, columns, rows, notes, *_ = page.ranked(scene)
    assert rows[0]["layer"] == 1
    assert rows[0]["cross_talk_effect"] < -5
    assert "scores and effects disagree" in notes
    (column,) = [column for column in columns if column["field"] == "cross_talk_effect"]
    assert "when M is reduced to its diagonal" in column["headerTooltip"]
    colours = figure.data[0].z[list(figure.data[0].y).index("cross_talk_effect")]
    assert np.argmax(colours) == 1, "the strongest colour is the layer that matters most"


def texts(component):
    """All text in a component."""
    if isinstance(component, str):
        return [component]
    if isinstance(component, list | tuple):
        return [text for part in component for text in texts(part)]
    return texts(component.children) if getattr(component, "children", None) is not None else []


def links(component):
    """Text and address of all links in a component."""
    if isinstance(component, list | tuple):
        return [link for part in component for link in links(part)]
    if getattr(component, "href", None) is not None:
        return [(component.children, component.href)]
    return links(component.children) if getattr(component, "children", None) is not None else []


def test_the_ranking_says_what_is_known_of_transplants(scene):
    layout = page.layout(scene)
    assert TRANSPLANT_EVIDENCE in texts(layout)
    assert ("Runs", scene.address.replace(page="runs").href) in links(layout)


def test_a_layer_that_does_not_close_is_told_in_red_with_the_reason(
    tmp_path, write_capture, scene_at
):
    path = write_capture(tmp_path / "bad.h5", layers=2, tokens=9, closure=[1e-6, 0.5])
    scene = scene_at(path, "", "layers")
    assert page.verdict(scene.capture.layer(0)) == "closes (≤ 1e-04)"
    assert "closure_error" in page.verdict(scene.capture.layer(1))
    assert "✗ does not close: layer 1" in texts(page.layout(scene))


def test_map_closure_is_a_column_and_marks_its_layer(tmp_path, write_capture, scene_at):
    path = write_capture(tmp_path / "map.h5", layers=2, tokens=9, map_closure=[2e-6, 3e-2])
    scene = scene_at(path, "", "layers")
    scores(scene.capture, math.inf)
    rows = sorted(page.ranked(scene)[2], key=lambda row: row["layer"])
    assert [row["map_closure"] for row in rows] == pytest.approx([2e-6, 3e-2])
    assert [row["passed"] for row in rows] == [True, False]
    assert rows[1]["closure"] == "map_closure 3.0e-02 > 1e-04"
    assert rows[1]["reason"] == "does not close: map_closure 3.0e-02 > 1e-04"
    assert [block["bad"] for block in page.blocks(scene)] == [False, True]
    assert "✗ does not close: layer 1" in texts(page.layout(scene))
    path = write_capture(tmp_path / "good.h5", layers=2, tokens=9, map_closure=[2e-6, 3e-6])
    (line,) = [t for t in texts(page.layout(scene_at(path, "", "layers"))) if t.startswith("✓")]
    assert line.endswith("(closure_error 1e-06, map_closure 3e-06)")


def test_weights_that_are_not_finite_are_told(tmp_path, write_capture, scene_at):
    path = write_capture(tmp_path / "nan.h5", layers=2, tokens=9, broken=[1])
    scene = scene_at(path, "", "layers")
    assert page.verdict(scene.capture.layer(1)) == "weights not finite: W_B has NaN"
    scores(scene.capture, math.inf)
    _, columns, rows, *_ = page.ranked(scene)
    assert rows[-1]["layer"] == 1
    assert rows[-1]["rank"] is None
    assert rows[-1]["reason"]
    assert [column["field"] for column in columns][3:5] == ["closure", "reason"]


def test_blocks_that_were_not_captured_are_listed_by_kind(tmp_path, write_capture, scene_at):
    kinds = ["mamba", "mlp", "mamba", "attention", "moe"]
    path = write_capture(tmp_path / "hybrid.h5", layers=(0, 2), tokens=9, block_kinds=kinds)
    shown = page.blocks(scene_at(path, "", "layers"))
    assert [(it["index"], it["kind"]) for it in shown] == list(enumerate(kinds))
    assert [list(it.get("views", ())) for it in shown] == [
        ["map", "mask"],
        [],
        ["map", "mask"],
        [],
        [],
    ]
