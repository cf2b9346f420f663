"""mamba_ssm's Mamba with the short scan: what changes, and what does not."""

import copy
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from oracles import relative

from ssmlens.models import short_mamba, short_scan
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.models.short_mamba import short_forward, use_short_scan
from ssmlens.scan.operators.decay_scan import ScanOperands
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.training import build
from ssmlens.training.loop import train

GPU = pytest.mark.gpu


class TheirMamba(Mamba):
    """Passes for mamba_ssm's."""

    def forward(self, hidden_states, inference_params=None):
        return super().forward(hidden_states)


TheirMamba.__module__, TheirMamba.__qualname__ = "mamba_ssm.modules.mamba_simple", "Mamba"


@pytest.fixture
def plain_torch(monkeypatch):
    """The convolution and the scan in plain torch, in the operands' dtype."""

    def convolve(x, weight, bias, activation):
        assert activation == "silu"
        taps = weight.shape[1]
        padded = F.pad(x, (taps - 1, 0))
        return F.silu(F.conv1d(padded, weight.unsqueeze(1), bias, groups=len(weight)))

    def scan(u, dt, A, B, C, D, z, dt_bias):
        delta = F.softplus(dt + dt_bias)
        B, C, x = B.unsqueeze(2), C.unsqueeze(2), u.unsqueeze(3)
        operands = ScanOperands(delta=delta, A=A, B=B, C=C, x=x, D=D.unsqueeze(1))
        return selective_scan(operands).squeeze(3) * F.silu(z)

    library = types.SimpleNamespace(causal_conv1d_fn=convolve)
    monkeypatch.setitem(sys.modules, "causal_conv1d", library)
    monkeypatch.setattr(short_scan, "short_scan", scan)


@pytest.mark.parametrize(
    "options", [{}, {"bias": True, "conv_bias": False, "dt_rank": 3, "d_conv": 2}]
)
@pytest.mark.parametrize("tokens", [1, 7])
def test_the_parts_are_put_together_as_in_the_mixer(plain_torch, options, tokens):
    torch.manual_seed(0)
    mixer = Mamba(16, d_state=8, **options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    hidden = torch.randn(2, tokens, 16, requires_grad=True)
    inputs = [hidden, *mixer.parameters()]
    weight = torch.randn(2, tokens, 16)
    results = []
    for forward in (mixer, lambda x: short_forward(mixer, x)):
        out = forward(hidden)
        gradients = torch.autograd.grad(out, inputs, weight, materialize_grads=True)
        results.append([out.detach(), *gradients])
    for wanted, got in zip(*results, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.norm()))


@pytest.fixture
def stack(monkeypatch):
    """A model of three mixers: one that fits, one that does not, and a plain twin."""
    monkeypatch.setattr(short_scan, "is_available", lambda device: True)
    config = MambaConfig(
        d_model=32, n_layer=3, vocab_size=8, ssm_cfg={"layer": "Mamba1", "d_state": 16}
    )
    torch.manual_seed(0)
    model = MambaLM(config)
    model.backbone.layers[0].mixer = TheirMamba(32, d_state=16)
    model.backbone.layers[1].mixer = TheirMamba(32, d_state=12)
    return model


def test_on_a_cpu_nothing_changes(stack):
    tokens = torch.randint(8, (2, 7))
    names, before = list(stack.state_dict()), stack(tokens).logits
    assert use_short_scan(stack) is stack
    changed = ["forward" in vars(block.mixer) for block in stack.backbone.layers]
    assert changed == [True, False, False]
    assert type(stack.backbone.layers[0].mixer) is TheirMamba
    assert list(stack.state_dict()) == names
    assert torch.equal(stack(tokens).logits, before)


def test_a_copy_is_on_its_own(stack):
    use_short_scan(stack)
    other = copy.deepcopy(stack)
    tokens = torch.randint(8, (2, 7))
    wanted = stack(tokens).logits
    with torch.no_grad():
        stack.backbone.layers[0].mixer.in_proj.weight.zero_()
    assert torch.equal(other(tokens).logits, wanted)


def test_where_the_kernels_do_not_run_no_layer_is_touched(stack, monkeypatch):
    monkeypatch.setattr(short_scan, "is_available", lambda device: False)
    use_short_scan(stack)
    assert not any("forward" in vars(block.mixer) for block in stack.backbone.layers)


@GPU
@pytest.mark.parametrize("tokens", [1, 7, 52])
@pytest.mark.parametrize("states", [16, 32])
def test_a_layer_on_a_gpu_gives_what_mamba_ssms_gives(tokens, states, monkeypatch):
    """In train mode within rounding and by the short scan; in eval mode and beyond the longest, bit for bit."""
    from mamba_ssm.modules.mamba_simple import Mamba as Theirs

    torch.manual_seed(0)
    mixer = Theirs(64, d_state=states, device="cuda")
    ours = use_short_scan(copy.deepcopy(mixer))
    hidden = torch.randn(3, tokens, 64, device="cuda", requires_grad=True)
    weight = torch.randn_like(hidden)
    results = []
    for layer in (mixer, ours):
        out = layer(hidden)
        gradients = torch.autograd.grad(
            out, [hidden, *layer.parameters()], weight, materialize_grads=True
        )
        results.append([x.detach().cpu() for x in (out, *gradients)])
    for wanted, got in zip(*results, strict=True):
        assert relative(got, wanted) < 2e-3 if wanted.any() else not got.any()
    assert torch.equal(ours.eval()(hidden), mixer.eval()(hidden))
    monkeypatch.setattr(short_mamba, "LONGEST", tokens - 1)
    assert torch.equal(ours.train()(hidden), mixer.train()(hidden))


@GPU
@pytest.mark.filterwarnings("ignore:torch.get_autocast_gpu_dtype:DeprecationWarning")  # mamba_ssm
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_with_and_without_it_gives_the_same_curve(tmp_path, monkeypatch, precision):
    """Forty steps of two layers, most of them replays of a CUDA graph."""
    from ssmlens.training.config import TrainConfig

    config = TrainConfig(
        mixer="Mamba1", d_model=64, d_state=16, n_layer=2, length=12, min_length=2, steps=40, warmup=5,
        batch=32, eval_every=20, eval_count=16, precision=precision,
    )  # fmt: skip
    used = []
    forward = short_mamba.short_forward
    monkeypatch.setattr(short_mamba, "short_forward", lambda *of: used.append(0) or forward(*of))
    ours = train(config, tmp_path / "ours", device="cuda")
    assert used
    monkeypatch.setattr(build, "use_short_scan", lambda model: model)
    used.clear()
    theirs = train(config, tmp_path / "theirs", device="cuda")
    assert not used
    curves = [run.metrics.curve("loss")[1].tolist() for run in (ours, theirs)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3 if precision == "fp32" else 2e-2)
