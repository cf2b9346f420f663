"""The shipped models through fused kernels: captured, verified, ranked, and compared with plain torch on a CPU."""

from pathlib import Path

import torch

import ssmlens
from ssmlens.adapters.find import find_mixers
from ssmlens.models.shipped import shipped_names

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rows(folder: Path):
    """A row for each shipped model, dtype and path (fused or not)."""
    for name in shipped_names():
        for dtype_name, dtype in DTYPES.items():
            for fused in (True, False):
                model = ssmlens.load_model(name, device="cuda", dtype=dtype, backend="mamba-ssm")
                if not fused:
                    unfuse(model)
                row = {"model": name, "dtype": dtype_name, "fast_path": fused}
                try:
                    row |= _close(model, folder)
                except RuntimeError as error:  # mamba_ssm's own kernel does not take this shape
                    yield row | {"refused_by_mamba_ssm": str(error).splitlines()[0]}
                    continue
                row["outputs_unchanged"] = outputs_unchanged(model)
                if dtype_name == "float32":
                    row["logits_against_cpu"] = _against_cpu(name, model)
                yield row


def unfuse(model: torch.nn.Module) -> None:
    """Turn off the fused fast paths of every mixer."""
    for site in find_mixers(model):
        for switch in ("use_fast_path", "use_mem_eff_path"):
            if hasattr(site.module, switch):
                setattr(site.module, switch, False)


def outputs_unchanged(model: torch.nn.Module) -> bool:
    """Return whether logits are bitwise equal before, during and after a recording."""
    ids = torch.randint(3, 29, (2, 40), device="cuda")
    with torch.no_grad():
        before = model(ids).logits
        with ssmlens.recording(model):
            during = model(ids).logits
        after = model(ids).logits
    return bool(torch.equal(before, during) and torch.equal(before, after))


def _close(model: torch.nn.Module, folder: Path) -> dict:
    """Capture the default prompts; the proofs of every layer."""
    ssmlens.capture(model, out=folder / "run.h5", overwrite=True, keep_going=True)
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
    }


def _against_cpu(name: str, model: torch.nn.Module) -> float:
    """Relative difference of the logits from plain torch's on the CPU, same weights."""
    ids = torch.randint(3, 29, (2, 40))
    with torch.no_grad():
        here = model(ids.cuda()).logits.float().cpu()
        there = ssmlens.load_model(name, backend="torch")(ids).logits
    return float((here - there).norm() / there.norm())
