"""Several maps at once: what each place of a comparison shows, and what sets two of them apart."""

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
from ssmlens_dashboard.scene import Scene, resolve
from ssmlens_dashboard.views.scores import layer_scores

LETTERS = "ABCD"
"""What the places side by side are called, as many as there may be."""

SIDE = 440
"""Most cells a side of a panel."""


@dataclasses.dataclass(frozen=True)
class Side:
    """A place of a comparison, open or not.

    Attributes:
        letter: "A", "B", ...
        place: Which capture, layer and prompt.
        scene: The place, open, its view as near as can be to what is asked; None where it cannot be.
        notes: What is asked for and not shown, or why there is nothing.
    """

    letter: str
    place: Place
    scene: Scene | None
    notes: tuple[str, ...] = ()

    @property
    def drawn(self) -> Selection | None:
        """Its matrix."""
        return None if self.scene is None else self.scene.selection


def sides(scene: Scene) -> list[Side]:
    """The places of an address: its own, then those beside it."""
    at = scene.address
    assert at.capture is not None  # both are chosen by `resolve`
    assert at.layer is not None
    opened = [Side("A", Place(at.capture, at.layer, at.prompt), scene)]
    for letter, place in zip(LETTERS[1:], at.against, strict=False):
        opened.append(_side(letter, place, scene))
    return opened


def _side(letter: str, place: Place, scene: Scene) -> Side:
    asked = scene.address.but(
        capture=place.capture, layer=place.layer, prompt=place.prompt, zoom=None, query=None
    )
    try:
        scene.library.entry(place.capture)
        opened = resolve(asked, scene.library)
    except SsmlensError as error:
        return Side(letter, place, None, (str(error),))
    at = opened.address
    assert at.capture is not None
    assert at.layer is not None
    return Side(letter, Place(at.capture, at.layer, at.prompt), opened, opened.notes)


def shared_limit(shown: list[Selection], scale: Scale) -> float | None:
    """One value for the end of every colour scale: the largest of their own; None where there is none, as of ranks."""
    limits = [colour_limit(what, scale) for what in shown]
    return max((limit for limit in limits if limit is not None), default=None)


def panel_tile(what: Selection, zoom: Region | None) -> Tile | None:
    """The matrix within a rectangle, in as many cells as a panel shows; None where it has no tokens there."""
    here = _within(zoom, what.length)
    if here is None:
        return None
    longest = max(here.queries[1] - here.queries[0], here.keys[1] - here.keys[0])
    if not whole(what) and longest > EXACT:
        return shown_tile(what, here)
    values = window(what, here.queries, here.keys)
    return tile(values, here.queries, here.keys, what.reduction, SIDE, causal=what.causal)


def difference_tile(a: Selection, b: Selection, zoom: Region | None) -> Tile:
    """a − b over the tokens that both have, in as many cells as a panel shows, each its largest in magnitude.

    Raises:
        UsageError: They cannot be set against each other; the message says why.
    """
    if a.kind != b.kind:
        raise UsageError(f"no difference: one is a {a.kind}, the other a {b.kind}")
    here = _within(zoom, min(a.length, b.length))
    if here is None:
        raise UsageError("no difference: one of them has no tokens here")
    longest = max(here.queries[1] - here.queries[0], here.keys[1] - here.keys[0])
    if not (whole(a) and whole(b)) and longest > EXACT:
        raise UsageError(f"zoom in to {EXACT} tokens or fewer to see the difference")
    values = window(a, here.queries, here.keys) - window(b, here.queries, here.keys)
    causal = a.causal and b.causal
    return tile(values, here.queries, here.keys, "peak", SIDE, causal=causal)


def apart(a: Selection, b: Selection) -> tuple[float, float]:
    """How far apart two matrices are over the tokens that both have: ‖a − b‖ / ‖a‖, and their correlation.

    The correlation is over the pairs with key ≤ query, or over all pairs where one of the two looks ahead. NaN where it
    cannot be said, or a prompt is too long for it.
    """
    if a.kind != b.kind or not (whole(a) and whole(b)):
        return np.nan, np.nan
    causal = a.causal and b.causal
    return a.keep((a.matrix_key, b.matrix_key), lambda: _apart(matrix(a), matrix(b), causal))


def scores_of(opened: list[Side]) -> dict[str, list[float]]:
    """Scores that at least one of the places has, a value for each place; NaN where it has none."""
    columns = [_scores(side) for side in opened]
    names = dict.fromkeys(name for column in columns for name in column)
    found = {name: [column.get(name, np.nan) for column in columns] for name in names}
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def by_chance(opened: list[Side]) -> dict[str, str]:
    """What scores are by chance, as text: one number, or the least and the most of the places."""
    columns = [_chances(side) for side in opened]
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: chance_text(c[name] for c in columns if name in c) for name in names}


def numbers(opened: list[Side], zoom: Region | None, most: int) -> xr.Dataset:
    """The places' matrices at full resolution, and their differences from the first, for download.

    Args:
        opened: The places.
        zoom: The rectangle; None: all.
        most: Tokens a side at most.
    """
    held = [(side.letter, side.drawn) for side in opened if side.drawn is not None]
    longest = max(what.length for _, what in held)
    queries, keys = (zoom.queries, zoom.keys) if zoom else ((0, longest), (0, longest))
    queries, keys = _at_most(queries, longest, most), _at_most(keys, longest, most)
    values = {}
    for letter, what in held:
        values[letter] = np.full((queries[1] - queries[0], keys[1] - keys[0]), np.nan, np.float32)
        here = _within(Region(queries, keys), what.length)
        if here is not None:
            rows, columns = (end - first for first, end in (here.queries, here.keys))
            values[letter][:rows, :columns] = window(what, here.queries, here.keys)
    for letter, _ in held[1:]:
        values[f"{held[0][0]}_minus_{letter}"] = values[held[0][0]] - values[letter]
    return xr.Dataset(
        {name: (("query", "key"), array) for name, array in values.items()},
        coords={"query": np.arange(*queries), "key": np.arange(*keys)},
        attrs={side.letter: _told(side) for side in opened},
    )


def _told(side: Side) -> str:
    """A place in words."""
    if side.scene is None:
        return side.notes[0]
    model = side.scene.capture.attributes.get("model", "")
    return f"{model}, layer {side.place.layer}, prompt {side.place.prompt}"


def _scores(side: Side) -> dict[str, float]:
    if side.scene is None:
        return {}
    measured = layer_scores(side.scene.capture, side.place.layer).isel(layer=0)
    here = measured.isel(prompt=side.place.prompt)
    return {str(name): float(here[name]) for name in here.data_vars if name != "reason"}


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
    # above the diagonal both are zero, where both are causal
    pairs = common * (common + 1) / 2 if causal else common * common
    with np.errstate(all="ignore"):
        relative = np.linalg.norm(a - b) / np.linalg.norm(a)
        together, alone, other = (
            np.vdot(x, y) / pairs - x.sum() * y.sum() / pairs**2
            for x, y in ((a, b), (a, a), (b, b))
        )
        return float(relative), float(together / np.sqrt(alone * other))


def _within(zoom: Region | None, tokens: int) -> Region | None:
    if zoom is None:
        return Region((0, tokens), (0, tokens))
    queries, keys = ((first, min(end, tokens)) for first, end in (zoom.queries, zoom.keys))
    return Region(queries, keys) if queries[0] < queries[1] and keys[0] < keys[1] else None


def _at_most(tokens: Span, longest: int, most: int) -> Span:
    return tokens[0], min(tokens[1], longest, tokens[0] + most)
