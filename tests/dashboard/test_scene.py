import pytest
from ssmlens_dashboard.address import Address
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.scene import resolve

from ssmlens.plot.selection import Region as Zoom


@pytest.fixture(scope="module")
def library(tmp_path_factory, write_capture):
    path = tmp_path_factory.mktemp("scene") / "run.h5"
    return Library([write_capture(path, layers=(1, 4), tokens=12, heads=6)])


def test_what_an_address_does_not_say_becomes_the_first_there_is(library):
    scene = resolve(Address(), library)
    assert (scene.address.layer, scene.address.prompt, scene.notes) == (1, 0, ())
    assert scene.address.capture == library.entries("capture")[0].id
    assert scene.layer.index == 1
    assert scene.channels == 6
    assert len(scene.tokens) == 12


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({"capture": "0123456789"}, {}),
        ({"layer": 0}, {"layer": 1}),
        ({"prompt": 1}, {"prompt": 0}),
        ({"view": "channel", "channel": 6}, {"channel": 0}),
        ({"view": "softmax"}, {"view": "map"}),
        ({"query": 12}, {"query": None}),
        ({"zoom": Zoom((12, 14), (0, 3))}, {"zoom": None}),
    ],
)
def test_what_is_not_there_becomes_what_is_with_a_note(library, asked, shown):
    scene = resolve(Address(**asked), library, ("said before",))
    assert len(scene.notes) == 2
    for field, value in shown.items():
        assert getattr(scene.address, field) == value


def test_a_zoom_is_cut_to_the_prompt(library):
    scene = resolve(Address(zoom=Zoom((3, 99), (0, 99))), library)
    assert scene.address.zoom == Zoom((3, 12), (0, 12))
    assert scene.notes == ()
