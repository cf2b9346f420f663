"""`python -m analyses.fused_kernels.delta`: close the delta rule on a GPU, and what the maps of one real layer cost.

It needs a CUDA GPU, transformers 5.23 and flash-linear-attention, whose kernels transformers then calls. It writes
`results/delta-<gpu>.json` and prints a line a row. What came out is in README.md beside this file.
"""

import argparse
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ssmlens
from analyses.benchmarks.cuda_timing import kernel_shares, peak, take_turns
from ssmlens import names
from ssmlens.adapters.adapter import Adapter, adapters
from ssmlens.adapters.blocks import find_blocks
from ssmlens.scan.operator import Operator

HERE = Path(__file__).parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LENGTHS = ((1, 1), (3, 65), (2, 257), (1, 1000))
# Heads as wide as in real models, for which the kernels are written.
WIDE = {"linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_head_dim": 64}
REAL_TOKENS = 4096


def families() -> Iterator[dict[str, object]]:
    """Return a row per family: the largest closure and map errors, by dtype, over lengths and padding."""
    for family, adapter in {adapters[path].family: adapters[path] for path in adapters}.items():
        if adapter.block_kind != names.DELTA_RULE or "transformers" not in family:
            continue
        row: dict[str, object] = {"family": family}
        for name, dtype in DTYPES.items():
            try:
                model = _wide(adapter).eval().to("cuda", dtype)
                row[f"closure {name}"] = max(_closures(model))
                row["kernels"] = _kernels(partial(_tokens, model))
            except Exception as error:  # the table says what happened to each family
                row[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        yield row


def real_layer() -> Iterator[dict[str, object]]:
    """One layer of Qwen3-Next-80B's shape at 4096 tokens: closure, errors, seconds and memory of its maps."""
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    for name, dtype in DTYPES.items():
        torch.manual_seed(0)
        mixer = Qwen3NextGatedDeltaNet(Qwen3NextConfig(), layer_idx=0).eval().to("cuda", dtype)
        hidden = torch.randn(1, REAL_TOKENS, 2048, device="cuda", dtype=dtype)
        with torch.no_grad(), ssmlens.recording(nn.Sequential(mixer)) as rec:
            nn.Sequential(mixer)(hidden)
        record = rec[0]
        row: dict[str, object] = {
            "layer": "Qwen3-Next, 16 key heads and 32 value heads of 128",
            "tokens": REAL_TOKENS,
            "dtype": name,
            "kernels": _kernels(partial(_forward, mixer, hidden)),
            "closure": record.closure_error,
        }
        operands, x = record.operands.bare(), record.operands.x
        assert x is not None
        vector = torch.randn(1, REAL_TOKENS, device="cuda")
        maps = partial(_maps, operands)
        seen, whole = operands.probe(vector), maps()
        for n, kind in enumerate(operands.maps):
            wanted = seen[kind]
            got = (whole[:, n] @ vector.unsqueeze(2)).squeeze(2)
            row[names.MAP_ERRORS[kind]] = float((got - wanted).norm() / wanted.norm())
        del whole
        things: dict[str, Callable[[], object]] = {
            "maps": maps,
            "products": partial(_products, operands),
            "recurrence": partial(operands, x.float()),
            "agreement": operands.agreement,
            "forward": partial(_forward, mixer, hidden),
        }
        timings = take_turns(things, repetitions=7, calls=2)
        row |= {f"{what}_s": timing.median for what, timing in timings.items()}
        row["maps_over_products"] = timings["maps"].median / timings["products"].median
        row |= {f"{what}_peak_MiB": peak(thing) for what, thing in things.items()}
        row["one_map_MiB"] = REAL_TOKENS**2 * 4 / 2**20
        yield row


def _wide(adapter: Adapter) -> nn.Module:
    """The family's tiny model with heads of 64."""
    torch.manual_seed(0)
    tiny = adapter.tiny_model()
    config = tiny.config
    text = getattr(config, "text_config", config)
    for field, size in WIDE.items():
        if hasattr(text, field):
            setattr(text, field, size)
    wide: Any = type(tiny)
    return wide._from_config(config, attn_implementation="eager")


def _closures(model: nn.Module) -> Iterator[float]:
    delta = [b.layer for b in find_blocks(model) if b.kind == names.DELTA_RULE]
    for batch, tokens in LENGTHS:
        ids = torch.randint(2, 32, (batch, tokens), device="cuda")
        mask = torch.ones_like(ids)
        mask[0, : tokens // 8] = 0
        for padding in (None, mask):
            with torch.no_grad(), ssmlens.recording(model, layers=delta) as rec:
                model(ids, attention_mask=padding, use_cache=False)
            yield from (record.closure_error for record in rec)


def _kernels(call: Callable[[], object]) -> list[str]:
    """The kernels of flash-linear-attention that a call runs; none where transformers falls back to torch."""
    found = {str(row["kernel"]) for row in kernel_shares(call, calls=1)}
    return sorted(name for name in found if "chunk" in name or "delta" in name or "kda" in name)


@torch.no_grad()
def _tokens(model: nn.Module) -> None:
    model(torch.randint(2, 32, (2, 257), device="cuda"), use_cache=False)


@torch.no_grad()
def _maps(operands: Operator) -> torch.Tensor:
    everything = (0, operands.tokens)
    return operands.means(operands.maps, everything, everything)


@torch.no_grad()
def _products(operands: Operator) -> None:
    """Q Kᵀ and K Kᵀ of all heads, which any exact map multiplies: bare float32 products."""
    o = operands.select_heads(range(operands.heads))
    q, k = (x.movedim(2, 1).contiguous() for x in (o.q, o.k))  # pyright: ignore
    torch.matmul(q, k.mT)
    torch.matmul(k, k.mT)


@torch.no_grad()
def _forward(mixer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return mixer(hidden)


def main() -> None:
    """Run everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parts: dict[str, Callable[[], Iterator[dict[str, object]]]]
    parts = {"families": families, "real_layer": real_layer}
    parser.add_argument("--parts", nargs="+", choices=parts, default=[*parts], help="only these")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"delta-{torch.cuda.get_device_name().lower().replace(' ', '-')}.json"
    packages = ("torch", "transformers", "flash-linear-attention", "triton")
    found: dict[str, object] = {"versions": {p: importlib.metadata.version(p) for p in packages}}
    if path.exists():
        found = json.loads(path.read_text()) | found
    for part in arguments.parts:
        kept: list[dict[str, object]] = []
        found[part] = kept
        for row in parts[part]():
            kept.append(row)
            print(part, json.dumps(row), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
