import shutil

import numpy as np
import plotly.graph_objects as go
import pytest
from ssmlens_dashboard.address import parse
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import compare as page
from ssmlens_dashboard.scene import resolve
from ssmlens_dashboard.views import compare
from ssmlens_dashboard.views.cache import CACHE

from ssmlens.plot import matrix
from ssmlens.plot.selection import Region as Zoom
from ssmlens.store import open_capture


@pytest.fixture(scope="module")
def folder(copies, tmp_path_factory, write_capture):
    """The model that copies and the one that never learned to, and a longer prompt; all of one name but for a word."""
    there = tmp_path_factory.mktemp("pairs")
    shutil.copy(copies("copy-mamba1-default", 17), there / "copy-default.h5")
    shutil.copy(copies("copy-mamba1-mimetic", 17), there / "copy-mimetic.h5")
    write_capture(there / "long.h5", layers=2, tokens=51)
    return there


@pytest.fixture(scope="module")
def ids(folder):
    return {
        entry.name.removesuffix(".h5"): entry.id for entry in Library([folder]).entries("capture")
    }


@pytest.fixture
def at(folder, ids):
    def scene(search="", capture="copy-default"):
        address, notes = parse("compare", f"capture={ids[capture]}&{search}", ("compare",))
        assert notes == ()
        return resolve(address, Library([folder]))

    return scene


@pytest.fixture(scope="module")
def stored(folder):
    """The maps of layer 3, prompt 0, of both models, as they are in the files."""
    maps = []
    for name in ("copy-default", "copy-mimetic"):
        with open_capture(folder / f"{name}.h5") as capture:
            maps.append(capture.layer(3).read("attention_map", 0).astype(np.float64))
    return maps


def test_the_difference_is_a_minus_b_over_the_tokens_of_both(at, ids, stored):
    one, other = compare.sides(at(f"layer=3&against={ids['copy-mimetic']}.3.0"))
    zoom = Zoom((3, 20), (1, 9))
    cells = compare.difference_tile(one.drawn, other.drawn, zoom).cells
    expected = (stored[0] - stored[1])[3:20, 1:9]
    causal = np.arange(3, 20)[:, None] >= np.arange(1, 9)
    assert np.allclose(cells[causal], expected[causal], rtol=1e-5, atol=1e-6)
    assert np.isnan(cells[~causal]).all()


def test_a_file_that_goes_while_a_view_is_drawn_stays_open_for_it(tmp_path, folder, monkeypatch):
    for word in ("default", "mimetic"):
        shutil.copy(folder / f"copy-{word}.h5", tmp_path)
    library = Library([tmp_path])
    one, other = library.entries("capture")
    scene = resolve(
        parse("compare", f"capture={one.id}&layer=3&against={other.id}.3.0", ("compare",))[0],
        library,
    )
    expected = str(page.scores(scene))

    def sides(scene):
        opened = compare.sides(scene)
        (tmp_path / "copy-mimetic.h5").unlink()
        return opened

    monkeypatch.setattr(page, "open_places", sides)
    assert str(page.scores(scene)) == expected
    assert "copy-mimetic" in expected
    monkeypatch.undo()
    (_, gone) = page.open_places(resolve(scene.address, library))
    assert (gone.scene, gone.name) == (None, "?")
    assert "no longer" in gone.notes[0]


def test_the_difference_of_unequal_lengths_says_so(at, ids):
    scene = at(f"layer=3&against={ids['long']}.1.0")
    one, other = compare.sides(scene)
    assert compare.difference_tile(one.drawn, other.drawn, None).keys == (0, one.drawn.length)
    assert other.drawn.length == 51
    titles = [
        note.text
        for note in go.Figure(page.maps_figure(scene, page.open_places(scene))).layout.annotations
    ]
    assert titles[-1] == f"<b>A − B, the {one.drawn.length} tokens of both</b>"


def test_numbers_that_set_them_apart(at, ids, stored):
    one, other = compare.sides(at(f"layer=3&against={ids['copy-mimetic']}.3.0"))
    relative, correlation = compare.apart(one.drawn, other.drawn)
    a, b = stored
    below = np.tril_indices(len(a))
    assert relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-6)
    assert correlation == pytest.approx(np.corrcoef(a[below], b[below])[0, 1], rel=1e-4)
    assert compare.apart(one.drawn, one.drawn) == pytest.approx((0, 1))


