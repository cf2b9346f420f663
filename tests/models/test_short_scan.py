"""The scan of short sequences on a GPU, against the float64 recurrence and against mamba_ssm's kernel."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from oracles import relative
from reference_scan import reference_scan

from ssmlens.models.short_scan import fits, is_available, short_scan
from ssmlens.scan.operators.decay_scan import ScanOperands

GPU = pytest.mark.gpu


def make_operands(batch, tokens, channels, states, dtype=torch.float32):
    generator = torch.Generator().manual_seed(tokens + states)

    def draw(*shape):
        return torch.randn(shape, generator=generator).cuda()

    u, dt, z = (draw(batch, tokens, channels).to(dtype) for _ in range(3))
    B, C = (draw(batch, tokens, states).to(dtype) for _ in range(2))
    n = torch.arange(1, states + 1, device="cuda")
    A = -n * torch.exp(0.3 * draw(channels, states))
    return [u, dt, A, B, C, draw(channels), z, draw(channels) - 3]


def by_definition(u, dt, A, B, C, D, z, bias):
    delta = F.softplus(dt + bias)
    B, C, x = B.unsqueeze(2), C.unsqueeze(2), u.unsqueeze(3)
    operands = ScanOperands(delta=delta, A=A, B=B, C=C, x=x, D=D.unsqueeze(1))
    return reference_scan(operands).squeeze(3) * F.silu(z)


def by_mamba_ssm(u, dt, A, B, C, D, z, bias):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, dt, B, C, z = (x.mT.contiguous() for x in (u, dt, B, C, z))
    return selective_scan_fn(u, dt, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True).mT


def with_gradients(scan, operands, weight):
    leaves = [x.detach().clone().requires_grad_() for x in operands]
    out = scan(*leaves)
    gradients = torch.autograd.grad(out, leaves, weight.to(out.dtype))
    return [x.cpu() for x in (out.detach(), *gradients)]


@GPU
@pytest.mark.parametrize(
    ("batch", "tokens", "channels", "states"),
    [
        (2, 52, 512, 32),
        (3, 7, 128, 16),
        (1, 1, 64, 64),
        (2, 33, 64, 128),
        (1, 2, 64, 32),
        (1, 129, 64, 16),
    ],
)
def test_output_and_gradients_are_those_of_the_float64_scan(batch, tokens, channels, states):
    operands = make_operands(batch, tokens, channels, states)
    weight = torch.randn(batch, tokens, channels, device="cuda")
    wanted = with_gradients(by_definition, [x.double() for x in operands], weight)
    got = with_gradients(short_scan, operands, weight)
    theirs = with_gradients(by_mamba_ssm, operands, weight)
    for ours, exact, kernel in zip(got, wanted, theirs, strict=True):
        assert ours.shape == exact.shape
        if exact.any():  # A has no gradient where there is one token
            assert relative(ours, exact) < 2e-6
            assert relative(ours, kernel) < 3e-6
        else:
            assert not ours.any()


@GPU
def test_half_precision_is_as_near_as_mamba_ssms():
    operands = make_operands(2, 31, 128, 32, torch.bfloat16)
    weight = torch.randn(2, 31, 128, device="cuda").bfloat16()
    wanted = with_gradients(by_definition, [x.double() for x in operands], weight)
    got = with_gradients(short_scan, operands, weight)
    theirs = with_gradients(by_mamba_ssm, operands, weight)
    for ours, exact, kernel in zip(got, wanted, theirs, strict=True):
        assert relative(ours.float(), exact) < 1.5 * relative(kernel.float(), exact) + 1e-6


@GPU
def test_rows_may_lie_apart_and_gradients_are_the_same_bits_again():
    operands = make_operands(2, 9, 64, 32)
    weight = torch.randn(2, 9, 64, device="cuda")
    wanted = with_gradients(short_scan, operands, weight)

    def apart(u, dt, A, B, C, D, z, bias):
        u, z = torch.cat([u, z], dim=-1).chunk(2, dim=-1)
        B, C = torch.cat([B, C], dim=-1).chunk(2, dim=-1)
        return short_scan(u, dt.mT.contiguous().mT, A, B, C, D, z, bias)

    got = with_gradients(apart, operands, weight)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@GPU
@pytest.mark.parametrize(("batch", "tokens"), [(2, 0), (0, 5)])
def test_of_nothing_the_gradients_are_zero(batch, tokens):
    operands = make_operands(batch, tokens, 64, 32)
    got = with_gradients(short_scan, operands, torch.ones(batch, tokens, 64, device="cuda"))
    assert [x.shape for x in got] == [operands[0].shape, *(x.shape for x in operands)]
    assert not any(x.any() for x in got)


@GPU
def test_what_is_not_a_number_stays_in_its_sequence():
    operands = make_operands(2, 5, 64, 32)
    operands[0][1, 3, 2] = torch.nan
    out = short_scan(*operands)
    assert out[0].isfinite().all()
    assert out[1, 3, 2].isnan()
    assert out[1, :3].isfinite().all()


def test_what_fits():
    assert all(fits(512, states) for states in (16, 32, 64, 128))
    assert not fits(512, 8)
    assert not fits(512, 48)
    assert fits(32, 16)
    assert not fits(520, 32)


@GPU
def test_the_kernels_run_on_this_gpu():
    assert is_available(torch.device("cuda"))


class Kernel:
    """Passes for a kernel of Triton's: launched as kernel[grid](…)."""

    def __init__(self, launch):
        self.launch = launch

    def __getitem__(self, grid):
        return self.launch


def refuse(*operands, **constants):
    raise RuntimeError("PassManager::run failed\nsm_70")


@pytest.fixture
def kernels(monkeypatch):
    """Stand-ins that do nothing; nothing is known yet of any device, nor afterwards."""
    module = types.SimpleNamespace(scan_forward=Kernel(lambda *_, **__: None))
    module.scan_backward = module.scan_forward
    monkeypatch.setitem(sys.modules, "ssmlens.models.short_scan_kernels", module)
    is_available.cache_clear()
    yield module
    is_available.cache_clear()


def test_kernels_that_run_are_used_without_a_word(kernels, caplog):
    assert is_available(torch.device("cpu"))
    assert not caplog.messages


@pytest.mark.parametrize("which", ["scan_forward", "scan_backward"])
def test_kernels_that_do_not_compile_are_told_of_once(kernels, caplog, which):
    setattr(kernels, which, Kernel(refuse))
    assert not is_available(torch.device("cpu"))
    assert not is_available(torch.device("cpu"))
    (message,) = caplog.messages
    assert message.endswith("fails here: RuntimeError: PassManager::run failed")


def test_without_gluon_there_are_no_kernels(kernels, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "ssmlens.models.short_scan_kernels", None)
    assert not is_available(torch.device("cpu"))
    assert "short_scan_kernels" in caplog.text
