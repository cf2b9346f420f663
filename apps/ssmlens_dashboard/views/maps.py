"""What a reader of a map may look at next."""

from ssmlens_dashboard.address import Address
from ssmlens_dashboard.scene import Scene

_AHEAD = 4096
"""Tokens of a prompt up to which matrices are drawn before they are asked for: 64 MiB each."""


def near(scene: Scene) -> list[Address]:
    """What is shown and what is an arrow away: the channels beside a channel, else the layers beside a layer.

    Nothing for a prompt whose matrices would crowd the cache.
    """
    at, layers = scene.address, scene.capture.layers
    if scene.capture.length[at.prompt] > _AHEAD:
        return []
    if at.view == "channel":
        places = (at.channel + 1, at.channel - 1)
        return [at, *(at.but(channel=n) for n in places if 0 <= n < scene.channels)]
    here = layers.index(scene.layer.index)
    return [at, *(at.but(layer=layers[n]) for n in (here + 1, here - 1) if 0 <= n < len(layers))]
