"""`python -m analyses.effects.full_size`: time effects and attribution of a model of mamba-370m's shape on a GPU.

Zero-ablation and cross-talk of all 48 layers on 8 prompts of 256 tokens, and one logit at 1024 tokens split by layers,
heads and source tokens. It writes seconds, after a warm-up of two layers, and peak memory above the model to
full_size.json beside this file.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ssmlens
from analyses.benchmarks import results
from analyses.full_size.models import MODELS
from ssmlens.edits import Ablate, KnockOut
from ssmlens.recorder.prompts import Prompts

LAYERS, PROMPTS, LENGTH, LONG = 48, 8, 128, 1024
FILE = Path(__file__).parent / "full_size.json"


def main() -> None:
    """Measure, print, write."""
    torch.manual_seed(0)
    model = MODELS["mamba-370m"]("cuda")
    ids = torch.randint(0, 50277, (PROMPTS, LENGTH))
    prompts = Prompts.repeated(ids)
    long = torch.randint(0, 50277, (1, LONG))
    kinds: dict[str, Callable[[int], Any]] = {
        "zero-ablation": lambda layer: Ablate(layer=layer),
        "cross-talk": lambda layer: KnockOut(layer=layer, lags="1:"),
    }
    rows = {}
    for name, kind in kinds.items():
        ssmlens.effects(model, prompts, [kind(0), kind(47)])
        edits = [kind(layer) for layer in range(LAYERS)]
        rows[name] = _measured(lambda edits=edits: ssmlens.effects(model, prompts, edits))
    ssmlens.attribute(model, long[:, :64])
    measurements: list[Any] = []
    rows["attribution"] = _measured(lambda: measurements.append(ssmlens.attribute(model, long)))
    rows["attribution"]["closure"] = float(measurements[0].attrs["closure"])
    machine = results.gpu_machine()
    FILE.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    for name, row in rows.items():
        print(name, row)


def _measured(run: Callable[[], Any]) -> dict[str, float]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    return {"seconds": round(seconds, 2), "peak_GiB": round(peak, 2)}


if __name__ == "__main__":
    main()
