"""An address with its capture open: all that a page needs to draw."""

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
    """The state that a page draws, as returned by `resolve`: every field of `address` is valid.

    Attributes:
        address: The address, valid for the open capture.
        library: All captures, runs and attributions.
        notes: One line for each part of the URL that cannot be shown.
    """

    address: Address
    library: Library
    notes: tuple[str, ...] = ()

    @cached_property
    def capture(self) -> Capture:
        """The open capture. Raises SsmlensError with a message for the reader."""
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
        """Number of heads of the layer with a map of their own; 0 for softmax attention."""
        return heads_of(self.layer)

    @property
    def selection(self) -> Selection:
        """The part of the layer that the address selects, for `ssmlens.plot`; results are cached."""
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
    """The largest number of heads with a map of their own in any layer."""
    return max(heads_of(capture.layer(index)) for index in capture.layers)


def resolve(address: Address, library: Library, notes: tuple[str, ...] = ()) -> Scene:
    """Open the capture of an address. Replace a missing layer, prompt, token or channel by a valid one, with a note.

    Raises:
        SsmlensError: The capture cannot be shown; the message says why and what to do.
    """
    lines = list(notes)
    known = {entry.id for entry in library.entries("capture")}
    if address.capture is not None and address.capture not in known:
        lines.append("the capture in this address was not found; the first one is shown")
        address = address.replace(capture=None)
    address = address.replace(capture=library.entry(address.capture).id)
    capture = library.capture(address.capture)

    layer = address.layer
    if layer not in capture.layers:
        if layer is not None:
            lines.append(f"layer {layer} was not captured; layer {capture.layers[0]} is shown")
        layer = capture.layers[0]
    prompt = address.prompt
    if prompt >= capture.prompts:
        lines.append(f"there is no prompt {prompt}; prompt 0 is shown")
        prompt = 0
    address = address.replace(layer=layer, prompt=prompt)

    opened = capture.layer(layer)
    channels, length = heads_of(opened), int(capture.length[prompt])
    view, channel = address.view, address.channel
    if view not in kinds_of(opened):
        lines.append(f"layer {layer} has no {view}; its map is shown")
        view = "map"
    if channels and channel >= channels:
        lines.append(f"layer {layer} has channels 0 to {channels - 1}; channel 0 is shown")
        channel = 0
    query = address.query
    if query is not None and query >= length:
        lines.append(f"the prompt has {length} tokens; there is no query {query}")
        query = None
    zoom = _within(address.zoom, length)
    if zoom is None and address.zoom is not None:
        lines.append(f"the prompt has {length} tokens; all are shown")
    return Scene(
        address.replace(view=view, channel=channel, query=query, zoom=zoom), library, tuple(lines)
    )


def _within(zoom: Region | None, length: int) -> Region | None:
    """Cut a rectangle to the prompt's tokens; return None if nothing is left."""
    if zoom is None or zoom.queries[0] >= length or zoom.keys[0] >= length:
        return None
    (first, end), (first_key, end_key) = zoom.queries, zoom.keys
    return Region((first, min(end, length)), (first_key, min(end_key, length)))
