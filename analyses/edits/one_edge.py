"""`python -m analyses.edits.one_edge`: knock out one edge of the copying layer at a time.

A string of 20 letters, layer 3 of copy-mamba1-mimetic, the query at token 30. The right next letter is the one at token
10. For every key, it knocks out the edge from this key to the query alone and reads the right letter's logit. It draws
data/screenshots/one-edge.svg.
"""

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

import ssmlens
from ssmlens.edits import KnockOut
from ssmlens.recorder.prompts import Prompts

LAYER, QUERY, KEY, LETTERS, STRINGS = 3, 30, 10, 20, 12
FIGURE = Path(__file__).parents[2] / "data" / "screenshots" / "one-edge.svg"


def main() -> None:
    """Print the logits of twelve strings, and draw those of the first."""
    model = ssmlens.load_model("copy-mamba1-mimetic")
    drawn = Prompts.of_task("copy", model, length=LETTERS, count=STRINGS)
    target = [
        [KEY if position == QUERY else -1 for position in range(len(row))] for row in drawn.tokens
    ]
    cuts = [KnockOut(layer=LAYER, queries=QUERY, keys=key) for key in range(QUERY + 1)]
    results = ssmlens.effects(model, Prompts(drawn.tokens, target=target), cuts, "logit")
    before, after = results["before"].values, results["after"].values
    others = abs(results["effect"].values)
    others[KEY] = 0
    for name, values in (
        ("logit of the right letter", before),
        ("without the edge from its place", after[KEY]),
        ("most that any other edge moves it", others.max(0)),
    ):
        low, middle, high = np.percentile(values, [0, 50, 100])
        print(f"{name}: {middle:.1f} (median of {STRINGS} strings; {low:.1f} to {high:.1f})")
    tokenizer: Any = model.tokenizer
    letters = tokenizer.token_strings(drawn.tokens[0])[: QUERY + 1]
    _draw(letters, after[:, 0].tolist(), float(before[0]))
    print(f"written: {FIGURE.name}")


def _draw(letters: list[str], after: list[float], before: float) -> None:
    colours = ["#c2410c" if key == KEY else "#94a3b8" for key in range(len(letters))]
    figure = go.Figure(go.Bar(y=after, marker_color=colours))
    figure.add_hline(y=before, line_dash="dot", line_color="#334155", annotation_text="no edge cut")
    figure.update_layout(
        title=f"The logit of “{letters[KEY]}”, right after token {QUERY}, with one edge of layer {LAYER} cut",
        xaxis={
            "tickvals": list(range(len(letters))),
            "ticktext": letters,
            "title": "the key whose edge to the query is cut",
        },
        yaxis_title="logit",
        template="plotly_white",
        width=900,
        height=320,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        font_family="sans-serif",
    )
    figure.write_image(FIGURE)


if __name__ == "__main__":
    main()
