"""Measure typeseg's trained blocks on a page of HTML, CSS and SQL: closure against its own scan, and look-ahead.

python -m analyses.typeseg.ahead
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import ssmlens
from ssmlens.scores import compute

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # as where ssmlens_typeseg is installed

SCORES = ("mask_ones", "receptive_field", "diagonal_sharpness")
SHOWN = 3


def main() -> None:
    """Write results.json, the figure, and print the table of the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    text = (HERE / "page.html").read_text(encoding="utf-8")
    results = measure(text, out / "map.png")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


def measure(text: str, figure: Path | None = None) -> dict:
    """Every number of the README. Also writes the figure to `figure`, if given."""
    import ssmlens_typeseg  # noqa: F401, registers the family

    model: Any = ssmlens.load_model(HERE / "model")
    ids = model.tokenizer.encode(text)
    results = {"bytes": len(ids), "logits": logits_apart(model, ids), "blocks": []}
    captured = ssmlens.capture(model, [text], None)  # a temporary one
    with captured:
        scores = compute(captured, SCORES)
        for index in captured.layers:
            layer = captured.layer(index)
            row = ahead(layer.attention_map()) | {
                "closure_error": float(layer.read("closure_error")[0]),
                "map_closure": float(layer.read("map_closure")[0]),
                "map_error": float(layer.read("map_error")[0]),
                "believed": layer.verdict.answer,
            }
            results["blocks"].append({"block": index, **row, **scores_of(scores, index)})
        if figure is not None:
            ssmlens.plot.map(captured.layer(SHOWN), scale="symlog").write_image(figure)
    return results


def logits_apart(model: torch.nn.Module, ids: list[int]) -> float:
    """Largest difference of a logit from typeseg's own forward, as a share of the largest logit."""
    from typeseg import _numpy_backend, _runtime

    own = _numpy_backend.mamba_forward(_runtime._weights("mamba_al.npz"), np.array(ids))
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0].numpy()
    return float(np.abs(logits - own).max() / np.abs(own).max())


def ahead(attention_map: np.ndarray) -> dict[str, float]:
    """Shares of |map| before the byte, on it and after it, and of the rows that look ahead more than back."""
    size = np.abs(attention_map).astype(np.float64)
    back, forth = np.tril(size, -1).sum(1), np.triu(size, 1).sum(1)
    total = size.sum()
    return {
        "back": float(back.sum() / total),
        "own": float(np.trace(size) / total),
        "ahead": float(forth.sum() / total),
        "rows_ahead": float((forth > back).mean()),
    }


def scores_of(scores: xr.Dataset, index: int) -> dict[str, float]:
    """A layer's scores on the page."""
    of = scores.sel(layer=index).isel(prompt=0)
    return {name: float(of[name]) for name in SCORES} | {"sharpest_lag": float(of.sharpest_lag)}


def table(results: dict) -> str:
    """The README's table."""
    head = "| block | closure | map closure | back | own byte | ahead | rows that look ahead more | reach (bytes) |"
    lines = [head, "|" + "---|" * 8]
    for row in results["blocks"]:
        shares = " | ".join(f"{row[name]:.0%}" for name in ("back", "own", "ahead", "rows_ahead"))
        lines.append(
            f"| {row['block']} | {row['closure_error']:.1e} | {row['map_closure']:.1e} | {shares} "
            f"| {row['receptive_field']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
