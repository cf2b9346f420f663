"""The operands of transformers' families against the tensors that transformers itself hands to its scan."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from ssmlens.adapters.transformers_mamba import TransformersMamba
from ssmlens.adapters.transformers_mamba2 import TransformersMamba2


def spy(monkeypatch, module, name):
    handed = []
    real = getattr(module, name)

    def recorded(*args, **kwargs):
        handed.append((args, kwargs))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, recorded)
    return handed


def run(adapter, mask):
    torch.manual_seed(1)
    model = adapter.tiny_model().eval()
    inputs = []
    for block in model.backbone.layers:
        block.mixer.register_forward_pre_hook(
            lambda m, a, k: inputs.append((m, adapter.read_input(m, a, k))), with_kwargs=True
        )
    with torch.no_grad():
        model(torch.randint(0, 32, (2, 11)), attention_mask=mask, use_cache=False)
        return [adapter.project(m, given) for m, given in inputs]


MASKS = [None, torch.tensor([[0] * 3 + [1] * 8, [1] * 11])]


@pytest.mark.parametrize("mask", MASKS, ids=["whole", "padded"])
def test_mamba1_operands_are_what_transformers_scans(monkeypatch, mask):
    handed = spy(monkeypatch, modeling_mamba, "mamba_selective_scan")
    operands = run(TransformersMamba(), mask)
    assert len(handed) == len(operands) == 3
    for o, ((x, dt, A, B, C), kwargs) in zip(operands, handed, strict=True):
        delta = F.softplus(dt + kwargs["delta_bias"][:, None])
        torch.testing.assert_close(o.delta, delta.transpose(1, 2))
        torch.testing.assert_close(o.A, A)
        torch.testing.assert_close(o.B.squeeze(2), B.transpose(1, 2))
        torch.testing.assert_close(o.C.squeeze(2), C.transpose(1, 2))
        torch.testing.assert_close(o.x.squeeze(3), x.transpose(1, 2))
        torch.testing.assert_close(o.D.squeeze(1), kwargs["D"])
        torch.testing.assert_close(o.gate, kwargs["z"].transpose(1, 2))


@pytest.mark.parametrize("mask", MASKS, ids=["whole", "padded"])
def test_mamba2_operands_are_what_transformers_scans(monkeypatch, mask):
    handed = spy(monkeypatch, modeling_mamba2, "mamba2_chunk_scan")
    operands = run(TransformersMamba2(), mask)
    assert len(handed) == len(operands) == 3
    for o, ((x, dt, A, B, C), kwargs) in zip(operands, handed, strict=True):
        delta = F.softplus(dt + kwargs["dt_bias"]).clamp(*kwargs["dt_limit"])
        torch.testing.assert_close(o.delta, delta)
        torch.testing.assert_close(o.A.squeeze(1), A)
        torch.testing.assert_close(o.B, B)
        torch.testing.assert_close(o.C, C)
        torch.testing.assert_close(o.x, x)
        torch.testing.assert_close(o.D.squeeze(1), kwargs["D"])
