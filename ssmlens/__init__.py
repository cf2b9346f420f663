"""ssmlens: see what Mamba layers attend to, with proofs.

>>> model = ssmlens.load_model("copy-mamba1-mimetic")
>>> with ssmlens.recording(model) as rec:
...     model(input_ids)
>>> rec[3].operands, rec[3].closure_error
>>> cap = ssmlens.capture(model, prompts, out="run.h5")
>>> ssmlens.rank_layers(cap)
>>> ssmlens.attribute(model, "abcd|abc")
>>> ssmlens.plot.map(cap.layer(3))

The names below are imported on first use, so that `import ssmlens` is fast.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssmlens import edits as edits
    from ssmlens import plot as plot
    from ssmlens.adapters.load import load_model
    from ssmlens.attribution.logit import attribute
    from ssmlens.edits.context import editing
    from ssmlens.effect.effects import effects
    from ssmlens.effect.probe import probe
    from ssmlens.inits.mimetic import mimetic_
    from ssmlens.inits.transplant import transplant_
    from ssmlens.plot.report_page import report
    from ssmlens.recorder.capture import capture
    from ssmlens.recorder.prompts import Prompts
    from ssmlens.recorder.recording import recording
    from ssmlens.runs.compare import compare
    from ssmlens.runs.run import find_runs, open_run
    from ssmlens.scan.hidden_attention import (
        attention_map,
        attention_map_and_mask,
        attention_mask,
        channel_maps,
        erase_map,
    )
    from ssmlens.scan.operators.decay_scan import ScanOperands
    from ssmlens.scan.selective_scan import selective_scan
    from ssmlens.scores import rank_heads, rank_layers
    from ssmlens.store import open_capture, verify
    from ssmlens.training.config import TrainConfig
    from ssmlens.training.loop import train
    from ssmlens.training.sweep import sweep

__version__ = "0.1.0"

__all__ = [
    "Prompts",
    "ScanOperands",
    "TrainConfig",
    "attention_map",
    "attention_map_and_mask",
    "attention_mask",
    "attribute",
    "capture",
    "channel_maps",
    "compare",
    "editing",
    "effects",
    "erase_map",
    "find_runs",
    "load_model",
    "mimetic_",
    "open_capture",
    "open_run",
    "probe",
    "rank_heads",
    "rank_layers",
    "recording",
    "report",
    "selective_scan",
    "sweep",
    "train",
    "transplant_",
    "verify",
]

_HOMES = {
    "Prompts": "recorder.prompts",
    "ScanOperands": "scan.operators.decay_scan",
    "TrainConfig": "training.config",
    "attention_map": "scan.hidden_attention",
    "attention_map_and_mask": "scan.hidden_attention",
    "attention_mask": "scan.hidden_attention",
    "attribute": "attribution.logit",
    "capture": "recorder.capture",
    "channel_maps": "scan.hidden_attention",
    "compare": "runs.compare",
    "editing": "edits.context",
    "effects": "effect.effects",
    "erase_map": "scan.hidden_attention",
    "find_runs": "runs.run",
    "load_model": "adapters.load",
    "mimetic_": "inits.mimetic",
    "open_capture": "store",
    "open_run": "runs.run",
    "probe": "effect.probe",
    "rank_heads": "scores",
    "rank_layers": "scores",
    "recording": "recorder.recording",
    "report": "plot.report_page",
    "selective_scan": "scan.selective_scan",
    "sweep": "training.sweep",
    "train": "training.loop",
    "transplant_": "inits.transplant",
    "verify": "store",
}


_PACKAGES = ("edits", "plot")


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return importlib.import_module(f"ssmlens.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ssmlens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ssmlens.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
