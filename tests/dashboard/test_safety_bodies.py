"""Callback bodies that Dash's own JavaScript would not send: 400, one line, no trace."""

import copy
import json
import runpy
from pathlib import Path

import pytest

body_of = runpy.run_path(str(Path(__file__).with_name("callback_bodies.py")))["body_of"]
ORIGIN = {"Origin": "http://127.0.0.1:8050", "Content-Type": "application/json"}
ADDRESS = "/_dash-update-component"


@pytest.fixture(scope="module")
def client(copying, client_of):
    return client_of(copying)


@pytest.fixture(scope="module")
def body(client):
    """A sound body: the Maps page asks to be drawn."""
    (wanted,) = (
        c
        for c in client.get("/_dash-dependencies").json
        if c["output"].startswith("..maps-map.figure")
    )
    changed = ['{"page":"maps","type":"here"}.data']
    return {**body_of(wanted, "/maps?layer=3"), "changedPropIds": changed}


def test_a_sound_body_is_answered(client, body):
    answer = client.post(ADDRESS, json=body, headers=ORIGIN)
    assert answer.status_code == 200
    assert "maps-map" in answer.json["response"]


def test_callbacks_that_run_in_the_browser_are_not_for_the_server(client, caplog, capfd):
    of_browser = [c for c in client.get("/_dash-dependencies").json if c["clientside_function"]]
    assert len(of_browser) >= 15
    for wanted in of_browser:
        answer = client.post(ADDRESS, json=body_of(wanted), headers=ORIGIN)
        assert answer.status_code == 400, wanted["output"]
        assert answer.json == {"error": "this callback runs in the browser"}
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def changed(body, **fields):
    return json.dumps({**copy.deepcopy(body), **fields}).encode()


def without(body, field):
    return json.dumps({k: v for k, v in body.items() if k != field}).encode()


def with_input(body, place, **fields):
    inputs = copy.deepcopy(body["inputs"])
    inputs[place] |= fields
    return changed(body, inputs=inputs)


MALFORMED = {
    "nothing": lambda b: b"",
    "not JSON": lambda b: b"{",
    "not UTF-8": lambda b: b"\xff\xfe{}",
    "a list": lambda b: b"[]",
    "a number": lambda b: b"1",
    "null": lambda b: b"null",
    "an empty object": lambda b: b"{}",
    "nested too deeply": lambda b: b"[" * 100_000,
    "no output": lambda b: without(b, "output"),
    "an unknown output": lambda b: changed(b, output="os.system"),
    "a dunder output": lambda b: changed(b, output="__class__.__init__"),
    "a list as output": lambda b: changed(b, output=["maps-map.figure"]),
    "no outputs": lambda b: without(b, "outputs"),
    "other outputs": lambda b: changed(b, outputs=[{"id": "page", "property": "children"}]),
    "outputs of numbers": lambda b: changed(b, outputs=[1, 2]),
    "no inputs": lambda b: without(b, "inputs"),
    "too few inputs": lambda b: changed(b, inputs=[]),
    "too many inputs": lambda b: changed(b, inputs=b["inputs"] * 2),
    "inputs of text": lambda b: changed(b, inputs="url"),
    "inputs of lists": lambda b: changed(b, inputs=[[], []]),
    "another input": lambda b: with_input(b, 0, id="page"),
    "another property": lambda b: with_input(b, 0, property="__dict__"),
    "an address of numbers": lambda b: with_input(b, 0, value=3),
    "an address of objects": lambda b: with_input(b, 0, value={"layer": 3}),
    "an address without end": lambda b: with_input(b, 0, value="?" + "x" * 100_000),
    "state that is none": lambda b: changed(
        b, state=[{"id": "url", "property": "href", "value": ""}]
    ),
    "state of text": lambda b: changed(b, state="x"),
    "changes of numbers": lambda b: changed(b, changedPropIds=[1]),
    "changes of text": lambda b: changed(b, changedPropIds="url.search"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_body_is_an_error_of_one_line(client, body, case):
    answer = client.post(ADDRESS, data=MALFORMED[case](body), headers=ORIGIN)
    assert answer.status_code == 400, answer.data[:300]
    assert list(answer.json) == ["error"]
    assert len(answer.json["error"].splitlines()) == 1
    for trace in (b"Traceback", b"File ", b".py", b"<html"):
        assert trace not in answer.data


def test_another_content_type_is_refused(client):
    answer = client.post(ADDRESS, data=b"{}", headers={**ORIGIN, "Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert list(answer.json) == ["error"]


@pytest.mark.parametrize(
    "search",
    ["?layer=-1", "?zoom=9-1,0-0", "?capture=../..", "?%00=%00", "?layer=%ff", "?" + "a=b&" * 900],
)
def test_an_address_that_makes_no_sense_draws_what_there_is(client, body, search):
    answer = client.post(ADDRESS, data=with_input(body, 0, value=f"/maps{search}"), headers=ORIGIN)
    assert answer.status_code == 200
    assert "maps-map" in answer.json["response"]


def test_a_failure_nobody_foresaw_shows_no_trace(client, body, monkeypatch, caplog):
    from ssmlens_dashboard.pages import maps

    def fail(*_):
        raise ZeroDivisionError("secret/path.py")

    monkeypatch.setattr(maps, "map_figure", fail)
    answer = client.post(ADDRESS, json=body, headers=ORIGIN)
    assert answer.status_code == 500
    assert b"secret" not in answer.data
    assert b"Traceback" not in answer.data
    assert "ZeroDivisionError" in caplog.text
