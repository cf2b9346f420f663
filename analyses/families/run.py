"""Closure of every family that runs on a CPU: `python -m analyses.families.run`, under a minute.

A small random model from each family's own configuration class, with weights in which mistakes show; float32; batches
of 1 and 3, lengths 1, 2, 5, 64 and 65; transformers' also with padding on the left. Prints the table of README.md.
"""

import importlib.metadata
import inspect
import itertools
from typing import Any

import torch

import ssmlens
from ssmlens.adapters.adapter import Adapter, adapters


def main() -> None:
    """Print each family: its class, the version tested, the largest closure error and map_closure, its rounding."""
    print("| mixer | version | closure_error | map_closure | of rounding |\n" + "|---" * 5 + "|")
    for adapter in dict.fromkeys(adapters[path] for path in adapters):
        library = adapter.family.split()[0]
        if library == "mamba_ssm":
            continue
        version = importlib.metadata.version(library)
        errors = " | ".join(f"{error:.1e}" for error in worst_closures(adapter))
        print(f"| `{adapter.mixers[0]}` | {version} | {errors} |", flush=True)


def worst_closures(adapter: Adapter) -> tuple[float, float, float]:
    """The largest closure error, the largest map_closure, and what of that can be rounding of the output alone.

    Over layers, batches, lengths and paddings.
    """
    torch.manual_seed(0)
    model = adapter.tiny_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    records = []
    for batch, tokens in itertools.product((1, 3), (1, 2, 5, 64, 65)):
        ids = torch.randint(0, 32, (batch, tokens))
        for options in _options(model, ids):
            with torch.no_grad(), ssmlens.recording(model) as rec:
                model(ids, **options)
            records += [r for r in rec if r.call.site.adapter is adapter]
    errors, of_map, rounding = (
        torch.cat([getattr(r.closure, name) for r in records])
        for name in ("error", "map_error", "map_rounding")
    )
    return float(errors.max()), float(of_map.max()), float(rounding[of_map.argmax()])


def _options(model: Any, ids: torch.Tensor) -> list[dict]:
    if "use_cache" not in inspect.signature(model.forward).parameters:
        return [{}]
    mask = torch.ones_like(ids)
    mask[0, : ids.shape[1] // 3] = 0
    return [{"use_cache": False}, {"use_cache": False, "attention_mask": mask}]


if __name__ == "__main__":
    main()
