"""Capture models of full size on a GPU: seconds, peak memory and proofs, from prompt to closed file.

`python -m analyses.full_size.run [--models mamba-370m …] [--tokens 1024 4096 16384]` on a machine with a CUDA GPU,
mamba_ssm and causal_conv1d. Random weights in the published shapes. It writes its rows into `results/<gpu>.json`, which
keeps the others. README.md beside this file has the results.
"""

import argparse
import gc
import json
import math
import tempfile
import time
from pathlib import Path

import torch

import ssmlens
from analyses.full_size.memory import peak_memory
from analyses.full_size.models import MODELS

HERE = Path(__file__).parent


def main() -> None:
    """Run every model at every length, print a line each, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384])
    parser.add_argument(
        "--first",
        type=int,
        help="only so many layers of billion-parameter models above 8192 tokens",
    )
    parser.add_argument("--one-file", action="store_true", help="one .h5 file, not a folder")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        torch.manual_seed(0)
        model = MODELS[name]("cuda")
        _capture(model, 64, arguments.one_file, 2)  # compiles kernels, warms the allocator
        for tokens in arguments.tokens:
            first = arguments.first if tokens > 8192 and name != "mamba-370m" else None
            row = _capture(model, tokens, arguments.one_file, first)
            asked = {"model": name, "tokens": tokens, "one_file": arguments.one_file}
            rows.append({**asked, **row, "date": time.strftime("%Y-%m-%d")})
            print(json.dumps(rows[-1]), flush=True)
        del model
        gc.collect()
        torch.cuda.empty_cache()
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"{gpu}.json"
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    kept = [row for row in earlier if _asked(row) not in map(_asked, rows)]
    found = {"gpu": gpu, "torch": torch.__version__, "rows": kept + rows}
    file.write_text(json.dumps(found, indent=1) + "\n")


def _asked(row: dict) -> tuple:
    return row["model"], row["tokens"], row.get("one_file", False)


def _capture(model: torch.nn.Module, tokens: int, one_file: bool, first: int | None) -> dict:
    """One prompt of random tokens: map and mask of every layer (or the first ones), no channels."""
    ids = torch.randint(0, 50000, (1, tokens))
    backbone = model.get_submodule("backbone")
    with torch.no_grad(), peak_memory() as peak_forward:
        forward = _seconds(lambda: backbone(ids.cuda()))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / ("run.h5" if one_file else "run")
        with peak_memory() as peak:
            requested = None if first is None else range(first)
            seconds = _seconds(
                lambda: ssmlens.capture(model, ids, out=out, channels=[], layers=requested)
            )
        with ssmlens.open_capture(out) as cap:
            layers = [cap.layer(i) for i in cap.layers]
            proofs = {
                name: max(float(layer.read(name).max()) for layer in layers)
                for name in ("closure_error", "map_error", "mask_error")
            }
        files = [out] if one_file else list(out.iterdir())
        return {
            "layers": len(layers),
            "seconds": seconds,
            "forward_seconds": forward,
            "file_MiB": sum(f.stat().st_size for f in files) / 2**20,
            "forward_peak_gpu_MiB": peak_forward.gpu / 2**20,
            "peak_gpu_MiB": peak.gpu / 2**20,
            "peak_host_MiB": peak.host / 2**20,
            "operands_MiB": _operand_bytes(model, ids) / 2**20,
            "tile_MiB": _tile_bytes(tokens) / 2**20,
            **proofs,
        }


def _operand_bytes(model: torch.nn.Module, ids: torch.Tensor) -> int:
    """Return the bytes of Δ, B, C, x and the gate of one layer in the recorder."""
    with torch.no_grad(), ssmlens.recording(model, layers=[0]) as rec:
        model(ids[:, :64].cuda())
    tensors = [v for v in vars(rec[0].operands).values() if isinstance(v, torch.Tensor)]
    per_token = sum(math.prod(v.shape) * v.element_size() / 64 for v in tensors if v.ndim > 2)
    return int(per_token * ids.shape[1])


def _tile_bytes(tokens: int) -> int:
    """Return the bytes of map and mask in memory at once: of the full size, or of a tile."""
    from ssmlens.scan.spans import TILE_TOKENS

    side = min(tokens, TILE_TOKENS["cuda"])
    return 2 * side * side * 4


def _seconds(work) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
