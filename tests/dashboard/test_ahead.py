import threading

from ssmlens_dashboard.address import parse
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import maps as page
from ssmlens_dashboard.scene import resolve
from ssmlens_dashboard.views import maps
from ssmlens_dashboard.views.ahead import Ahead
from ssmlens_dashboard.views.cache import Cache

from ssmlens.errors import UsageError


def test_things_are_made_in_order_and_one_that_fails_is_no_trouble():
    made, last = [], threading.Event()

    def fails():
        made.append("fails")
        raise UsageError("there is no such thing")

    Ahead(0.0).make(
        [lambda: made.append("first"), fails, lambda: (made.append("last"), last.set())]
    )
    assert last.wait(20)
    assert made == ["first", "fails", "last"]


def test_what_is_named_later_takes_the_place_of_what_is_not_begun():
    ahead, made = Ahead(0.0), []
    begun, go_on, last = threading.Event(), threading.Event(), threading.Event()

    def first():
        begun.set()
        assert go_on.wait(20)
        made.append("first")

    ahead.make([first, lambda: made.append("never")])
    assert begun.wait(20)
    ahead.make([last.set])
    assert last.wait(20)
    go_on.set()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(20)
    assert made == ["first"]


def scene_of(path, search):
    return resolve(parse("/maps", search, ("maps",))[0], Library([path]))


def test_what_is_an_arrow_away_is_drawn_and_kept(tmp_path, write_capture, monkeypatch):
    path = write_capture(tmp_path / "four.h5", layers=[2, 3, 7, 9], tokens=20, seed=41)
    for search, near in (
        ("layer=7", ["layer=7", "layer=9", "layer=3"]),
        ("layer=2&view=mask", ["layer=2&view=mask", "layer=3&view=mask"]),
        ("layer=3&view=channel", ["layer=3&view=channel", "layer=3&view=channel&channel=1"]),
        ("layer=3&view=channel&channel=5", [f"layer=3&view=channel&channel={n}" for n in (5, 4)]),
    ):
        expected = [page.map_figure(scene_of(path, there)) for there in near]
        empty = Cache(16 << 20)
        monkeypatch.setattr(page, "CACHE", empty)
        things = page.PAGE.ahead(scene_of(path, search))
        for make in things:
            make()
        assert len(things) == len(near)
        with monkeypatch.context() as patch:
            patch.setattr(page, "matrix_spec", None)  # nothing is left to draw
            assert [page.map_figure(scene_of(path, there)) for there in near] == expected


def test_a_kept_figure_has_the_query_of_each_address(tmp_path, write_capture):
    path = write_capture(tmp_path / "one.h5", layers=1, tokens=20, seed=47)
    marks = [
        page.map_figure(scene_of(path, search))["layout"].get("shapes")
        for search in ("", "query=3", "query=7", "query=7&zoom=8-12,0-9", "")
    ]
    assert [mark and mark[0]["y0"] for mark in marks] == [None, 3, 7, None, None]


def test_nothing_is_made_ahead_for_a_prompt_whose_matrices_would_crowd_the_cache(
    tmp_path, write_capture, monkeypatch
):
    monkeypatch.setattr(maps, "_AHEAD", 19)
    path = write_capture(tmp_path / "long.h5", layers=3, tokens=20, seed=43)
    assert page.PAGE.ahead(scene_of(path, "layer=1")) == []
