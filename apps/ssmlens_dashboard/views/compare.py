"""Compare several matrices: the matrix of each place, and the difference of two."""

import dataclasses

import numpy as np
import xarray as xr
from jaxtyping import Float

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.plot.matrix import EXACT, colour_limit, matrix, shown_tile, whole, window
from ssmlens.plot.scales import Scale
from ssmlens.plot.selection import Region, Selection, Span
from ssmlens.plot.tiles import Tile, tile
from ssmlens.scores.chance import chance_text
from ssmlens.scores.table import CHANCE
from ssmlens_dashboard.address import Place
from ssmlens_dashboard.listing import Entry
from ssmlens_dashboard.scene import Scene, resolve
from ssmlens_dashboard.views.scores import layer_scores

LETTERS = "ABCD"
"""Names of the places; their number is the most places at once."""

SIDE = 440
"""Most cells per side of a panel."""


@dataclasses.dataclass(frozen=True)
class Side:
    """A place of a comparison, open or not. It stays open while a view is drawn, also if its file is removed.

    Attributes:
        letter: "A", "B", ...
        place: Which capture, layer and prompt.
        name: The name of its capture; "?" if it cannot be opened.
        scene: The open place, with the view nearest to the requested one; None if it cannot be opened.
        notes: The parts of the request that are not shown, or why the place cannot be opened.
    """

    letter: str
    place: Place
    name: str
    scene: Scene | None
    notes: tuple[str, ...] = ()

    @property
    def drawn(self) -> Selection | None:
        """The matrix of the place; None if it is not open."""
        return None if self.scene is None else self.scene.selection


def sides(scene: Scene) -> list[Side]:
    """Open the places of an address: its own, then the others."""
    at = scene.address
    assert at.capture is not None  # `resolve` sets both
    assert at.layer is not None
    name = _name(scene.library.entry(at.capture))
    opened = [Side("A", Place(at.capture, at.layer, at.prompt), name, scene)]
    for letter, place in zip(LETTERS[1:], at.against, strict=False):
        opened.append(_side(letter, place, scene))
    return opened


def _side(letter: str, place: Place, scene: Scene) -> Side:
    requested = scene.address.replace(
        capture=place.capture, layer=place.layer, prompt=place.prompt, zoom=None, query=None
    )
    try:
        name = _name(scene.library.entry(place.capture))
        opened = resolve(requested, scene.library)
        _ = opened.capture  # opens it once and for all
    except SsmlensError as error:
        return Side(letter, place, "?", None, (str(error),))
    at = opened.address
    assert at.capture is not None
    assert at.layer is not None
    return Side(letter, Place(at.capture, at.layer, at.prompt), name, opened, opened.notes)


def _name(entry: Entry) -> str:
    return entry.name.removesuffix(".h5")


def shared_limit(selections: list[Selection], scale: Scale) -> float | None:
    """Return one end for all colour scales, the largest of their own; None without one, as for ranks."""
    limits = [colour_limit(selection, scale) for selection in selections]
    return max((limit for limit in limits if limit is not None), default=None)


def panel_tile(selection: Selection, zoom: Region | None) -> Tile | None:
    """Reduce a matrix within a rectangle to the cells of a panel; return None without tokens there."""
    region = _within(zoom, selection.length)
    if region is None:
        return None
    longest = max(region.queries[1] - region.queries[0], region.keys[1] - region.keys[0])
    if not whole(selection) and longest > EXACT:
        return shown_tile(selection, region)
    values = window(selection, region.queries, region.keys)
    return tile(
        values, region.queries, region.keys, selection.reduction, SIDE, causal=selection.causal
    )


def difference_tile(a: Selection, b: Selection, zoom: Region | None) -> Tile:
    """Reduce a − b over the common tokens to the cells of a panel, each the largest entry in magnitude.

    Raises:
        UsageError: The two cannot be compared; the message says why.
    """
    if a.kind != b.kind:
        raise UsageError(f"no difference: one is a {a.kind}, the other a {b.kind}")
    region = _within(zoom, min(a.length, b.length))
    if region is None:
        raise UsageError("no difference: one of them has no tokens in this region")
    longest = max(region.queries[1] - region.queries[0], region.keys[1] - region.keys[0])
    if not (whole(a) and whole(b)) and longest > EXACT:
        raise UsageError(f"zoom in to {EXACT} tokens or fewer to see the difference")
    values = window(a, region.queries, region.keys) - window(b, region.queries, region.keys)
    causal = a.causal and b.causal
    return tile(values, region.queries, region.keys, "peak", SIDE, causal=causal)


