"""Training with mamba_ssm's own models: on a GPU where there is one, and elsewhere with a stand-in for the library."""

import dataclasses
import types
from typing import Any

import pytest
import torch

import ssmlens
from ssmlens.models import backends
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.training import loop
from ssmlens.training.loop import train

GPU = pytest.mark.gpu


@dataclasses.dataclass
class TheirConfig:
    """mamba_ssm's MambaConfig, which knows no linear attention."""

    d_model: int = 2560
    d_intermediate: int = 0
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict[str, Any] = dataclasses.field(default_factory=dict)
    attn_layer_idx: list[int] = dataclasses.field(default_factory=list)
    attn_cfg: dict[str, Any] = dataclasses.field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True


class TheirModel(MambaLM):
    def __init__(self, config, **made):
        super().__init__(MambaConfig(**dataclasses.asdict(config)), **made)
        self.config = config


def test_mamba_ssms_own_model_is_trained_where_it_runs(tiny, tmp_path, monkeypatch):
    plain = train(tiny(init="mimetic"), tmp_path / "plain", device="cpu")
    library = types.SimpleNamespace(MambaConfig=TheirConfig, MambaLMHeadModel=TheirModel)
    monkeypatch.setattr(backends, "has_kernels", lambda device: True)
    monkeypatch.setattr(backends, "import_mamba_ssm", lambda: library)
    theirs = train(tiny(init="mimetic"), tmp_path / "theirs", device="cpu", checkpoint_every=10)
    monkeypatch.undo()
    text = [(run.path / "metrics.jsonl").read_text() for run in (plain, theirs)]
    assert text[0] == text[1]
    weights = [
        ssmlens.load_model(run.path / "checkpoints" / "last").state_dict()
        for run in (plain, theirs)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@GPU
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mixer": "Mamba1", "headdim": None},
        {"mixer": "Mamba3", "d_state": 32, "headdim": 32},
        {"n_layer": 2, "linear_attention_layers": (1,)},
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_learns_what_a_cpu_learns(tiny, tmp_path, fields, precision):
    """The first losses agree within the kernels' precision; the run resumes; the checkpoint opens on a CPU."""
    shape = {"d_model": 64, "d_state": 16, "headdim": 8, "letters": 26, "precision": precision}
    config = tiny(**(shape | fields), steps=10, capture_at=(10,))
    cpu = train(config, tmp_path / "cpu", device="cpu")
    gpu = train(config, tmp_path / "gpu", device="cuda", checkpoint_every=4)
    model: Any = loop.Trainee(loop.check(config), torch.device("cuda")).model
    mixers = model.backbone.layers
    assert type(mixers[0].mixer).__module__.startswith("mamba_ssm")
    first = [float(run.metrics.curve("loss")[1][0]) for run in (cpu, gpu)]
    assert first[1] == pytest.approx(first[0], rel=2e-3 if precision == "fp32" else 2e-2)
    model = ssmlens.load_model(gpu.path / "checkpoints" / "last")
    assert model.source.backend == backends.TORCH
    assert ssmlens.verify(gpu.path / "captures" / "step-000010.h5") == []


@GPU
def test_a_gpu_goes_on_from_a_checkpoint(tiny, tmp_path, monkeypatch):
    config = tiny(letters=26, d_model=64, d_state=16, steps=30)
    whole = train(config, tmp_path / "whole", device="cuda")
    step = loop.Trainee.next_step

    def stop(trainee):
        if trainee.step == 17:
            raise KeyboardInterrupt
        return step(trainee)

    monkeypatch.setattr(loop.Trainee, "next_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", device="cuda", checkpoint_every=8)
    monkeypatch.undo()
    resumed = train(config, tmp_path / "run", device="cuda", resume=True)
    curves = [run.metrics.curve("loss")[1].tolist() for run in (whole, resumed)]
    assert curves[1] == pytest.approx(curves[0], rel=0.05)
