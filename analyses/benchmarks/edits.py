"""`python -m analyses.benchmarks.edits [Mamba1|Mamba2|Mamba3|layers …]`: what an edit costs on mamba_ssm's kernels.

On a CUDA GPU, at 1024 tokens of one prompt, in float32 and bfloat16. A layer of each generation: whether edits that
change nothing change no bit, and the time of an edited layer in forwards of the same layer without edits. Then all 48
layers of mamba-370m's shape, ablated one at a time, against 48 whole forwards.
"""

import contextlib
import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import ssmlens
from analyses.benchmarks import cuda_timing, results
from ssmlens.edits import Ablate, Apply, KnockOut, Scale, Set, Swap
from ssmlens.edits.edit import Edit
from ssmlens.edits.resume import UneditedRun

_TOKENS, _D_MODEL, _MODEL_LAYERS = 1024, 1024, 48
_WIDE: dict[str, Any] = {"d_state": 128, "headdim": 64}
# mamba_ssm's module and class, and settings: mamba-370m's layer, mamba2-370m's, and one of Mamba-3 of that size.
LAYERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Mamba1": ("mamba_simple", "Mamba", {}),
    "Mamba2": ("mamba2", "Mamba2", _WIDE),
    "Mamba3": ("mamba3", "Mamba3", _WIDE),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Layers in the timed stack, and forwards in a row.
_STACK, _CALLS = 4, 10


@torch.no_grad()
def main() -> None:
    """Print a row for each layer and dtype, then one for all layers of a model; write results/edits.json."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU")
    parts = [*LAYERS, "layers"]
    names = sys.argv[1:] or parts
    if not set(names) <= set(parts):
        sys.exit(f"parts to choose from: {', '.join(parts)}")
    for part in names:
        for dtype in DTYPES:
            row = one_by_one(dtype) if part == "layers" else layer(part, dtype)
            row = {**_show(row), "machine": results.gpu_machine()}
            print(f"written: {results.keep_row('edits', row, ('layer', 'dtype'))}", flush=True)


def layer(generation: str, dtype: str) -> dict[str, Any]:
    """Time an edited layer in its own forwards, by turns; check that empty edits change no bit."""
    module, cls, settings = LAYERS[generation]
    make = getattr(importlib.import_module(f"mamba_ssm.modules.{module}"), cls)
    torch.manual_seed(0)
    stack = nn.Sequential(
        *(make(_D_MODEL, device="cuda", dtype=DTYPES[dtype], **settings) for _ in range(_STACK))
    ).eval()
    hidden = torch.randn(1, _TOKENS, _D_MODEL, device="cuda", dtype=DTYPES[dtype])
    with ssmlens.recording(stack) as other:
        stack(hidden.flip(1))
    same = {name: _is_unchanged(stack[:1], edit, hidden) for name, edit in _identities().items()}
    with contextlib.ExitStack() as contexts:
        things = {"forward": partial(stack, hidden)}
        for edit, edits in _edits(other).items():
            edited = copy.deepcopy(stack)
            contexts.enter_context(ssmlens.editing(edited, edits))
            things[edit] = partial(edited, hidden)
        for thing in things.values():
            for _ in range(3):
                thing()
        timings = cuda_timing.take_turns(things, calls=_CALLS)
        kernels = {edit: _kernels(thing) for edit, thing in things.items()}
    return {
        "layer": generation,
        "dtype": dtype,
        "forward_s": timings["forward"].median / _STACK,
        "unchanged": same,
        "ratios": {edit: t.ratio(timings["forward"]) for edit, t in timings.items()},
        "kernels": kernels,
    }


def one_by_one(dtype: str) -> dict[str, Any]:
    """Ablate each layer of mamba-370m's shape, from that layer on and in full forwards, against plain forwards."""
    model = _model(dtype)
    ids = torch.randint(0, 50277, (1, _TOKENS), device="cuda")

    def resumed() -> Iterator[Tensor]:
        unedited = UneditedRun(model, ids)
        for n in range(_MODEL_LAYERS):
            yield unedited.edited(Ablate(layer=n)).logits

    def whole() -> Iterator[Tensor]:
        for n in range(_MODEL_LAYERS):
            with ssmlens.editing(model, Ablate(layer=n)):
                logits = model(ids).logits
            yield logits

    def forwards() -> Iterator[Tensor]:
        for _ in range(_MODEL_LAYERS):
            yield model(ids).logits

    same = all(torch.equal(a, b) for a, b in zip(resumed(), whole(), strict=True))
    ways = {"forwards": forwards, "resumed": resumed, "whole": whole}
    things = {name: partial(_run_all, way) for name, way in ways.items()}
    timings = cuda_timing.take_turns(things, repetitions=5, calls=1)
    return {
        "layer": "all of mamba-370m's shape, ablated one at a time",
        "dtype": dtype,
        "forwards_s": timings["forwards"].median,
        "unchanged": {"resumed as whole": same},
        "ratios": {name: t.ratio(timings["forwards"]) for name, t in timings.items()},
    }


