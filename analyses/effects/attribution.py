"""Which token a copied letter comes from: `python -m analyses.effects.attribution`, some ten minutes on a CPU.

Strings of 30 letters, four a model. At each letter of the answer the right letter's logit is split by source token, and
so is that logit less the likeliest other one's, which leaves out what raises all letters alike. Sources are the tokens
of x, after the convolution, or, where it is folded in, those of its input. Prints, for each shipped model, for what
share of the letters the token with the largest sum of terms is the one to copy.
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
    """Print a table, and where the largest source stands otherwise."""
    print("| " + " | ".join((*HEADER, "largest closure")) + " |\n" + "|---" * 7 + "|")
    beside = []
    for name in shipped_names():
        model = ssmlens.load_model(name)
        for other in (False, True):
            for taps in (False, True):
                found = list(sources(model, other, taps))
                after, right, closure = (np.array(part) for part in zip(*found, strict=True))
                what = ("less the next" if other else "letter", "folded in" if taps else "left out")
                shares = [f"{share.mean():.3f}" for share in (after == 0, abs(after) <= NEAR)]
                row = (name, f"{right.mean():.3f}", *what, *shares, f"{closure.max():.0e}")
                print("| " + " | ".join(row) + " |", flush=True)
                counts = collections.Counter(after.tolist()).most_common(5)
                beside.append((name, *what, ", ".join(f"{at:+d}: {n}" for at, n in counts)))
    print("\ntokens from the right one to the largest source, and how often")
    for row in beside:
        print(" | ".join(row))


def sources(model: Any, other: bool, taps: bool) -> Iterator[tuple[int, bool, float]]:
    """A row a letter: how far after the right token the largest source stands, whether the model says it, closure."""
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
            found = ssmlens.attribute(model, tokens, position, token, taps=taps)
            after = int(by_source(found).argmax()) - wanted
            yield after, first == letter, found.attrs["closure"]


def by_source(found: xr.Dataset) -> np.ndarray:
    """What each token adds, over all layers; the embedding stands at the position."""
    summed = found["by_source"].sum("mixer").values
    summed[found.attrs["position"]] += float(found["value"].sel(term="embedding"))
    return summed


if __name__ == "__main__":
    main()
