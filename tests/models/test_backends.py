"""Which code runs a model, with and without mamba_ssm (a stand-in: the real one needs a GPU)."""

import sys
import types

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.models import mamba_ssm_layout
from ssmlens.models.backends import choose_backend
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MODULE = "mamba_ssm.models.mixer_seq_simple"


@pytest.fixture
def mamba_ssm(monkeypatch):
    """A module with the two names that are used of mamba_ssm's."""
    module = types.ModuleType(MODULE)
    module.MambaLMHeadModel = type("MambaLMHeadModel", (MambaLM,), {})
    module.MambaConfig = MambaConfig
    for name in ("mamba_ssm", "mamba_ssm.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


@pytest.fixture
def without_mamba_ssm(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)


@pytest.mark.usefixtures("mamba_ssm")
@pytest.mark.parametrize(
    ("asked", "layout", "device", "runs"),
    [
        ("auto", "mamba_ssm", CPU, "torch"),
        ("auto", "mamba_ssm", CUDA, "mamba-ssm"),
        ("torch", "mamba_ssm", CUDA, "torch"),
        ("mamba-ssm", "mamba_ssm", CUDA, "mamba-ssm"),
        ("auto", "transformers", CUDA, "transformers"),
        ("torch", "transformers", CPU, "transformers"),
        ("transformers", "transformers", CPU, "transformers"),
    ],
)
def test_what_runs(asked, layout, device, runs):
    assert choose_backend(asked, layout, device) == runs


@pytest.mark.usefixtures("without_mamba_ssm")
def test_without_mamba_ssm_torch_runs_on_cuda_and_asking_for_kernels_says_how_to_install():
    assert choose_backend("auto", "mamba_ssm", CUDA) == "torch"
    with pytest.raises(UsageError, match=r"pip install 'ssmlens\[cuda\]', or use backend torch"):
        choose_backend("mamba-ssm", "mamba_ssm", CUDA)


@pytest.mark.usefixtures("mamba_ssm")
@pytest.mark.parametrize(
    ("asked", "layout", "device"),
    [
        ("mamba-ssm", "mamba_ssm", CPU),
        ("transformers", "mamba_ssm", CPU),
        ("mamba-ssm", "transformers", CUDA),
        ("tpu", "mamba_ssm", CPU),
    ],
)
def test_what_does_not_fit(asked, layout, device):
    with pytest.raises(UsageError, match="backend"):
        choose_backend(asked, layout, device)


@pytest.mark.usefixtures("mamba_ssm")
def test_what_mamba_ssm_cannot_build_runs_in_torch(monkeypatch):
    turned = {"attn_layer_idx": [1], "attn_cfg": {"num_heads": 2, "rotary_emb_dim": 8}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for config, reason in (
        (turned, "needs flash_attn, which is not installed"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "no Mamba3 layers"),
    ):
        why = mamba_ssm_layout.why_no_kernels(config)
        assert choose_backend("auto", "mamba_ssm", CUDA, why) == "torch"
        with pytest.raises(
            UsageError, match=f"cannot run this model: .*{reason}; use backend torch"
        ):
            choose_backend("mamba-ssm", "mamba_ssm", CUDA, why)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "there")
    for config in (turned, {}, {"ssm_cfg": {"layer": "Mamba2"}}):
        assert mamba_ssm_layout.why_no_kernels(config) is None


def test_mamba_ssms_own_model_takes_the_same_checkpoint(mamba_ssm):
    config = {"d_model": 16, "n_layer": 1, "vocab_size": 13, "ssm_cfg": {"d_state": 4}}
    source = MambaLM(MambaConfig(**config))
    skeleton = mamba_ssm_layout.make_skeleton(config, "mamba-ssm", torch.float32)
    assert type(skeleton) is mamba_ssm.MambaLMHeadModel
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}
    state = mamba_ssm_layout.untie(skeleton, source.state_dict())
    assert "lm_head.weight" not in state
    model = mamba_ssm_layout.fill(skeleton, state)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(ids).logits, source(ids).logits)
    assert model.lm_head.weight is model.backbone.embedding.weight