def test_shared_limits_are_the_larger_of_both_and_own_ones_are_not(at, ids):
    search = f"layer=3&against={ids['copy-mimetic']}.3.0"
    both = [side.drawn for side in compare.sides(at(search))]
    alone = [compare.shared_limit([what], "linear") for what in both]
    assert compare.shared_limit(both, "linear") == max(alone) > 50 * min(alone)
    assert compare.shared_limit(both, "rank") is None
    ticks = [
        [
            list(trace.marker.colorbar.ticktext)
            for trace in go.Figure(page.maps_figure(scene, page.open_places(scene))).data
        ]
        for scene in (at(search), at(f"{search}&limits=own"))
    ]
    assert ticks[0][0] == ticks[0][1] == ticks[0][2]
    assert ticks[1][0] != ticks[1][1]


@pytest.mark.parametrize("view", ["map", "mask", "channel&channel=5"])
@pytest.mark.parametrize("scale", ["linear", "symlog", "rank"])
def test_every_view_and_scale_draws_two_maps_and_their_difference(at, ids, view, scale):
    scene = at(f"layer=3&view={view}&scale={scale}&zoom=4-30,0-9&against={ids['copy-mimetic']}.3.0")
    figure, style, title = page.drawn(scene)
    assert title.lower().startswith(view.split("&")[0])
    figure = go.Figure(figure)
    assert len(figure.layout.images) == 3
    assert figure.layout.xaxis3.matches == "x"
    assert tuple(figure.layout.xaxis.range) == (-0.5, 8.5)
    width, height = map(int, style["aspectRatio"].split(" / "))
    (left, right), (low, high) = figure.layout.xaxis.domain, figure.layout.yaxis.domain
    across = (width - figure.layout.margin.l - figure.layout.margin.r) * (right - left)
    assert across == pytest.approx(height * (high - low), abs=1), "square at that width"
    assert style["minHeight"] == height > 300
    assert figure.layout.height is None, "as the page has room"
    assert len(figure.to_json()) < 1_000_000
    facts = page.for_pointer(scene, page.open_places(scene))
    assert facts["first"] == 0
    assert len(facts["texts"][0]) == 30


def test_four_places_and_what_cannot_be_shown(at, ids):
    gone = "0123456789.1.0"
    scene = at(f"layer=3&against={ids['copy-mimetic']}.99.0~{gone}~{ids['long']}.1.7")
    opened = page.open_places(scene)
    assert [side.letter for side in opened] == list("ABCD")
    assert opened[1].notes == ("layer 99 was not captured; layer 0 is shown",)
    assert opened[2].scene is None
    assert "does not exist" in opened[2].notes[0]
    assert "prompt 7" in opened[3].notes[0]
    figure = go.Figure(page.maps_figure(scene, opened))
    texts = [note.text for note in figure.layout.annotations]
    assert "cannot be shown" in texts
    assert len(figure.layout.images) == 5, "three maps, two differences"
    assert [side["letter"] for side in page.for_pointer(scene, opened)["sides"]] == ["A", "B", "D"]


def test_no_more_than_four_places(at, ids):
    places = "~".join(f"{ids['long']}.{n % 2}.0" for n in range(9))
    assert len(page.open_places(at(f"against={places}"))) == 4


def test_a_mask_is_not_set_against_a_map(folder, at, ids):
    one, other = compare.sides(at(f"layer=3&view=mask&against={ids['copy-mimetic']}.3.0"))
    map_of = page.open_places(at("layer=3&view=map"))[0].drawn
    with pytest.raises(compare.UsageError, match="one is a mask, the other a map"):
        compare.difference_tile(one.drawn, map_of, None)
    assert compare.shared_limit([one.drawn, other.drawn], "linear") is None


def test_presets_find_the_partner_the_other_prompt_and_the_next_layer(at, ids):
    found = dict(page.presets(at("layer=3", "copy-mimetic")))
    assert list(found) == ["default and mimetic", "prompt 0 and prompt 1", "layer 3 and layer 0"]
    pair = found["default and mimetic"]
    assert pair.capture == ids["copy-default"]
    assert str(pair.against[0]) == f"{ids['copy-mimetic']}.3.0"
    assert str(found["prompt 0 and prompt 1"].against[0]) == f"{ids['copy-mimetic']}.3.1"


def test_steps_of_one_training_are_partners(write_capture, tmp_path):
    for step in (200, 1000, 50):
        write_capture(tmp_path / f"copy-step-{step}.h5", layers=1, tokens=9)
    library = Library([tmp_path])
    ids = {entry.name: entry.id for entry in library.entries("capture")}
    address, _ = parse("compare", "", ("compare",))
    scene = resolve(address, library)
    ((told, preset),) = page.presets(scene)
    assert told == "step 50 and step 1000"
    assert (preset.capture, preset.against[0].capture) == (
        ids["copy-step-50.h5"],
        ids["copy-step-1000.h5"],
    )


def test_nothing_to_compare_with_is_compared_with_itself(write_capture, tmp_path, scene_at):
    scene = scene_at(write_capture(tmp_path / "only.h5", layers=1, tokens=9), page="compare")
    one, other = page.open_places(scene)
    assert one.place == other.place


