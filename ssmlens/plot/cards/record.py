"""The card of a layer's record from `recording`: its maps on the first sequence and its closure."""

from typing import Any

from ssmlens.notebook import CARDS
from ssmlens.plot.cards.template import LONGEST, picture, render
from ssmlens.plot.layer_figures import MATRICES
from ssmlens.plot.recorded import RecordedLayer
from ssmlens.plot.selection import maps_of


@CARDS.register("LayerRecord")
def record_card(record: Any) -> str:
    """Render a record as HTML; for sequences too long for a picture only the closure is computed."""
    layer, operands = RecordedLayer(record), record.operands
    long = operands.tokens > LONGEST
    kinds = [] if long else maps_of(layer)
    facts = [
        ("mixer", type(record.call.site.module).__name__),
        ("operator", operands.kind),
        ("closure_error", f"{record.closure_error:.2g}"),
        ("map_closure", f"{record.map_closure:.2g}"),
        ("heads", str(operands.heads)),
        ("input", f"{operands.batch} sequences of {operands.tokens} tokens"),
    ]
    pictures = [picture(layer, kind, MATRICES[kind]) for kind in kinds]
    note = "ssmlens.plot.map(record, sequence) draws it"
    return render(f"Layer {layer.index}, recorded", facts, pictures, note=note)
