"""What a notebook shows of a layer, a record and a capture: small, safe, and what it says is so."""

import html.parser
import runpy
from pathlib import Path

import pytest
import torch

import ssmlens
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.scores import rank_layers
from ssmlens.store import open_capture

MIXED = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "mixed_layers.py"))
HOSTILE = "</table><img src=x onerror=alert(1)>"


class Card(html.parser.HTMLParser):
    """Tags, captions and text of a card."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data.strip())

    @property
    def pictures(self):
        return [attrs for tag, attrs in self.tags if tag == "img"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = MIXED["write_mixed"](tmp_path_factory.mktemp("mixed") / "mixed.h5", {"model": HOSTILE})
    with open_capture(path) as opened:
        yield opened


@pytest.mark.parametrize(("index", "maps"), [(0, 2), (1, 2), (3, 1), (4, 0)])
def test_a_layer_shows_its_maps_and_its_verdict(capture, index, maps):
    layer = capture.layer(index)
    source = layer._repr_html_()
    card = Card(source)
    assert len(source) < 30_000
    assert [p["src"][:15] for p in card.pictures] == ["data:image/png;"] * maps
    assert f"Layer {index}" in card.text
    assert any(text.startswith(layer.verdict.answer) for text in card.text)
    for name, error in layer.verdict.errors.items():
        assert f"{error:.2g} ({layer.verdict.tolerances[name]:.0e} allowed)" in card.text


def test_a_capture_shows_each_layer_and_runs_nothing_of_the_file(capture):
    source = capture._repr_html_()
    card = Card(source)
    assert len(source) < 100_000
    assert HOSTILE in card.text
    assert all(p["src"].startswith("data:image/png;") for p in card.pictures)
    assert [p["alt"].split()[0] for p in card.pictures] == ["0", "1", "2", "3", "5"]
    assert any("1 layers have no picture" in text for text in card.text), "layer 4 is NaN"


@pytest.mark.parametrize("tokens", [1, 11, 2049])
def test_a_record_shows_its_maps_and_how_it_closes(tokens):
    torch.manual_seed(0)
    config = MambaConfig(d_model=8, n_layer=1, vocab_size=5, ssm_cfg={"d_state": 2})
    model = MambaLM(config).eval()
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(torch.arange(tokens)[None] % 5)
    source = rec[0]._repr_html_()
    card = Card(source)
    assert len(source) < 60_000
    assert len(card.pictures) == (0 if tokens > 2048 else 2)
    assert f"{rec[0].closure_error:.2g}" in card.text
    assert "map_closure" in card.text
    assert f"{rec[0].map_closure:.2g}" in card.text
    assert f"1 sequences of {tokens} tokens" in card.text


def test_a_ranking_is_a_table_of_its_rows(make_capture):
    ranking = rank_layers(make_capture())
    card = Card(ranking._repr_html_())
    assert sum(tag == "tr" for tag, _ in card.tags) == 1 + len(ranking.rows) + 1, "and chance"
    for cell in ("rank", "layer", *ranking.by, "closure_error"):
        assert cell in card.text
    frame = ranking.to_frame()
    assert list(frame.index) == [row.layer for row in ranking]
    assert frame.loc[1, "copy_score"] == ranking[0].scores["copy_score"]
    assert frame["rank"].isna().sum() == sum(row.rank is None for row in ranking)