def _edits(other: Any) -> dict[str, list[Edit]]:
    """Return the timed edits; each edits every layer of the stack."""
    generator = torch.Generator("cuda").manual_seed(0)
    selected = torch.rand(_TOKENS, _TOKENS, generator=generator, device="cuda") < 0.01
    half = _TOKENS // 2
    kinds: dict[str, Callable[[int], Edit]] = {
        "ablation": lambda n: Ablate(layer=n),
        "delta scaled": lambda n: Scale(layer=n, what="delta", factor=0.5),
        "1 % of edges": lambda n: KnockOut(layer=n, mask=selected),
        "rectangle": lambda n: KnockOut(layer=n, queries=f"{half}:", keys=f":{half}"),
        "no cross-talk": lambda n: KnockOut(layer=n, lags="1:"),
        "state reset": lambda n: Set(layer=n, what="state", tokens=half, value=0.0),
        "B of one token": lambda n: Swap(layer=n, what="B", tokens=half, source=other),
    }
    return {name: [edit(n) for n in range(_STACK)] for name, edit in kinds.items()}


def _identities() -> dict[str, Edit]:
    nothing = torch.zeros(_TOKENS, _TOKENS, dtype=torch.bool, device="cuda")
    return {
        "delta times 1": Scale(layer=0, what="delta", factor=1.0),
        "no edge": KnockOut(layer=0, mask=nothing),
        "y as it is": Apply(layer=0, what="scan_output", function=lambda y: y),
        "output as it is": Scale(layer=0, what="output", factor=1.0),
    }


def _is_unchanged(model: nn.Module, edit: Edit, hidden: Tensor) -> bool:
    plain = model(hidden)
    with ssmlens.editing(model, edit):
        return bool(torch.equal(model(hidden), plain))


def _kernels(thing: Callable[[], object]) -> dict[str, float]:
    """Return the GPU's busy microseconds and launches per layer."""
    shares: list[dict[str, Any]] = cuda_timing.kernel_shares(thing, calls=2)
    return {
        name: round(sum(float(share[name]) for share in shares) / _STACK, 1)
        for name in ("us", "launches")
    }


def _model(dtype: str) -> Any:
    config: Any = importlib.import_module("mamba_ssm.models.config_mamba")
    models: Any = importlib.import_module("mamba_ssm.models.mixer_seq_simple")
    torch.manual_seed(0)
    shape = config.MambaConfig(d_model=_D_MODEL, n_layer=_MODEL_LAYERS, vocab_size=50277)
    return models.MambaLMHeadModel(shape, device="cuda", dtype=DTYPES[dtype]).eval()


def _run_all(way: Callable[[], Iterator[Tensor]]) -> None:
    for _ in way():
        pass


def _show(row: dict[str, Any]) -> dict[str, Any]:
    one = next(value for name, value in row.items() if name.endswith("_s"))
    print(f"\n{row['layer']}, {row['dtype']}: {1e3 * one:.3f} ms unedited")
    print(
        "  unchanged:",
        ", ".join(f"{k} {'yes' if v else 'NO'}" for k, v in row["unchanged"].items()),
    )
    for name, ratio in row["ratios"].items():
        busy = row.get("kernels", {}).get(name)
        of_gpu = f"   GPU busy {busy['us']:.0f} µs, {busy['launches']:.0f} launches" if busy else ""
        print(f"  {name:<16}{ratio:6.2f}{of_gpu}", flush=True)
    return row


if __name__ == "__main__":
    main()
