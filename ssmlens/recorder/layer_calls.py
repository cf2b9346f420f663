"""Check which layers with hooks or adapters a mixer's forward calls: a fused forward only reads their weights."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from ssmlens.models.submodules import hooked_layers, note_call


class LayerCalls:
    """Watches one forward of a mixer, from construction to `close`.

    Args:
        mixer: The mixer.
    """

    def __init__(self, mixer: nn.Module):
        self._layers = dict(hooked_layers(mixer))
        self._called: set[str] = set()
        self._handles = [
            layer.register_forward_pre_hook(partial(self._note, name), prepend=True)
            for name, layer in self._layers.items()
        ]

    def stop(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def close(self) -> Iterator[str]:
        """Stop watching, note the calls in `models.submodules`, and return the names of layers without a call."""
        self.stop()
        for name, layer in self._layers.items():
            note_call(layer, name in self._called)
        return (name for name in self._layers if name not in self._called)

    def _note(self, name: str, *_: Any) -> None:
        self._called.add(name)
