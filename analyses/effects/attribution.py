"""Which token a copied letter comes from: `python -m analyses.effects.attribution`, a few minutes on a CPU.

Strings of 30 letters, four a model. At each letter of the answer the right letter's logit is split by source token,
before the convolution is folded in (the tokens of x) and with it (the tokens of its input). Prints, for each shipped
model, for what share of the letters the token with the largest term is the one to copy: of the terms summed over
layers, and of the single terms of a layer and a token.
"""

import collections

import numpy as np
import torch

import ssmlens
from ssmlens.models.shipped import shipped_names
from ssmlens.recorder.prompts import from_named_task

LENGTH, STRINGS = 30, 4
NEAR = 3  # tokens beside the right one


def main() -> None:
    """Print a row a model, and where the largest source stands otherwise."""
    print(
        "| model | letters right | convolution | largest source is right | within "
        f"{NEAR} tokens | largest of a layer is right | largest closure |"
    )
    print("|---|---|---|---|---|---|---|")
    beside = {}
    for name in shipped_names():
        model = ssmlens.load_model(name)
        for taps in (False, True):
            found = sources(model, taps)
            summed, single, right, closure = (np.array(part) for part in zip(*found, strict=True))
            columns = [
                name,
                f"{right.mean():.3f}",
                "folded in" if taps else "left out",
                f"{(summed == 0).mean():.3f}",
                f"{(abs(summed) <= NEAR).mean():.3f}",
                f"{(single == 0).mean():.3f}",
                f"{closure.max():.0e}",
            ]
            print("| " + " | ".join(columns) + " |", flush=True)
            beside[name, taps] = collections.Counter(summed.tolist()).most_common(6)
    print("\ntokens from the right one to the one with the largest term, and how often:")
    for (name, taps), counts in beside.items():
        told = ", ".join(f"{offset:+d}: {count}" for offset, count in counts)
        print(f"{name}, convolution {'folded in' if taps else 'left out'}: {told}")


def sources(model: torch.nn.Module, taps: bool) -> list[tuple[int, int, bool, float]]:
    """A row a letter: how far after the right token the largest source stands, of all layers and of single ones.

    And whether the model says the right letter, and the closure.
    """
    prompts = from_named_task("copy", model, {"length": LENGTH, "count": STRINGS})
    rows = []
    for tokens, target in zip(prompts.tokens, prompts.target, strict=True):
        assert target is not None
        with torch.no_grad():
            said = model(torch.tensor([tokens])).logits[0].argmax(1).tolist()
        for position, wanted in enumerate(target):
            if wanted < 0:
                continue
            letter = tokens[wanted]
            found = ssmlens.attribute(model, tokens, position, letter, taps=taps)
            by_layer = found["by_source"].values
            summed = by_layer.sum(0)
            summed[position] += float(found["value"].sel(term="embedding"))
            single = int(by_layer.argmax()) % by_layer.shape[1]
            offsets = int(summed.argmax()) - wanted, single - wanted
            rows.append((*offsets, said[position] == letter, found.attrs["closure"]))
    return rows


if __name__ == "__main__":
    main()
