"""`ssmlens.plot`'s figures of layers, told by their data: from a file and from a recording."""

import base64
import runpy
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.errors import UsageError
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.plot.scales import coloured, robust_limit
from ssmlens.store import open_capture

MIXED = runpy.run_path(str(Path(__file__).parents[1] / "dashboard" / "mixed_layers.py"))
TOKENS = 11


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = MIXED["write_mixed"](tmp_path_factory.mktemp("mixed") / "mixed.h5", {"model": "m"})
    with open_capture(path) as opened:
        yield opened


MIXERS = {
    "Mamba1": {},
    "Mamba2": {"headdim": 8, "d_state": 4},
    "Mamba3": {"headdim": 8, "d_state": 8},
}


@pytest.fixture(scope="module", params=MIXERS)
def recorded(request):
    """(the recording, its tokens) of a tiny model, two sequences."""
    torch.manual_seed(0)
    options = {"layer": request.param, **MIXERS[request.param]}
    config = MambaConfig(d_model=16, n_layer=2, vocab_size=13, ssm_cfg=options)
    model = MambaLM(config).eval()
    ids = torch.arange(2 * TOKENS).reshape(2, TOKENS) % 13
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(ids)
    return rec, [[f"t{i}" for i in row] for row in ids.tolist()]


def numbers(figure):
    """The values that the pointer reads, and the trace."""
    trace = figure.data[0]
    return np.asarray(trace.z, float), trace


def lower(values):
    """A map with NaN where a key lies after its query."""
    query, key = np.ogrid[: values.shape[0], : values.shape[1]]
    return np.where(key <= query, values, np.nan)


def test_a_map_carries_the_layers_numbers_under_its_tokens(capture):
    layer = capture.layer(0)
    figure = ssmlens.plot.map(layer, 1)
    assert isinstance(figure, go.Figure)
    values, trace = numbers(figure)
    assert np.allclose(values, lower(layer.read("attention_map", 1)), equal_nan=True)
    labels = [f"{i} {token}" for i, token in enumerate(capture.token_strings(1))]
    assert [label.split()[0] for label in trace.x] == [label.split()[0] for label in labels]
    assert list(trace.x) == list(trace.y)
    assert figure.layout.title.text == "Layer 0: attention map · prompt 1"
    assert list(figure.layout.yaxis.range) == [len(labels) - 0.5, -0.5], "queries run down"


@pytest.mark.parametrize(
    ("draw", "array", "told"),
    [
        (ssmlens.plot.mask, "attention_mask", "attention mask"),
        (lambda layer, prompt: ssmlens.plot.channel(layer, 2, prompt), None, "channel 2"),
    ],
)
def test_mask_and_channel(capture, draw, array, told):
    layer = capture.layer(1)
    figure = draw(layer, 0)
    stored = layer.channel_map(2, 0) if array is None else layer.read(array, 0)
    assert np.allclose(numbers(figure)[0], lower(stored), equal_nan=True)
    assert told in figure.layout.title.text


def test_colours_end_at_the_limit_and_a_region_keeps_those_of_the_whole(capture):
    layer = capture.layer(0)
    whole = layer.read("attention_map", 0)
    region = ((3, 9), (1, 6))
    part = ssmlens.plot.map(layer, region=region)
    for figure, limit in (
        (ssmlens.plot.map(layer), robust_limit(whole)),
        (part, robust_limit(whole)),
        (ssmlens.plot.map(layer, region="3-9,1-6", limit=2.5), 2.5),
    ):
        ticks = figure.data[1].marker.colorbar
        expected = coloured(whole, limit=limit).ticks
        assert np.allclose(ticks.tickvals, expected[0])
        assert tuple(ticks.ticktext) == expected[1]
    values, trace = numbers(part)
    query, key = np.ogrid[3:9, 1:6]
    inside = np.where(key <= query, whole[3:9, 1:6], np.nan)
    assert np.allclose(values, inside, equal_nan=True)
    assert [label.split()[0] for label in trace.y] == [str(i) for i in range(3, 9)]


