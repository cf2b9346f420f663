"""An address with what it names, open: all that a page needs in order to draw."""

import dataclasses
from functools import cached_property

from ssmlens.errors import UsageError
from ssmlens.plot.selection import Region, Selection, heads_of, kinds_of
from ssmlens.plot.theme import DARK, LIGHT, Theme
from ssmlens.store import Capture, Layer
from ssmlens_dashboard.address import Address
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.views.cache import CACHE


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a page draws: `address` names only what there is. Get one from `resolve`.

    Attributes:
        address: Every field holds for the capture that is open.
        library: What else could be looked at.
        notes: What the URL asked for and is not shown, a line each.
    """

    address: Address
    library: Library
    notes: tuple[str, ...] = ()

    @cached_property
    def capture(self) -> Capture:
        """The capture, open. Raises SsmlensError with what to tell the reader."""
        return self.library.capture(self.address.capture)

    @property
    def layer(self) -> Layer:
        """The layer."""
        if self.address.layer is None:
            raise UsageError("no layer is chosen")
        return self.capture.layer(self.address.layer)

    @cached_property
    def tokens(self) -> list[str]:
        """The prompt's tokens as text."""
        return self.capture.token_strings(self.address.prompt)

    @property
    def theme(self) -> Theme:
        """Colours of the figures."""
        return DARK if self.address.theme == "dark" else LIGHT

    @property
    def channels(self) -> int:
        """Heads of the layer that have a map of their own; 0 for softmax attention."""
        return heads_of(self.layer)

    @property
    def selection(self) -> Selection:
        """What the address selects of the layer, as `ssmlens.plot` draws it; its results are kept."""
        at = self.address
        return Selection(
            layer=self.layer,
            prompt=at.prompt,
            kind=at.view,
            channel=at.channel,
            region=at.zoom,
            scale=at.scale,
            query=at.query,
            sort=at.sort,
            group=at.group,
            theme=self.theme,
            keep=CACHE.get,
        )


def most_channels(capture: Capture) -> int:
    """Heads that have a map of their own in the layer that has most of them."""
    return max(heads_of(capture.layer(index)) for index in capture.layers)


def resolve(address: Address, library: Library, notes: tuple[str, ...] = ()) -> Scene:
    """Open what an address names; a layer, prompt, token or channel that is not there becomes one that is, and a note.

    Raises:
        SsmlensError: The capture itself cannot be shown; the message says why and what to do.
    """
    told = list(notes)
    known = {entry.id for entry in library.entries("capture")}
    if address.capture is not None and address.capture not in known:
        told.append("the capture of this address is not here; shown is the first there is")
        address = address.but(capture=None)
    address = address.but(capture=library.entry(address.capture).id)
    capture = library.capture(address.capture)

    layer = address.layer
    if layer not in capture.layers:
        if layer is not None:
            told.append(f"layer {layer} was not captured; shown is layer {capture.layers[0]}")
        layer = capture.layers[0]
    prompt = address.prompt
    if prompt >= capture.prompts:
        told.append(f"there is no prompt {prompt}; shown is prompt 0")
        prompt = 0
    address = address.but(layer=layer, prompt=prompt)

    held = capture.layer(layer)
    channels, length = heads_of(held), int(capture.length[prompt])
    view, channel = address.view, address.channel
    if view not in kinds_of(held):
        told.append(f"layer {layer} has no {view}; shown is its map")
        view = "map"
    if channels and channel >= channels:
        told.append(f"layer {layer} has channels 0 to {channels - 1}; shown is channel 0")
        channel = 0
    query = address.query
    if query is not None and query >= length:
        told.append(f"the prompt has {length} tokens; no query {query}")
        query = None
    zoom = _within(address.zoom, length)
    if zoom is None and address.zoom is not None:
        told.append(f"the prompt has {length} tokens; shown are all of them")
    return Scene(
        address.but(view=view, channel=channel, query=query, zoom=zoom), library, tuple(told)
    )


def _within(zoom: Region | None, length: int) -> Region | None:
    """The rectangle cut to the prompt's tokens; None where nothing is left."""
    if zoom is None or zoom.queries[0] >= length or zoom.keys[0] >= length:
        return None
    (first, end), (first_key, end_key) = zoom.queries, zoom.keys
    return Region((first, min(end, length)), (first_key, min(end_key, length)))
