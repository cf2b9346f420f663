"""mamba_ssm's mixers in MambaLM's blocks; a stand-in for the library, where there is no GPU to import it with."""

import sys
import types

import pytest
import torch

from ssmlens.models.kernel_mixers import use_kernels
from ssmlens.models.linear_attention import LinearAttention
from ssmlens.models.mamba3 import Mamba3
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM


def test_every_mamba_becomes_mamba_ssms_and_keeps_its_values(monkeypatch):
    theirs = type("Mamba3", (Mamba3,), {})
    library = types.SimpleNamespace(Mamba3=theirs)
    monkeypatch.setitem(sys.modules, "mamba_ssm.modules.mamba3", library)
    config = MambaConfig(
        d_model=16,
        n_layer=3,
        vocab_size=8,
        ssm_cfg={"layer": "Mamba3", "d_state": 8, "headdim": 8, "ngroups": 2},
        linear_attn_cfg={"layer": "LinearAttention", "layer_idx": [1]},
    )
    torch.manual_seed(0)
    model = MambaLM(config)
    tokens = torch.randint(8, (2, 7))
    before, state = model(tokens).logits, dict(model.state_dict())
    assert use_kernels(model) is model
    kinds = [type(block.mixer) for block in model.backbone.layers]
    assert kinds == [theirs, LinearAttention, theirs]
    assert [model.backbone.layers[i].mixer.layer_idx for i in (0, 2)] == [0, 2]
    assert torch.equal(model(tokens).logits, before)
    assert model.state_dict().keys() == state.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_mamba_ssm_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm.modules.mamba2", None)
    ssm_cfg = {"layer": "Mamba2", "d_state": 8, "headdim": 8}
    model = MambaLM(MambaConfig(d_model=16, n_layer=1, vocab_size=8, ssm_cfg=ssm_cfg))
    with pytest.raises(ImportError):
        use_kernels(model)
