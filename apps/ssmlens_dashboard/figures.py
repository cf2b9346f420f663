"""Every figure of a layer by name: what the pages draw, as files (`ssmlens figure`)."""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ssmlens.errors import UsageError
from ssmlens.plots.labels import literal, visible
from ssmlens.plots.theme import Spec
from ssmlens.store import Capture, Layer
from ssmlens_dashboard.address import MAP_VIEWS, Address
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import maps, signals, weights
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.views import maps as map_views
from ssmlens_dashboard.views import signals as signal_views
from ssmlens_dashboard.views import weights as weight_views

_SQUARE, _LOW = (900, 860), (900, 460)
_TITLE, _TOP_AXIS = 44, 96  # pixels above a figure: for its title, and for an axis of tokens


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a layer.

    Attributes:
        title: What it shows.
        draw: It, for a scene.
        data: Its numbers.
        why_not: Why a layer has none, in a line; "" where it has.
        size: Width and height in pixels.
    """

    title: Callable[[Scene], str]
    draw: Callable[[Scene], go.Figure | Spec]
    data: Callable[[Scene], xr.Dataset]
    why_not: Callable[[Layer], str] = lambda _: ""
    size: tuple[int, int] = _LOW


@dataclasses.dataclass(frozen=True)
class Still(Scene):
    """A scene of a capture that is open already. Its address is taken at its word: what is not there is an error.

    Attributes:
        opened: The capture.
    """

    opened: Capture = dataclasses.field(kw_only=True)

    @cached_property
    def capture(self) -> Capture:
        """The capture."""
        return self.opened


def still(capture: Capture, name: str, address: Address) -> Still:
    """The scene of a figure, its layer, prompt, tokens and heads there.

    Args:
        capture: An open capture.
        name: A name in `FIGURES`.
        address: What is drawn; its capture is not looked at.

    Raises:
        UsageError: Something of it is not there; the message says what there is.
    """
    if name in MAP_VIEWS:
        address = address.but(view=name)
    scene = Still(address, Library(()), opened=capture)
    layer, tokens = scene.layer, len(scene.tokens)
    why_not = FIGURES[name].why_not(layer)
    if why_not:
        raise UsageError(why_not)
    if address.view == "channel" and not 0 <= address.channel < scene.channels:
        raise UsageError(f"layer {layer.index} has {scene.channels} channels: no {address.channel}")
    groups = max(1, weight_views.groups(layer))
    if address.group >= groups:
        raise UsageError(f"layer {layer.index} has {groups} groups: no {address.group}")
    zoom = address.zoom
    if zoom is not None and max(zoom.queries[1], zoom.keys[1]) > tokens:
        raise UsageError(f"the zoom {zoom} ends after the {tokens} tokens of the prompt")
    return scene


def drawn(scene: Scene, name: str, size: tuple[int | None, int | None]) -> go.Figure:
    """A figure as it stands on its own: with a title, a background and a size.

    Args:
        scene: What is drawn (`still`).
        name: A name in `FIGURES`.
        size: Width and height in pixels; None for the figure's own.
    """
    made = FIGURES[name]
    figure = go.Figure(made.draw(scene))
    width, height = (asked or own for asked, own in zip(size, made.size, strict=True))
    model = visible(str(scene.capture.attributes.get("model", "")), longest=80)
    title = made.title(scene) + f" · {model}" * bool(model)
    own = figure.to_dict()["layout"]
    on_top = own["xaxis"].get("side") == "top" and own["margin"].get("autoexpand", True)
    above = _TITLE + (_TOP_AXIS if on_top else own["margin"]["t"])
    figure.update_layout(
        width=width,
        height=height,
        paper_bgcolor=scene.theme.surface,
        title={
            "text": literal(title),
            **{"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 16, "t": 14}},
            **{"y": 1, "yref": "container", "yanchor": "top"},
        },
        margin={"t": above, "r": max(24, own["margin"]["r"]), "l": max(16, own["margin"]["l"])},
    )
    return figure


def _of_layer(what: str) -> Callable[[Scene], str]:
    return lambda scene: f"Layer {scene.address.layer}: {what}"


def _of_prompt(what: str) -> Callable[[Scene], str]:
    return lambda scene: f"{_of_layer(what)(scene)} · prompt {scene.address.prompt}"


def _of_map(what: str) -> Callable[[Scene], str]:
    return lambda scene: f"{maps.title(scene)}{what} · prompt {scene.address.prompt}"


def _lags(scene: Scene) -> xr.Dataset:
    energy = map_views.lag_energy(map_views.drawn(scene))
    return xr.Dataset({"energy": ("lag", energy)}, {"lag": np.arange(len(energy))})


def _steps(scene: Scene) -> xr.Dataset:
    return signals.data(scene)[["delta"]]


def _norms(scene: Scene) -> xr.Dataset:
    return signals.data(scene)[["B_norm", "C_norm"]]


def _half_lives(scene: Scene) -> xr.Dataset:
    return xr.Dataset(
        {"half_life": (("head", "state"), signal_views.half_lives(signal_views.heard(scene)))}
    )


def _rates(scene: Scene) -> xr.Dataset:
    edges, counts = signal_views.rate_counts(signal_views.heard(scene))
    bins = {"low": ("bin", 10.0 ** edges[:-1]), "high": ("bin", 10.0 ** edges[1:])}
    return xr.Dataset({"count": ("bin", counts)}, bins)


def _input_product(scene: Scene) -> xr.Dataset:
    cells, several = weight_views.product_cells(weight_views.pair(scene))
    first = np.arange(len(cells)) * several
    coordinates = {"first_input_of_W_C": ("read", first), "first_input_of_W_B": ("write", first)}
    return xr.Dataset({"product": (("read", "write"), cells)}, coordinates)


def _state_product(scene: Scene) -> xr.Dataset:
    product = weight_views.state_product(weight_views.pair(scene))
    return xr.Dataset({"product": (("write", "read"), product)})


def _entries(entries: weight_views.Entries) -> xr.Dataset:
    edges = {"low": ("bin", entries.edges[:-1]), "high": ("bin", entries.edges[1:])}
    shares = {"diagonal": ("bin", entries.diagonal), "others": ("bin", entries.others)}
    told = {"mean": entries.mean, "others_mean": entries.others_mean}
    return xr.Dataset(shares, edges, told | {"others_rms": entries.others_rms})


def _kernels(scene: Scene) -> xr.Dataset:
    kernels = weight_views.kernels(scene.layer)
    taps = np.concatenate(list(kernels.values()))
    parts = np.repeat(list(kernels), [len(k) for k in kernels.values()])
    return xr.Dataset({"weight": (("channel", "back"), taps)}, {"part": ("channel", parts)})


def _no_kernels(layer: Layer) -> str:
    return "" if weight_views.kernels(layer) else f"layer {layer.index} has no convolution"


FIGURES: dict[str, Figure] = {
    **{name: Figure(_of_map(""), maps.map_figure, maps.data, size=_SQUARE) for name in MAP_VIEWS},
    "lags": Figure(_of_map(", energy by lag"), maps.lags_figure, _lags),
    "steps": Figure(
        _of_prompt("Δ by token and head"), signals.steps, _steps, signal_views.why_not, (900, 600)
    ),
    "norms": Figure(
        _of_prompt("length of B and C by token"), signals.norms, _norms, signal_views.why_not
    ),
    "half-lives": Figure(
        _of_prompt("half-lives at the mean Δ"),
        signals.half_lives,
        _half_lives,
        signal_views.why_not,
    ),
    "rates": Figure(_of_prompt("rates of decay |A|"), signals.rates, _rates, signal_views.why_not),
    "input-product": Figure(
        _of_layer("W_Cᵀ W_B"), weights.inputs, _input_product, weight_views.why_not, _SQUARE
    ),
    "state-product": Figure(
        _of_layer("W_B W_Cᵀ"), weights.states, _state_product, weight_views.why_not, _SQUARE
    ),
    "input-entries": Figure(
        _of_layer("entries of W_Cᵀ W_B"),
        weights.input_entries,
        lambda scene: _entries(weight_views.input_entries(weight_views.pair(scene))),
        weight_views.why_not,
    ),
    "state-entries": Figure(
        _of_layer("entries of W_B W_Cᵀ"),
        weights.state_entries,
        lambda scene: _entries(weight_views.state_entries(weight_views.pair(scene))),
        weight_views.why_not,
    ),
    "kernels": Figure(
        _of_layer("kernels of the convolution"), weights.kernels, _kernels, _no_kernels, _SQUARE
    ),
    "taps": Figure(_of_layer("energy of the kernels by tap"), weights.taps, _kernels, _no_kernels),
}
