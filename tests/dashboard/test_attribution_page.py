"""The Attribution page: its figure against the DataArray that `attribute` returned, and what it says."""

import numpy as np
import pytest
from ssmlens_dashboard.address import parse
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import attribution as page
from ssmlens_dashboard.scene import Scene

import ssmlens
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.store.attribution_file import attribution_json

MODEL, PROMPT = "copy-mamba2-mimetic", "abcdefgh|abc"


@pytest.fixture(scope="module")
def found():
    return ssmlens.attribute(ssmlens.load_model(MODEL), PROMPT)


@pytest.fixture
def folder(tmp_path, found):
    (tmp_path / "one.json").write_bytes(attribution_json(found, MODEL, PROMPT))
    return tmp_path


def at(folder, search=""):
    address, notes = parse("attribution", search, ("attribution",))
    assert notes == ()
    return Scene(address, Library([folder]))


def answered(scene):
    (view,) = page.PAGE.views
    names = [f"{output.component_id}.{output.component_property}" for output in view.outputs]
    return dict(zip(names, view.draw(scene), strict=True))


def test_the_figure_is_the_data_array(folder, found):
    answer = answered(at(folder))
    figure = answer["attribution-terms.figure"]
    over_text, whole = (trace for trace in figure.data if trace.type == "bar")
    np.testing.assert_allclose(np.asarray(whole.x, float), found["value"], rtol=1e-6)
    position = found.attrs["position"]
    unsplit = ~np.isin(found["term"], found["mixer"]) & (found["kind"].values != "bias")
    wanted = found["by_source"].values.sum(0)
    wanted[position] += found["value"].values[unsplit].sum()
    np.testing.assert_allclose(np.asarray(over_text.y, float), wanted, rtol=1e-5, atol=1e-6)
    assert int(np.argmax(wanted)) == 3  # the letter that is copied
    assert answer["attribution-terms-title.children"].startswith("Logit of 'd' after token 11: ")
    line = answer["attribution-status.children"]
    assert line.startswith(f"{MODEL} on '{PROMPT}': {found.sizes['term']} terms sum to ")
    assert f"off by {found.attrs['closure']:.1e} of the largest logit" in line
    assert (answer["attribution-none.hidden"], answer["attribution-all.hidden"]) == (True, False)


def test_one_of_several_is_chosen(folder, found):
    other = found.assign_attrs(logit=1.0)
    (folder / "two.json").write_bytes(attribution_json(other, "other", "x"))
    one, two = Library([folder]).entries("attribution")
    assert (one.name, two.name) == ("one.json", "two.json")
    assert answered(at(folder))["attribution-status.children"].startswith(MODEL)
    scene = at(folder, f"?attribution={two.id}&scale=symlog&theme=dark")
    answer = answered(scene)
    assert answer["attribution-status.children"].startswith("other on 'x'")
    chosen, scale = answer["attribution-toolbar.children"]
    assert chosen.value == two.id
    assert [option["label"] for option in chosen.data] == ["one.json", "two.json"]
    assert scale.value == "symlog"
    assert page.terms(scene).attrs["model"] == "other"
    line = answered(at(folder, "?attribution=0123456789"))["attribution-status.children"]
    assert line.startswith(MODEL)
    assert line.endswith("the attribution in this address was not found; the first one is shown")


def test_where_there_is_none_it_says_how_to_make_one(tmp_path):
    answer = answered(at(tmp_path))
    assert (answer["attribution-none.hidden"], answer["attribution-all.hidden"]) == (False, True)
    with pytest.raises(UsageError, match="ssmlens attribute --out"):
        page.terms(at(tmp_path))


def test_a_damaged_file_is_named_without_its_folder(folder):
    (folder / "one.json").write_text('{"format": "ssmlens attribution", "version": 1}')
    with pytest.raises(SsmlensError, match=r"^one\.json is not a readable attribution") as told:
        answered(at(folder))
    assert str(folder) not in str(told.value)


def test_text_from_the_file_is_only_text(tmp_path, found):
    hostile = "<img src=x onerror=alert(1)>\u202e"
    data = found.assign_attrs(token_text=hostile)
    data = data.assign_coords(token_string=("source", [hostile] * found.sizes["source"]))
    (tmp_path / "one.json").write_bytes(attribution_json(data, hostile, hostile))
    answer = answered(at(tmp_path))
    figure = answer["attribution-terms.figure"]
    assert all("<img" not in text for text in figure.layout.xaxis2.ticktext)
    assert "\u202e" not in answer["attribution-status.children"]


def test_captures_and_attributions_are_listed_apart(folder, write_capture):
    write_capture(folder / "run.h5", layers=1, tokens=5)
    library = Library([folder])
    assert [entry.name for entry in library.entries("capture")] == ["run.h5"]
    assert [entry.name for entry in library.entries("attribution")] == ["one.json"]
    assert library.entries("run") == []
    (alone,) = Library([folder / "one.json"]).entries("attribution")
    assert alone.id == library.entries("attribution")[0].id


def test_the_numbers_can_be_downloaded(folder, found, client_of):
    client = client_of(folder)
    table = client.get("/data/attribution.csv").get_data(as_text=True)
    assert {"term", "value", "by_source"} <= set(table.splitlines()[0].split(","))
    assert client.get("/attribution").status_code == 200