def test_title_size_theme_and_a_marked_query(capture):
    layer = capture.layer(0)
    figure = ssmlens.plot.map(layer, title=None, size=("10cm", 300), theme="dark", query=4)
    assert figure.layout.title.text is None
    assert (figure.layout.width, figure.layout.height) == (378, 300)
    assert figure.layout.paper_bgcolor == "#171b22"
    assert figure.layout.shapes[0].y0 == 4
    assert ssmlens.plot.map(layer, title="<b>x").layout.title.text == "&lt;b&gt;x"


@pytest.mark.parametrize("scale", ["linear", "symlog", "rank"])
def test_the_image_says_which_cells_hold_nothing(capture, scale):
    """An empty cell is the palette's transparent entry, on every scale."""
    figure = ssmlens.plot.map(capture.layer(0), scale=scale)
    png = base64.b64decode(figure.layout.images[0].source.split(",")[1])
    assert png.startswith(b"\x89PNG")
    assert (figure.layout.images[0].sizex, figure.layout.images[0].sizey) == (9, 9)


def test_a_recording_is_drawn_as_a_file_is(recorded):
    rec, tokens = recorded
    for prompt in (0, 1):
        figure = ssmlens.plot.map(rec[1], prompt, tokens=tokens)
        expected = ssmlens.attention_map(rec[1].operands)[prompt].numpy()
        values, trace = numbers(figure)
        assert np.allclose(values, lower(expected), atol=1e-6, equal_nan=True)
        assert list(trace.x) == [f"{i} {token}" for i, token in enumerate(tokens[prompt])]
        mask = numbers(ssmlens.plot.mask(rec[1], prompt))[0]
        expected = ssmlens.attention_mask(rec[1].operands)[prompt].numpy()
        assert np.allclose(mask, lower(expected), atol=1e-6, equal_nan=True)
        one = numbers(ssmlens.plot.channel(rec[1], 1, prompt))[0]
        expected = ssmlens.channel_maps(rec[1].operands, [1])[prompt, 0].numpy()
        assert np.allclose(one, lower(expected), atol=1e-6, equal_nan=True)


def test_signals_and_weights_of_a_recording(recorded):
    rec, _ = recorded
    operands = rec[0].operands
    steps = ssmlens.plot.signals(rec[0], 1)
    assert np.allclose(steps.data[0].customdata, operands.delta[1].T, rtol=1e-5)
    norms = ssmlens.plot.signals(rec[0], 1, show="norms")
    lines = {trace.name: trace.y for trace in norms.data if trace.name}
    assert np.allclose(lines["‖B‖"], operands.B[1].norm(dim=-1).mean(-1), rtol=1e-5)
    for show in ("half-lives", "rates"):
        assert ssmlens.plot.signals(rec[0], show=show).data
    for show in ("input-product", "state-product", "input-entries", "state-entries"):
        assert ssmlens.plot.weights(rec[0], show=show).data
    assert "energy by lag" in ssmlens.plot.lag_profile(rec[0]).layout.title.text


def test_maps_side_by_side_share_their_colours_and_zoom_together(capture):
    layers = [capture.layer(index) for index in (0, 1, 2)]
    figure = ssmlens.plot.maps(layers, columns=2)
    assert len(figure.layout.images) == 3
    limits = [robust_limit(layer.read("attention_map", 0)) for layer in layers]
    ticks = coloured(np.zeros((1, 1)), limit=max(limits)).ticks
    bars = [trace.marker.colorbar for trace in figure.data if trace.type == "scatter"]
    assert all(np.allclose(bar.tickvals, ticks[0]) for bar in bars)
    assert figure.layout.xaxis2.matches == figure.layout.xaxis3.matches == "x"
    titles = [note.text for note in figure.layout.annotations]
    assert titles == [f"<b>layer {index}</b>" for index in (0, 1, 2)]
    shown = [np.asarray(trace.z) for trace in figure.data if trace.type == "heatmap"]
    for values, layer in zip(shown, layers, strict=True):
        expected = lower(layer.read("attention_map", 0))
        assert np.allclose(values, expected, equal_nan=True)


