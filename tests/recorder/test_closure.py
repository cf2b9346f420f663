"""Closure against outputs that another program computed, and that it can fail."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssmlens.adapters.find import find_mixers
from ssmlens.adapters.load import load_model
from ssmlens.adapters.ssmlens_mamba import SsmlensMamba
from ssmlens.adapters.transformers_mamba2 import TransformersMamba2
from ssmlens.recorder.closure import closure, tolerance
from ssmlens.recorder.recording import recording

FUSED = Path(__file__).parents[1] / "fixtures" / "fused_reference"
SHIPPED = [
    "copy-mamba1-default",
    "copy-mamba1-mimetic",
    "copy-mamba2-default",
    "copy-mamba2-mimetic",
]


@pytest.mark.parametrize("name", SHIPPED)
def test_operands_close_on_what_mamba_ssms_fused_kernels_put_out(name):
    """MambaLM's mixers share their arithmetic with the adapters; these outputs come from a GPU's kernels."""
    fused, model = np.load(FUSED / f"{name}.npz"), load_model(name)
    limit = 1e-4 if "mamba1" in name else 5e-3  # Mamba-2's kernels multiply in TF32
    with recording(model) as rec, torch.no_grad():
        for site in find_mixers(model):
            site.module(torch.from_numpy(fused[f"mixer_input_{site.layer}"]))
    for record in rec:
        output = torch.from_numpy(fused[f"mixer_output_{record.layer}"])
        site = record.call.site
        with torch.no_grad():
            proof = closure(site.adapter, site.module, record.operands, output)
        assert (proof.error < limit).all()
        assert (proof.error > 0).all()  # another program's rounding


@pytest.fixture
def call(tiny_model):
    """(adapter, mixer, operands, output) of one mixer on three sequences of six tokens."""
    model = tiny_model("transformers MambaMixer")
    with recording(model) as rec, torch.no_grad():
        model(torch.arange(18).view(3, 6))
    site = rec[1].call.site
    return site.adapter, site.module, rec[1].operands, rec[1].call.output.clone()


@torch.no_grad()
def test_error_and_worst_token_of_each_sequence(call):
    *mixer, output = call
    wrong = output.clone()
    wrong[1, 4] += 3 * torch.randn(output.shape[2])
    wrong[2, 0] *= -1
    proof = closure(*mixer, wrong)
    expected = (wrong - output).flatten(1).norm(dim=1) / wrong.flatten(1).norm(dim=1)
    assert float(proof.error[0]) < 1e-5
    torch.testing.assert_close(proof.error[1:], expected[1:], rtol=1e-3, atol=0)
    assert proof.worst_token[1:].tolist() == [4, 0]


@torch.no_grad()
def test_padding_is_not_compared(call):
    *mixer, output = call
    output[0, 2:] = 1e6
    output[1, 5:] = torch.nan
    proof = closure(*mixer, output, length=torch.tensor([2, 5, 6]))
    assert (proof.error < 1e-5).all()


@torch.no_grad()
def test_nan_is_an_error_and_nothing_from_nothing_is_none(call):
    adapter, module, operands, output = call
    output[1, 3, 0] = torch.nan
    proof = closure(adapter, module, operands, output)
    assert proof.error.isnan().tolist() == [False, True, False]
    assert int(proof.worst_token[1]) == 3
    nothing = operands.map(torch.zeros_like)
    assert closure(adapter, module, nothing, torch.zeros_like(output)).error.tolist() == [0, 0, 0]
    assert closure(adapter, module, operands, torch.zeros_like(output)).error.isinf().all()


def test_the_tolerance_depends_on_what_the_layer_computed_with():
    assert tolerance(torch.zeros(1), TransformersMamba2()) == 1e-4
    assert tolerance(torch.zeros(1, dtype=torch.float64), SsmlensMamba()) == 1e-4
    assert tolerance(torch.zeros(1, dtype=torch.bfloat16), SsmlensMamba()) == 5e-2
