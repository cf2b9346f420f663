"""Close unpatched mamba_ssm layers on a GPU: shipped models through fused kernels, captured and checked.

Run on a machine with a CUDA GPU, mamba_ssm and causal_conv1d: `python -m analyses.fused_kernels.run`. It writes
`results/<gpu>.json` and prints one line a capture. What came out is in README.md beside this file.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

import ssmlens
from ssmlens.adapters.find import find_mixers
from ssmlens.models.shipped import shipped_names

HERE = Path(__file__).parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def close(model: torch.nn.Module, folder: Path) -> dict:
    """Capture the default prompts; the proofs of every layer."""
    start = time.perf_counter()
    ssmlens.capture(model, out=folder / "run.h5", overwrite=True, keep_going=True)
    seconds = time.perf_counter() - start
    with ssmlens.open_capture(folder / "run.h5") as cap:
        layers = [cap.layer(i) for i in cap.layers]
        closure = [float(layer.read("closure_error").max()) for layer in layers]
        maps = [
            float(max(layer.read("map_error").max(), layer.read("mask_error").max()))
            for layer in layers
        ]
        first = ssmlens.rank_layers(cap).rows[0]
    return {
        "mixer": layers[0].attributes["mixer"],
        "closure_error": closure,
        "map_error": max(maps),
        "problems": ssmlens.verify(folder / "run.h5"),
        "first_layer": first.layer,
        "seconds": seconds,
    }


def unfuse(model: torch.nn.Module) -> None:
    """Turn off the fused fast paths of every mixer."""
    for site in find_mixers(model):
        for switch in ("use_fast_path", "use_mem_eff_path"):
            if hasattr(site.module, switch):
                setattr(site.module, switch, False)


def outputs_unchanged(model: torch.nn.Module) -> bool:
    """Whether logits are the same bit for bit with and without a recording around the forward."""
    ids = torch.randint(3, 29, (2, 40), device="cuda")
    with torch.no_grad():
        before = model(ids).logits
        with ssmlens.recording(model):
            during = model(ids).logits
    return bool(torch.equal(before, during))


def against_cpu(name: str, model: torch.nn.Module) -> float:
    """Relative difference of the logits from plain torch's on the CPU, same weights."""
    ids = torch.randint(3, 29, (2, 40))
    with torch.no_grad():
        here = model(ids.cuda()).logits.float().cpu()
        there = ssmlens.load_model(name, backend="torch")(ids).logits
    return float((here - there).norm() / there.norm())


def main() -> None:
    """Run everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder for the JSON file"
    )
    out = parser.parse_args().out
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in shipped_names():
            for dtype_name, dtype in DTYPES.items():
                for fused in (True, False):
                    model = ssmlens.load_model(
                        name, device="cuda", dtype=dtype, backend="mamba-ssm"
                    )
                    if not fused:
                        unfuse(model)
                    row = {"model": name, "dtype": dtype_name, "fast_path": fused}
                    try:
                        row |= close(model, Path(folder))
                    except RuntimeError as error:  # mamba_ssm's own kernel does not take this shape
                        row["refused_by_mamba_ssm"] = str(error).splitlines()[0]
                        rows.append(row)
                        print(json.dumps(row), flush=True)
                        continue
                    row["outputs_unchanged"] = outputs_unchanged(model)
                    if dtype_name == "float32":
                        row["logits_against_cpu"] = against_cpu(name, model)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    result = {"gpu": gpu, "torch": torch.__version__, "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{gpu}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
