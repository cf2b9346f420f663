import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest

from ssmlens.plot.report_page import report
from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE
from ssmlens.scores import rank_layers

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<svg onload=alert(2)>",
    '"><b onmouseover=alert(3)>',
    "{{7*7}} ${alert(4)} $title",
    "\u2028\u2029\x00\u202e",
    "<!--",
]


class Page(html.parser.HTMLParser):
    """Tags, text and scripts of a page, as a browser would part them."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text, self.scripts, self._open = [], [], [], None
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self._open = tag

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    def handle_endtag(self, tag):
        self._open = None

    @property
    def data(self):
        return json.loads(self.scripts[0], parse_constant=lambda c: pytest.fail(c))


@pytest.fixture(scope="module")
def capture(make_capture):
    return make_capture()


@pytest.fixture(scope="module")
def page(capture):
    return Page(report(capture).html)


def test_the_header_says_what_was_captured(page, capture):
    text = " ".join(page.text)
    versions = "ssmlens 0.1.0, torch 2.13.0"
    for word in ("fake-mamba", "main", "float32", "0–3", versions, *capture.prompt_texts):
        assert word in text
    titles = [a.get("title") for _, a in page.tags]
    assert capture.digest in titles
    assert "ab" * 32 in titles


def test_the_ranking_says_what_is_known_of_transplants(page):
    assert TRANSPLANT_EVIDENCE in page.text


def test_failed_layers_are_named_and_marked_in_words(page):
    text = " ".join(page.text)
    assert "Does not close: layer 2." in text
    assert "✗ failed" in text
    assert "✓ ok" in text


def test_a_sound_capture_says_so(make_capture):
    text = " ".join(Page(report(make_capture(kinds=("recency", "copying"))).html).text)
    assert "All 2 layers reproduce what the model computed." in text
    assert "✗" not in text


def test_every_layer_has_its_map_and_mask_for_every_prompt(page, capture):
    layers = page.data["layers"]
    assert [la["layer"] for la in layers] == list(capture.layers)
    for layer in layers:
        for prompt in (0, 1):
            names = [v["name"] for v in layer["views"] if v["prompt"] == prompt]
            assert names[:2] == ["attention_map", "attention_mask"]
    shown = [v for la in layers if la["layer"] != 2 for v in la["views"]]
    assert all("values" in v for v in shown)


def test_the_labels_are_the_tokens_of_the_prompt(page, capture):
    labels = page.data["prompts"][1]["labels"]["1"]
    assert labels == [f"{i} {t}" for i, t in enumerate(capture.tokens[1])]


def test_the_ranking_is_that_of_the_scores(page, capture):
    ranking = rank_layers(capture)
    best = next(la for la in page.data["layers"] if la["rank"] == 1)
    assert best["layer"] == ranking.rows[0].layer == 1
    assert best["scores"]["copy_score"] == ranking.rows[0].scores["copy_score"]
    assert "Ordered by " in page.text
    assert any(ranking.rows[-1].reason in t for t in page.text)


def test_chance_stands_below_the_scores_and_beside_them_in_a_card(page, capture):
    ranking = rank_layers(capture)
    level = ranking[0].chance["copy_score"]
    assert 0 < level < ranking[0].scores["copy_score"]
    tables = re.findall(r"<table.*?</table>", report(capture).html, re.DOTALL)
    for table in tables[:2]:
        (foot,) = re.findall(r"<tfoot>.*?</tfoot>", table, re.DOTALL)
        head = re.findall(r"<th .*?</th>", table)
        cells = re.findall(r"<td.*?</td>", foot)
        assert len(cells) == len(head)
        (column,) = [i for i, cell in enumerate(head) if "copy_" in cell]
        assert f"{level:.3f}" in cells[column]
        assert "a uniform row" in cells[column]
    assert "<tfoot>" not in tables[2]
    best = next(la for la in page.data["layers"] if la["rank"] == 1)
    assert best["chance"]["copy_score"] == level


def test_the_largest_that_errors_may_be_is_said(page):
    lead = next(text for text in page.text if "the most that each may be" in text)
    assert "closure_error 1e-04" in lead


def test_only_the_best_layers_bring_their_channels(capture):
    layers = Page(report(capture, top=1).html).data["layers"]
    channels = [{v["title"] for v in la["views"] if v["name"] == "channel_map"} for la in layers]
    assert channels == [set(), {"Channel 0", "Channel 5"}, set(), set()]


def test_a_given_ranking_is_used(capture):
    ranking = rank_layers(capture, by="mask_ones")
    page = Page(report(capture, ranking=ranking).html)
    assert list(page.data["layers"][0]["scores"]) == ["mask_ones"]


def test_the_page_asks_for_nothing(page):
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "poster", "srcset"):
            assert not (attributes.get(name) or "data:").startswith(("http", "//", "file"))
    assert not [t for t, _ in page.tags if t in ("link", "iframe", "object", "base", "form")]


def test_only_the_pages_own_scripts_may_run(page):
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    allowed = set(re.findall(r"sha256-([^']+)", policy))
    assert policy.startswith("default-src 'none'")
    for script in page.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in allowed
    assert len(page.scripts) == 3
    assert "unsafe-eval" not in policy


def test_text_from_files_stays_text(make_capture, page):
    capture = make_capture(
        lengths=(6, 6),
        tokens=[HOSTILE, HOSTILE[::-1]],
        texts=["".join(HOSTILE), HOSTILE[0]],
        attributes=dict.fromkeys(("model", "revision", "backend", "dtype"), HOSTILE[0])
        | {"command": "".join(HOSTILE)},
    )
    capture.fakes[2].attributes["reason"] = HOSTILE[1]
    capture.prompt_kinds = [HOSTILE[2], HOSTILE[0]]
    hostile = Page(report(capture).html)
    harmless = Page(report(make_capture(lengths=(6, 6), attributes={"command": "x"})).html)
    assert [t for t, _ in hostile.tags] == [t for t, _ in harmless.tags]
    assert not [n for _, a in hostile.tags for n in a if n.startswith("on")]
    assert hostile.data["prompts"][0]["labels"]["1"][0].startswith("0 &lt;/script&gt;")


@pytest.mark.parametrize("length", [1, 2, 9])
def test_short_prompts(make_capture, length):
    capture = make_capture(kinds=("recency", "copying"), lengths=(length,), channels=0)
    ranking = rank_layers(capture, by="bc_identity")
    views = Page(report(capture, ranking=ranking).html).data["layers"][0]["views"]
    assert [v["side"] for v in views] == [length, length]


def test_many_prompts_are_cut_and_the_page_knows_how_many_there_were(make_capture):
    page = Page(report(make_capture(kinds=("copying",), lengths=(12,) * 7)).html)
    assert len(page.data["prompts"]) == 4
    assert page.data["all_prompts"] == 7


def test_numbers_that_are_not_finite_do_not_reach_the_json(make_capture):
    capture = make_capture(kinds=("copying", "broken"))
    capture.fakes[0].arrays["closure_error"] = np.array([np.inf, np.nan])
    assert Page(report(capture).html).data["layers"][0]["closure"] is None


def test_map_closure_stands_beside_the_closure_and_marks_its_layer(make_capture):
    """In the ranking, in the table of closure, in the notes and in what a click on a map shows."""
    capture = make_capture(kinds=("copying", "recency"))
    for fake, error in zip(capture.fakes.values(), (2.5e-3, 4.5e-6), strict=True):
        fake.arrays |= {"map_closure": np.full(2, error), "map_rounding": np.full(2, 1e-6)}
    html = report(capture).html
    page = Page(html)
    assert [layer["map_closure"] for layer in page.data["layers"]] == [2.5e-3, 4.5e-6]
    assert [layer["verdict"] for layer in page.data["layers"]] == ["no", "yes"]
    ranking, closure = (
        re.search(rf"<caption[^>]*>{name}.*?</table>", html, re.DOTALL)[0]
        for name in ("Ranking", "Closure")
    )
    for table in (ranking, closure):
        assert "map_closure" in table
        assert "0.0025" in table
        assert "4.5e-06" in table
    assert "layer 0: does not close: map_closure 2.5e-03 &gt; 1e-04" in html


def test_a_long_capture_of_many_layers_makes_a_page_below_15_mb(make_capture):
    capture = make_capture(kinds=("copying", "recency"), lengths=(1024,), channels=1)
    size = len(report(capture).html)
    both = sum(len(json.dumps(la)) for la in Page(report(capture).html).data["layers"])
    assert size - both < 5.2e6  # plotly.js and the rest
    assert both < 4.5e6
