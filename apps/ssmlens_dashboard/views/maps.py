"""The maps that a reader may look at next."""

from ssmlens_dashboard.address import Address
from ssmlens_dashboard.scene import Scene

_AHEAD = 4096
"""Longest prompt, in tokens, whose matrices are prepared in advance: 64 MiB each."""


def near(scene: Scene) -> list[Address]:
    """List the current view and the two an arrow key away: neighbouring channels, else neighbouring layers.

    The list is empty for a prompt whose matrices would fill the cache.
    """
    at, layers = scene.address, scene.capture.layers
    if scene.capture.length[at.prompt] > _AHEAD:
        return []
    if at.view == "channel":
        places = (at.channel + 1, at.channel - 1)
        return [at, *(at.replace(channel=n) for n in places if 0 <= n < scene.channels)]
    position = layers.index(scene.layer.index)
    return [
        at,
        *(
            at.replace(layer=layers[n])
            for n in (position + 1, position - 1)
            if 0 <= n < len(layers)
        ),
    ]