def test_scores_beside_each_other(at, ids):
    scene = at(f"layer=3&against={ids['copy-mimetic']}.3.1")
    table = compare.scores_of(page.open_places(scene))
    assert table["sharpest_lag"][1] == 17
    assert table["copy_score"][1] > table["copy_score"][0]
    assert "induction_score" not in table, "no place has it"
    text = str(page.scores(scene))
    assert "correlation with A" in text
    letters = np.mean(1 / np.arange(18, 35))  # query 17, the separator, sees 18 tokens
    assert f"title='by chance {letters:.3f}'" in text


def test_the_download_holds_every_map_and_difference(at, ids, stored):
    data = page.PAGE.data(at(f"layer=3&zoom=2-12,0-5&against={ids['copy-mimetic']}.3.0"))
    assert set(data.data_vars) == {"A", "B", "A_minus_B"}
    assert np.allclose(data["A_minus_B"], (stored[0] - stored[1])[2:12, 0:5], rtol=1e-5, atol=1e-6)
    assert data.attrs["B"] == "copy-mamba1-mimetic, layer 3, prompt 0"
    longer = page.PAGE.data(at(f"layer=3&against={ids['long']}.1.0"))
    assert longer.sizes == {"query": 51, "key": 51}
    assert np.isnan(longer["A"].values[50, 0])
    assert np.isfinite(longer["B"].values[50, 0])


@pytest.mark.parametrize(
    "damage", [b"", b"not HDF5 at all", None], ids=["empty", "foreign", "cut short"]
)
def test_a_place_that_is_damaged_is_told_beside_it(write_capture, tmp_path, scene_at, damage):
    good = write_capture(tmp_path / "good.h5", layers=2, tokens=9)
    bad = write_capture(tmp_path / "bad.h5", layers=2, tokens=9)
    ids = {entry.name: entry.id for entry in Library([tmp_path]).entries("capture")}
    bad.write_bytes(good.read_bytes()[:3000] if damage is None else damage)
    scene = scene_at(tmp_path, f"capture={ids['good.h5']}&against={ids['bad.h5']}.0.0", "compare")
    one, other = page.open_places(scene)
    assert one.scene is not None
    assert other.scene is None
    assert "bad.h5" in other.notes[0]
    assert str(tmp_path) not in other.notes[0]
    figure, *_ = page.drawn(scene)
    assert len(figure["layout"]["images"]) == 1
    page.scores(scene)
    assert bad.name in str(page.choosable(scene))


@pytest.mark.parametrize("scale", ["linear", "symlog", "rank"])
def test_maps_that_are_not_finite_draw_nothing_and_fail_nothing(at, ids, monkeypatch, scale):
    whole = matrix._matrix
    monkeypatch.setattr(matrix, "_matrix", lambda what: whole(what) * np.nan)
    CACHE.clear()  # limits of the same maps, finite, from other tests
    scene = at(f"layer=2&scale={scale}&against={ids['copy-mimetic']}.2.0")
    figure, *_ = page.drawn(scene)
    assert len(figure["layout"]["images"]) == 3
    assert "correlation with A" in str(page.scores(scene))
    CACHE.clear()


def test_a_map_against_itself_leaves_nothing(at, ids):
    one, other = compare.sides(at(f"layer=3&against={ids['copy-default']}.3.0"))
    cells = compare.difference_tile(one.drawn, other.drawn, None).cells
    assert np.nanmax(np.abs(cells)) == 0


def test_rows_of_places_are_filled_as_far_as_there_are_places(at, ids):
    scene = at(f"layer=3&view=channel&against={ids['copy-mimetic']}.2.1~0123456789.1.0")
    (view,) = (view for view in page.PAGE.views if view.draw is page.choosable)
    values = page.choosable(scene)
    assert len(values) == len(view.outputs)
    told = {
        (str(output.component_id), output.component_property): value
        for output, value in zip(view.outputs, values, strict=True)
    }

    def select(at, part, name):
        return told[str({"type": "compare-place", "at": at, "part": part}), name]

    assert [told[f"compare-place-{n}", "hidden"] for n in (1, 2, 3)] == [False, False, True]
    sides = told["compare-sides", "data"]
    assert sides["places"][1:] == sides["against"].split("~"), "where they are there"
    assert [option["value"] for option in select(1, "layer", "data")] == ["0", "1", "2", "3"]
    assert {option["value"] for option in select(2, "capture", "data")} == set(ids.values())
    assert select(2, "layer", "data") == [], "it is not here"
    assert "does not exist" in told["compare-notes-2", "children"]
    assert (told["compare-remove-1", "hidden"], told["compare-add", "hidden"]) == (False, False)
    assert told["compare-channel", "hidden"] is False