def test_heads_of_one_layer_side_by_side(capture):
    figure = ssmlens.plot.maps([capture.layer(1)], channels=[0, 3])
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["<b>layer 1, channel 0</b>", "<b>layer 1, channel 3</b>"]


def test_prompts_of_one_token_and_layers_of_nothing_but_nan_are_drawn(capture):
    assert numbers(ssmlens.plot.map(capture.layer(0), 2))[0].shape == (1, 1)
    figure = ssmlens.plot.map(capture.layer(4))
    assert figure.layout.title.text.startswith("Layer 4")
    attention = ssmlens.plot.map(capture.layer(3))
    assert numbers(attention)[0].shape == (9, 9)


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda cap: ssmlens.plot.mask(cap.layer(3)), "layer 3 has no mask; it has map"),
        (lambda cap: ssmlens.plot.erase(cap.layer(0)), "layer 0 has no erase"),
        (lambda cap: ssmlens.plot.channel(cap.layer(0), 6), "has 6 channels: no 6"),
        (lambda cap: ssmlens.plot.map(cap.layer(0), 3), "prompt 3 is out of range"),
        (lambda cap: ssmlens.plot.map(cap.layer(0), region="5-1,0-3"), "is not a rectangle"),
        (lambda cap: ssmlens.plot.map(cap.layer(0), region=((0, 40), (0, 3))), "ends after"),
        (lambda cap: ssmlens.plot.maps([]), "at least one layer"),
        (lambda cap: ssmlens.plot.maps([cap.layer(0)] * 3, channels=[1, 2]), "one for each"),
        (lambda cap: ssmlens.plot.signals(cap.layer(3)), "softmax attention"),
        (lambda cap: ssmlens.plot.map(cap.layer(0), size=(5, 300)), "100 to 10000 pixels"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(capture, draw, told):
    with pytest.raises(UsageError, match=told):
        draw(capture)


def test_tokens_of_a_record_are_as_many_as_it_has(recorded):
    rec, _ = recorded
    with pytest.raises(UsageError, match="tokens has 1 entries for a sequence of 11 tokens"):
        ssmlens.plot.map(rec[0], tokens=[["a"]])
    with pytest.raises(UsageError, match=r"prompt 2 is out of range: 0\.\.1"):
        ssmlens.plot.map(rec[0], 2)


@pytest.fixture(scope="module")
def delta_rule():
    """What a hybrid's layers recorded: delta rules and softmax attention."""
    (path,) = [path for path in adapters if path.endswith(".Qwen3NextGatedDeltaNet")]
    torch.manual_seed(0)
    model = adapters[path].tiny_model().eval()
    with ssmlens.recording(model) as rec, torch.no_grad():
        model(torch.arange(TOKENS)[None] % 7)
    return rec


def test_a_delta_rule_has_what_it_erases_and_softmax_attention_its_heads(delta_rule):
    by_operator = {
        delta_rule[index].operands.kind: delta_rule[index] for index in delta_rule.layers
    }
    rule, softmax = by_operator["delta rule"], by_operator["softmax"]
    for draw, compute in (
        (ssmlens.plot.map, ssmlens.attention_map),
        (ssmlens.plot.erase, ssmlens.erase_map),
    ):
        expected = lower(compute(rule.operands)[0].numpy())
        assert np.allclose(numbers(draw(rule))[0], expected, atol=1e-5, equal_nan=True)
    beta, alpha = rule.operands.beta[0], rule.operands.log_decay[0].exp().mean(2)
    assert np.allclose(ssmlens.plot.signals(rule).data[0].customdata, beta.T.numpy())
    _, line = ssmlens.plot.signals(rule, show="norms").data
    assert line.name == "α"
    assert np.allclose(line.y, alpha.mean(1).numpy(), atol=1e-6)
    with pytest.raises(UsageError, match="Layer 1 is softmax attention"):
        ssmlens.plot.signals(softmax)
    head = numbers(ssmlens.plot.channel(softmax, 1))[0]
    assert np.allclose(np.nansum(head, axis=1), 1, atol=1e-5), "shares of a query"
    with pytest.raises(UsageError, match="has no mask"):
        ssmlens.plot.mask(softmax)
