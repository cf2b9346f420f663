"""Which token a copied letter comes from: `python -m analyses.effects.attribution`, about ten minutes on a CPU.

Four strings of 30 letters per model. At each letter of the answer, it splits the right letter's logit by source token,
and also that logit minus the logit of the likeliest other letter, which removes terms that raise all letters equally.
Sources are the tokens of x, after the convolution, or those of the convolution's input if it is folded in. For each
shipped model it prints the share of letters whose largest source is the token to copy.
"""

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr

import ssmlens
from ssmlens.models.shipped import shipped_names
from ssmlens.recorder.prompts import from_named_task

LENGTH, STRINGS = 30, 4
NEAR = 3  # tokens beside the right one
HEADER = ("model", "letters right", "logit", "convolution", "right token", f"within {NEAR}")


def main() -> None:
    """Print the table, and the distances from the right token to the largest source."""
    print("| " + " | ".join((*HEADER, "largest closure")) + " |\n" + "|---" * 7 + "|")
    distances = []
    for name in shipped_names():
        model = ssmlens.load_model(name)
        for other in (False, True):
            for taps in (False, True):
                rows = list(sources(model, other, taps))
                after, right, closure = (np.array(part) for part in zip(*rows, strict=True))
                what = ("less the next" if other else "letter", "folded in" if taps else "left out")
                shares = [f"{share.mean():.3f}" for share in (after == 0, abs(after) <= NEAR)]
                row = (name, f"{right.mean():.3f}", *what, *shares, f"{closure.max():.0e}")
                print("| " + " | ".join(row) + " |", flush=True)
                counts = collections.Counter(after.tolist()).most_common(5)
                distances.append((name, *what, ", ".join(f"{at:+d}: {n}" for at, n in counts)))
    print("\ntokens from the right one to the largest source, and how often")
    for row in distances:
        print(" | ".join(row))


def sources(model: Any, other: bool, taps: bool) -> Iterator[tuple[int, bool, float]]:
    """For each letter: tokens from the right one to the largest source, whether the answer is right, and closure."""
    prompts = from_named_task("copy", model, {"length": LENGTH, "count": STRINGS})
    for tokens, target in zip(prompts.tokens, prompts.target, strict=True):
        assert target is not None
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0]
        for position, wanted in enumerate(target):
            if wanted < 0:
                continue
            letter = tokens[wanted]
            first, second = logits[position].topk(2).indices.tolist()
            token = (letter, second if first == letter else first) if other else letter
            terms = ssmlens.attribute(model, tokens, position, token, taps=taps)
            after = int(by_source(terms).argmax()) - wanted
            yield after, first == letter, terms.attrs["closure"]


def by_source(terms: xr.Dataset) -> np.ndarray:
    """Each source token's contribution, summed over layers. The embedding counts for the token at the position."""
    summed = terms["by_source"].sum("mixer").values
    summed[terms.attrs["position"]] += float(terms["value"].sel(term="embedding"))
    return summed


if __name__ == "__main__":
    main()
