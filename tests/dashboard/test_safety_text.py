"""Text from files is text: in components, in figures, in downloads. (tests/browser runs it in a browser.)"""

import runpy
from pathlib import Path

import plotly.graph_objects as go
import pytest
from ssmlens_dashboard.pages import layers, maps, pages
from ssmlens_dashboard.routes import as_csv
from ssmlens_dashboard.shell import surroundings_of

HOSTILE = runpy.run_path(str(Path(__file__).with_name("hostile.py")))["HOSTILE"]
RAW_HTML = {
    "Markdown",
    "DangerouslySetInnerHTML",
    "Script",
    "Iframe",
    "ObjectEl",
    "Embed",
    "Base",
    "Link_",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, write_capture):
    """A capture in which every text is hostile, and layer 1 is broken for a hostile reason."""
    words = [text.replace("\x00", "") for text in HOSTILE]
    return write_capture(
        tmp_path_factory.mktemp("hostile") / "run.h5",
        layers=2,
        tokens=len(words),
        broken=[1],
        token_strings=words,
        model=words[2],
        mixer=words[3],
        reason=words[4],
        prompt_text=words[5],
        prompt_kind=words[6],
    )


def components(component):
    if isinstance(component, list | tuple):
        for part in component:
            yield from components(part)
    elif hasattr(component, "_type"):
        yield component
        yield from components(getattr(component, "children", None))


def test_there_are_thirty_hostile_strings():
    assert len(set(HOSTILE)) >= 30


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_no_component_takes_html_and_no_link_leads_out(hostile, scene_at, page):
    found = list(components(page.layout(scene_at(hostile, "", page.name))))
    assert found
    for component in found:
        assert component._type not in RAW_HTML
        told = component.to_plotly_json()["props"]
        assert not {"dangerously_allow_html", "dangerouslySetInnerHTML", "mathjax"} & set(told)
        for name in ("href", "src"):
            value = told.get(name)
            assert value is None or value == "" or value.startswith(("/", "data:image/"))


def test_labels_of_figures_hold_no_markup(hostile, scene_at):
    figure = go.Figure(maps.map_figure(scene_at(hostile, "layer=0")))
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert any("&lt;" in text for text in axis.ticktext)
        assert not any("<" in text or ">" in text for text in axis.ticktext)
    assert not any(
        "<" in str(text)
        for trace in layers.heatmap(*_scored(scene_at(hostile))).data
        for text in trace.y
    )


def _scored(scene):
    from ssmlens_dashboard.views.scores import scores

    return scores(scene.capture, 1e9), scene


def test_select_options_are_one_line_of_visible_text(hostile, scene_at):
    scene = scene_at(hostile)
    *_, prompts, _ = surroundings_of(scene.address, (), scene.library, "")
    (option,) = prompts
    assert option["label"].isprintable()


def test_a_download_is_no_formula(hostile, scene_at):
    table = as_csv(maps.data(scene_at(hostile, "layer=0")))
    assert ",=HYPERLINK" not in table
    assert '"=HYPERLINK' not in table
    assert "'=HYPERLINK" in table
