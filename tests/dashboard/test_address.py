import pytest
from ssmlens_dashboard.address import LONGEST, Address, Place, defaults, parse, substitutes

from ssmlens.plot.selection import Region as Zoom

PAGES = ("layers", "maps")


def test_an_address_survives_the_way_through_a_url():
    address = Address(
        page="maps",
        capture="0123456789",
        layer=3,
        prompt=2,
        view="channel",
        channel=7,
        scale="rank",
        zoom=Zoom((3, 9), (0, 12)),
        query=5,
        by="copy_score",
        against=(Place("abcdef0123", 1, 0), Place("0123456789", 4, 1)),
        runs=("0123456789", "abcdef0123"),
        theme="dark",
    )
    path, search = address.href.split("?")
    assert parse(path, search, PAGES) == (address, ())
    assert parse(path, "?" + search, PAGES) == (address, ())


def test_only_what_is_not_the_default_is_in_the_url():
    assert Address().href == "/layers"
    assert Address(page="maps", layer=0).href == "/maps?layer=0"
    assert defaults()["scale"] == "linear"
    assert defaults()["layer"] is None


@pytest.mark.parametrize(
    "search",
    [
        *(
            "layer=-1",
            "layer=3.5",
            "layer=٣",
            "layer=1e3",
            "layer=0x3",
            "layer=",
            "layer= 3",
            "layer=9999999999",
        ),
        *("capture=../../etc", "capture=0123", "capture=0123456789a", "capture=0123456789%00"),
        *("view=secret", "scale=LINEAR", "theme=blue", "prompt=one"),
        *("zoom=3", "zoom=5-5,0-1", "zoom=9-3,0-4", "zoom=0-4", "zoom=a-b,c-d", "zoom=0-4,0-4,0-4"),
        *(
            "query=nan",
            "by=<b>",
            "by=" + "a" * 41,
            "against=x.1.2",
            "against=0123456789.1",
            "runs=~",
        ),
    ],
)
def test_what_is_not_understood_falls_back_with_a_note(search):
    address, notes = parse("/maps", search, PAGES)
    name = search.split("=")[0]
    if search == "layer=":  # an empty value is no value
        assert notes == ()
    else:
        (note,) = notes
        assert note.startswith(f"the address's {name}")
        assert search.split("=")[1] not in note or not search.split("=")[1].strip()
    assert address == Address(page="maps")


def test_unknown_pages_and_parameters_and_too_long_addresses():
    address, notes = parse("/../etc/passwd", "?nonsense=1", PAGES)
    assert address == Address()
    assert len(notes) == 1
    assert "etc" not in notes[0]
    address, notes = parse("/maps", "layer=3&" + "x" * LONGEST, PAGES)
    assert address.layer is None
    assert "longer" in notes[0]


def test_an_address_without_anything():
    assert parse(None, None, PAGES) == (Address(), ())
    assert parse("", "", PAGES) == (Address(), ())


def test_what_is_shown_instead_of_what_a_url_says():
    shown = Address(page="maps", layer=0, prompt=1, channel=3)
    search = "?layer=99&prompt=1&channel=003&view=nothing&query=5&nonsense=1"
    assert substitutes(search, shown) == {
        "layer": {"99": "0"},
        "channel": {"003": "3"},
        "view": {"nothing": "map"},
    }
    assert substitutes("layer=99&x=" + "x" * LONGEST, shown) == {}
    assert substitutes(None, shown) == {}
