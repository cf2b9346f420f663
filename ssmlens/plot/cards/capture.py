"""The card of a capture: its facts, and each layer's map on the first prompt."""

from ssmlens.notebook import CARDS
from ssmlens.plot.cards.template import picture, render
from ssmlens.plot.sections import MARKS, ranges
from ssmlens.store import Capture

MOST_LAYERS = 24
"""Most layers with a picture; the first ones are taken."""

_FACTS = ("model", "dtype", "backend", "revision")


@CARDS.register("Capture")
def capture_card(capture: Capture) -> str:
    """Render a capture as HTML, some kilobytes per layer."""
    values = [(name, str(capture.attributes.get(name) or "")) for name in _FACTS]
    lengths = sorted({int(n) for n in capture.length})
    facts = [
        *((name, value) for name, value in values if value),
        ("layers", f"{ranges(capture.layers)} of {capture.n_layer}"),
        ("prompts", f"{capture.prompts} of {'/'.join(map(str, lengths))} tokens"),
    ]
    layers = [capture.layer(index) for index in capture.layers[:MOST_LAYERS]]
    pictures = [
        picture(layer, "map", f"{layer.index} {MARKS[layer.verdict.answer][0][0]}")
        for layer in layers
        if layer.finite
    ]
    left = len(capture.layers) - len(pictures)
    note = f"{left} layers have no picture; " * bool(left)
    note += "capture.layer(i) shows one, capture.to_xarray() its arrays"
    return render(str(capture.path.name), facts, pictures, side=64, note=note)
