"""The card of a layer of a capture: its maps on the first prompt and their verdict."""

from ssmlens.notebook import CARDS
from ssmlens.plot.cards.template import picture, render
from ssmlens.plot.layer_figures import MATRICES
from ssmlens.plot.selection import maps_of
from ssmlens.store import Layer


@CARDS.register("Layer")
def layer_card(layer: Layer) -> str:
    """Render a layer as HTML."""
    verdict = layer.verdict
    answer = verdict.answer + (f": {verdict.reason}" if verdict.reason else "")
    facts = [("mixer", str(layer.attributes.get("mixer", ""))), ("verdict", answer)]
    facts += [
        (name, f"{error:.2g} ({verdict.tolerances[name]:.0e} allowed)")
        for name, error in verdict.errors.items()
    ]
    facts += [("agreement of heads", f"{verdict.agreement:.2g}")] * (
        verdict.agreement == verdict.agreement
    )
    facts += [("heads", str(layer.heads))] * bool(layer.heads)
    kinds = maps_of(layer) if layer.finite else []
    pictures = [picture(layer, kind, MATRICES[kind]) for kind in kinds]
    note = f"ssmlens.plot.map(layer, prompt) draws it; prompt 0 has {layer.length(0)} tokens"
    return render(f"Layer {layer.index}", facts, pictures, note=note)
