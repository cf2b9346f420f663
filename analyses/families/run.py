"""Closure of every family that runs on a CPU: `python -m analyses.families.run [WORD]`, under a minute.

Each family gets a small random float32 model from its own configuration class. Noise is added to its weights, so that
mistakes show. Batches of 1 and 3, lengths 1, 2, 5, 64 and 65; models that accept a mask also run with padding on the
left. It prints the table of README.md, or only its rows with a word in them. If flash-linear-attention is installed and
TRITON_INTERPRET is 1, its layers are included; they run their own kernels, which takes minutes.
"""

import importlib.metadata
import importlib.util
import inspect
import itertools
import sys
from typing import Any

import torch

import ssmlens
from analyses.families import interpreted
from ssmlens.adapters.adapter import Adapter, adapters


def main() -> None:
    """Print one row per family: class, tested version, largest closure error and map_closure, and its rounding."""
    word = sys.argv[1] if sys.argv[1:] else ""
    kernels = importlib.util.find_spec("fla") is not None and interpreted.prepare()
    print("| mixer | version | closure_error | map_closure | of rounding |\n" + "|---" * 5 + "|")
    for adapter in dict.fromkeys(adapters[path] for path in adapters):
        library = adapter.family.split()[0]
        if library == "mamba_ssm" or (library == "fla" and not kernels):
            continue
        if word not in adapter.mixers[0]:
            continue
        version = importlib.metadata.version("fla-core" if library == "fla" else library)
        errors = " | ".join(f"{error:.1e}" for error in worst_closures(adapter))
        print(f"| `{adapter.mixers[0]}` | {version} | {errors} |", flush=True)


def worst_closures(adapter: Adapter) -> tuple[float, float, float]:
    """The largest closure error, the largest map_closure, and the part of it that rounding of the output may cause.

    The largest is over layers, batches, lengths and paddings.
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
