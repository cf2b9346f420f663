"""`python -m analyses.effects.copying`: edit the copying layer of each shipped model; writes copying.md here.

Strings of 30 letters. The first table has the accuracy at the letters to copy: without edits; with lag 30 of the
copying layer knocked out, or lags 27 to 33; and with as many edges of that layer drawn at random (5 draws). The second
table has, for every layer, its copy_score and the effects of ablating it and of knocking out its cross-talk, on the
log-probability of the right letter.
"""

from pathlib import Path

import torch

import ssmlens
from ssmlens.edits import Ablate, KnockOut
from ssmlens.recorder.prompts import Prompts
from ssmlens.text_table import text_table

MODELS = {"copy-mamba2-default": 1, "copy-mamba2-mimetic": 3, "copy-mamba1-mimetic": 3}
LENGTH, COUNT, DRAWS = 30, 16, 5
PAGE = Path(__file__).parent / "copying.md"


def main() -> None:
    """Print both tables and write them."""
    knocked_out: list[tuple[str, ...]] = [
        (
            "model",
            "copying layer",
            "no edit",
            "lag 30",
            "lags 27 to 33",
            "as many edges as lag 30, at random",
            "as many as lags 27 to 33",
        )
    ]
    header = ("zero-ablated", "mean-ablated", "cross-talk out")
    columns = [("model", "layer", "copy_score", *header, *(f"{name}: accuracy" for name in header))]
    for name, layer in MODELS.items():
        model = ssmlens.load_model(name)
        prompts = Prompts.of_task("copy", model, length=LENGTH, count=COUNT)
        knocked_out.append(_knocked_out(name, model, prompts, layer))
        columns += _columns(name, model, prompts)
    text = "\n\n".join(
        [
            f"Accuracy at the letters to copy, strings of {LENGTH}, mean over {COUNT} strings (chance .04):",
            text_table(knocked_out, form="markdown"),
            "Change of the log-probability of the right letter (nats), and the accuracy that is left:",
            text_table(columns, form="markdown"),
        ]
    )
    print(text)
    PAGE.write_text(text + "\n", encoding="utf-8")


def _knocked_out(
    name: str, model: torch.nn.Module, prompts: Prompts, layer: int
) -> tuple[str, ...]:
    """A row of the first table."""
    tokens = max(prompts.length)
    one, band = KnockOut(layer=layer, lags=30), KnockOut(layer=layer, lags="27:34")
    random = [
        KnockOut(layer=layer, mask=_random(tokens, lags, seed))
        for lags in (1, 7)
        for seed in range(DRAWS)
    ]
    effects = ssmlens.effects(model, prompts, [one, band, *random], "accuracy")
    before, after = float(effects["before"].mean()), effects["after"].mean("prompt").values
    few, many = after[2 : 2 + DRAWS], after[2 + DRAWS :]
    return (
        name,
        str(layer),
        *(f"{value:.3f}" for value in (before, after[0], after[1])),
        f"{few.min():.3f} to {few.max():.3f}",
        f"{many.min():.3f} to {many.max():.3f}",
    )


def _random(tokens: int, lags: int, seed: int) -> torch.Tensor:
    """Select entries j < i at random: as many as there are in the band of `lags` lags around 30."""
    apart = torch.arange(tokens)[:, None] - torch.arange(tokens)
    band = (apart - 30).abs() <= lags // 2
    pairs = (apart > 0).nonzero()
    generator = torch.Generator().manual_seed(seed)
    chosen = pairs[torch.randperm(len(pairs), generator=generator)[: int(band.sum())]]
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    mask[chosen[:, 0], chosen[:, 1]] = True
    return mask


def _columns(name: str, model: torch.nn.Module, prompts: Prompts) -> list[tuple[str, ...]]:
    layers = range(4)
    edits = [
        *(Ablate(layer=layer) for layer in layers),
        *(Ablate(layer=layer, how="mean") for layer in layers),
        *(KnockOut(layer=layer, lags="1:") for layer in layers),
    ]
    of = {
        (measure, name): ssmlens.effects(model, prompts, edits, measure)[name].mean("prompt").values
        for measure, name in (("log_probability", "effect"), ("accuracy", "after"))
    }
    nats, left = (values.reshape(3, -1) for values in of.values())
    captured = ssmlens.capture(model, prompts, None)
    with captured:
        ranking = ssmlens.rank_layers(captured, by="copy_score")
    scores = {row.layer: row.scores["copy_score"] for row in ranking.rows}
    return [
        (
            name,
            str(layer),
            f"{scores[layer]:.3f}",
            *(f"{value:.2f}" for value in nats[:, layer]),
            *(f"{value:.3f}" for value in left[:, layer]),
        )
        for layer in layers
    ]


if __name__ == "__main__":
    main()