def apart(a: Selection, b: Selection) -> tuple[float, float]:
    """Measure ‖a − b‖ / ‖a‖ and the correlation of two matrices over their common tokens.

    The correlation is over the pairs with key ≤ query, or over all pairs if a matrix looks ahead. Both are NaN if
    undefined or if a prompt is too long.
    """
    if a.kind != b.kind or not (whole(a) and whole(b)):
        return np.nan, np.nan
    causal = a.causal and b.causal
    return a.keep((a.matrix_key, b.matrix_key), lambda: _apart(matrix(a), matrix(b), causal))


def scores_of(opened: list[Side]) -> dict[str, list[float]]:
    """Collect the scores that any place has: one value per place, NaN where it has none."""
    columns = [_scores(side) for side in opened]
    names = dict.fromkeys(name for column in columns for name in column)
    scores = {name: [column.get(name, np.nan) for column in columns] for name in names}
    return {name: values for name, values in scores.items() if np.isfinite(values).any()}


def by_chance(opened: list[Side]) -> dict[str, str]:
    """What scores are by chance, as text: one number, or the least and the most of the places."""
    columns = [_chances(side) for side in opened]
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: chance_text(c[name] for c in columns if name in c) for name in names}


def numbers(opened: list[Side], zoom: Region | None, most: int) -> xr.Dataset:
    """Collect the matrices at full resolution and their differences from the first, for download.

    Args:
        opened: The places.
        zoom: The rectangle; None: all.
        most: Most tokens per side.
    """
    opened_matrices = [(side.letter, side.drawn) for side in opened if side.drawn is not None]
    longest = max(selection.length for _, selection in opened_matrices)
    queries, keys = (zoom.queries, zoom.keys) if zoom else ((0, longest), (0, longest))
    queries, keys = _at_most(queries, longest, most), _at_most(keys, longest, most)
    values = {}
    for letter, selection in opened_matrices:
        values[letter] = np.full((queries[1] - queries[0], keys[1] - keys[0]), np.nan, np.float32)
        region = _within(Region(queries, keys), selection.length)
        if region is not None:
            rows, columns = (end - first for first, end in (region.queries, region.keys))
            values[letter][:rows, :columns] = window(selection, region.queries, region.keys)
    for letter, _ in opened_matrices[1:]:
        values[f"{opened_matrices[0][0]}_minus_{letter}"] = (
            values[opened_matrices[0][0]] - values[letter]
        )
    return xr.Dataset(
        {name: (("query", "key"), array) for name, array in values.items()},
        coords={"query": np.arange(*queries), "key": np.arange(*keys)},
        attrs={side.letter: _description(side) for side in opened},
    )


def _description(side: Side) -> str:
    """Describe a place in words."""
    if side.scene is None:
        return side.notes[0]
    model = side.scene.capture.attributes.get("model", "")
    return f"{model}, layer {side.place.layer}, prompt {side.place.prompt}"


def _scores(side: Side) -> dict[str, float]:
    if side.scene is None:
        return {}
    measured = layer_scores(side.scene.capture, side.place.layer).isel(layer=0)
    values = measured.isel(prompt=side.place.prompt)
    return {str(name): float(values[name]) for name in values.data_vars if name != "reason"}


def _chances(side: Side) -> dict[str, float]:
    if side.scene is None:
        return {}
    measured = layer_scores(side.scene.capture, side.place.layer)
    here = measured[CHANCE].isel(layer=0, prompt=side.place.prompt)
    levels = {str(name): float(here.sel(score=name)) for name in here["score"].values}
    return {name: level for name, level in levels.items() if np.isfinite(level)}


def _apart(
    a: Float[np.ndarray, "query key"], b: Float[np.ndarray, "_query _key"], causal: bool
) -> tuple[float, float]:
    common = min(len(a), len(b))
    a, b = (x[:common, :common].astype(np.float64) for x in (a, b))
    # if both are causal, both are zero above the diagonal
    pairs = common * (common + 1) / 2 if causal else common * common
    with np.errstate(all="ignore"):
        relative = np.linalg.norm(a - b) / np.linalg.norm(a)
        covariance, variance_a, variance_b = (
            np.vdot(x, y) / pairs - x.sum() * y.sum() / pairs**2
            for x, y in ((a, b), (a, a), (b, b))
        )
        return float(relative), float(covariance / np.sqrt(variance_a * variance_b))


def _within(zoom: Region | None, tokens: int) -> Region | None:
    if zoom is None:
        return Region((0, tokens), (0, tokens))
    queries, keys = ((first, min(end, tokens)) for first, end in (zoom.queries, zoom.keys))
    return Region(queries, keys) if queries[0] < queries[1] and keys[0] < keys[1] else None


def _at_most(tokens: Span, longest: int, most: int) -> Span:
    return tokens[0], min(tokens[1], longest, tokens[0] + most)
