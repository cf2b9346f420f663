"""mamba_ssm's scan on operands: on a GPU against the float64 recurrence; here what it is handed, and what it is not."""

import dataclasses

import pytest
import torch
from oracles import relative
from reference_scan import reference_scan

from ssmlens.models import fused_scan as module
from ssmlens.models.fused_scan import fused_scan
from ssmlens.scan.operators.decay_scan import ScanOperands

GPU = pytest.mark.gpu


def make(batch=2, tokens=37, heads=12, groups=1, states=16, device="cpu"):
    g = torch.Generator().manual_seed(tokens)

    def draw(*shape):
        return torch.randn(shape, generator=g).to(device)

    return ScanOperands(
        delta=0.2 * draw(batch, tokens, heads).abs(),
        A=-0.1 - draw(heads, states).abs(),
        B=draw(batch, tokens, groups, states),
        C=draw(batch, tokens, groups, states),
        x=draw(batch, tokens, heads, 1),
    )


def kernel(u, delta, A, B, C):
    """What `selective_scan_fn` computes, by its documentation, token by token in float64: channels before tokens."""
    assert u.is_contiguous()
    assert delta.is_contiguous()
    u, delta, A, B, C = (t.double() for t in (u, delta, A, B, C))
    B, C = (t.repeat_interleave(u.shape[1] // t.shape[1], dim=1) for t in (B, C))
    state, out = torch.zeros(*u.shape[:2], A.shape[1], dtype=torch.double), []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state + step * B[..., t] * u[:, :, t, None]
        out.append((state * C[..., t]).sum(2))
    return torch.stack(out, dim=2).float()


@pytest.mark.parametrize("groups", [1, 3])
def test_the_kernel_is_handed_what_it_takes(groups, monkeypatch):
    monkeypatch.setattr(module, "_kernel", lambda device: kernel)
    o = make(groups=groups)
    assert relative(fused_scan(o, o.x), reference_scan(o)) < 1e-6


def test_what_the_kernel_does_not_compute_is_left_to_the_operator(monkeypatch):
    monkeypatch.setattr(module, "_kernel", lambda device: kernel)
    o = make()
    assert fused_scan(o, o.x) is not None
    one_rate = dataclasses.replace(o, A=o.A[:, :1])
    decay = dataclasses.replace(o, A=None, log_decay=-o.delta)
    write = dataclasses.replace(o, write=o.delta)
    now = dataclasses.replace(o, write_now=o.delta)
    wide = o.map(torch.Tensor.double)
    none = o.between(0, 0)
    for other in (one_rate, decay, write, now, wide, none):
        assert fused_scan(other, other.x) is None
    assert fused_scan(o, o.x.expand(-1, -1, -1, 2)) is None


def test_on_a_cpu_the_operator_scans():
    o = make()
    assert fused_scan(o, o.x) is None


@GPU
@pytest.mark.parametrize(
    ("batch", "tokens", "groups", "states"), [(2, 37, 1, 16), (1, 1, 1, 5), (3, 257, 3, 64)]
)
def test_on_a_gpu_it_is_the_float64_recurrence(batch, tokens, groups, states):
    o = make(batch, tokens, 12, groups, states, "cuda")
    got = fused_scan(o, o.x)
    assert relative(got.cpu(), reference_scan(o).cpu()) < 2e-6
    assert torch.equal(got, fused_scan(o, o.x))


@GPU
def test_gradients_are_those_of_the_recurrence():
    o = make(device="cuda")
    names = ("delta", "A", "B", "C", "x")

    def gradients(scan, dtype):
        leaves = {n: getattr(o, n).to(dtype).requires_grad_() for n in names}
        out = scan(dataclasses.replace(o, **leaves), leaves["x"])
        weight = torch.linspace(-1, 1, out.numel(), device="cuda", dtype=dtype).view_as(out)
        return torch.autograd.grad((out * weight).sum(), list(leaves.values()))

    wanted = gradients(lambda o, x: o(x), torch.double)
    for got, exact in zip(gradients(fused_scan, torch.float32), wanted, strict=True):
        assert relative(got.cpu(), exact.cpu()) < 1e-5
