"""What an edit lets a layer compute: how many products with weights, and how many scans, beside its own forward."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ssmlens
from ssmlens.edits import Ablate, KnockOut, Scale, Set
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.mamba3 import Mamba3
from ssmlens.scan.operators import decay_scan

TOKENS = 8
MIXERS = {
    "Mamba-1": lambda: Mamba(16, d_state=4),
    "Mamba-2": lambda: Mamba2(16, d_state=8, headdim=8),
    "Mamba-3": lambda: Mamba3(16, d_state=8, headdim=8),
}
PROJECTIONS = {"Mamba-1": 4, "Mamba-2": 2, "Mamba-3": 2}  # the last one, once, among them
EDITS = {
    "delta": Scale(layer=0, what="delta", factor=0.5),
    "edges": KnockOut(layer=0, mask=torch.eye(TOKENS, dtype=torch.bool).roll(1, 0)),
    "state": Set(layer=0, what="state", tokens=3, value=0.0),
    "heads": Ablate(layer=0, heads=0),
    "nothing": Scale(layer=0, what="delta", factor=1.0),
    "output": Ablate(layer=0),
}
# Scans of one batch each; a norm asks for the whole y, where a gate does with its change.
SCANS = {"delta": 1, "edges": 0, "state": 0, "heads": 1, "nothing": 0, "output": 0}
SCANS_BEFORE_A_NORM = {**SCANS, "edges": 1, "state": 1}


class Products(TorchDispatchMode):
    """Counts the linear layers that run."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def work(model, edits, monkeypatch):
    """Linear layers and scans of a forward."""
    scans, run = [], decay_scan.run_recurrence
    monkeypatch.setattr(decay_scan, "run_recurrence", lambda o, x: scans.append(o) or run(o, x))
    with ssmlens.editing(model, edits), Products() as products:
        model(torch.randn(1, TOKENS, 16))
    monkeypatch.setattr(decay_scan, "run_recurrence", run)
    return products.count, len(scans)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_an_edit_projects_once_and_scans_only_what_it_must(mixer, edit, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(MIXERS[mixer]())
    products, scans = work(model, [], monkeypatch)
    assert (products, scans) == (PROJECTIONS[mixer], 1)
    edited, scanned = work(model, [EDITS[edit]], monkeypatch)
    again = {"output": 0, "nothing": PROJECTIONS[mixer] - 1}.get(edit, PROJECTIONS[mixer])
    assert edited - products == again
    wanted = SCANS_BEFORE_A_NORM if mixer == "Mamba-2" else SCANS
    assert scanned - scans == wanted[edit]
