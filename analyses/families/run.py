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
    """Print a row a family: its class, the version tested, the largest closure error."""
    for adapter in dict.fromkeys(adapters[path] for path in adapters):
        library = adapter.family.split()[0]
        if library == "mamba_ssm":
            continue
        version = importlib.metadata.version(library)
        print(f"| `{adapter.mixers[0]}` | {version} | {worst_closure(adapter):.1e} |", flush=True)


def worst_closure(adapter: Adapter) -> float:
    """The largest closure error over layers, batches, lengths and paddings."""
    torch.manual_seed(0)
    model = adapter.tiny_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    errors = []
    for batch, tokens in itertools.product((1, 3), (1, 2, 5, 64, 65)):
        ids = torch.randint(0, 32, (batch, tokens))
        for options in _options(model, ids):
            with torch.no_grad(), ssmlens.recording(model) as rec:
                model(ids, **options)
            errors += [r.closure_error for r in rec if r.call.site.adapter is adapter]
    return max(errors)


def _options(model: Any, ids: torch.Tensor) -> list[dict]:
    if "use_cache" not in inspect.signature(model.forward).parameters:
        return [{}]
    mask = torch.ones_like(ids)
    mask[0, : ids.shape[1] // 3] = 0
    return [{"use_cache": False}, {"use_cache": False, "attention_mask": mask}]


if __name__ == "__main__":
    main()
