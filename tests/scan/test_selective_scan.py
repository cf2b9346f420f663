"""The scan against the float64 recurrence, and its gradients against finite differences of that."""

import dataclasses

import pytest
import torch
from reference_scan import reference_scan

from ssmlens.scan import decay_recurrence
from ssmlens.scan.discretize import discretize_A, discretize_B
from ssmlens.scan.operators.decay_scan import ScanOperands
from ssmlens.scan.selective_scan import selective_scan


def random_operands(batch, tokens, heads, A_state, groups, state, headdim, seed=0) -> ScanOperands:
    """A_state 0: a decay that depends on the data, and two weights of a write (Mamba-3)."""
    g = torch.Generator().manual_seed(seed)
    delta = torch.exp(torch.empty(batch, tokens, heads).uniform_(-9, 1, generator=g))
    log_decay, write, write_now = (
        -delta * torch.rand(delta.shape, generator=g),
        delta + 0.1,
        delta * 2,
    )
    scalar = {"log_decay": log_decay, "write": write, "write_now": write_now}
    return ScanOperands(
        delta=delta,
        A=-torch.exp(torch.empty(heads, A_state).uniform_(-2, 3, generator=g)) if A_state else None,
        B=torch.randn(batch, tokens, groups, state, generator=g),
        C=torch.randn(batch, tokens, groups, state, generator=g),
        x=torch.randn(batch, tokens, heads, headdim, generator=g),
        D=torch.randn(heads, 1, generator=g),
        **({} if A_state else scalar),
    )


@pytest.fixture(params=["one after the other", "side by side"])
def _chunks(request, monkeypatch):
    """Chunks of tokens one after the other, as on a CPU, or side by side, as on a GPU."""
    if request.param == "side by side":
        monkeypatch.setattr(decay_recurrence, "_RECURRENCE_TOKENS", {"cpu": 8})
        monkeypatch.setattr(decay_recurrence, "_SLAB_ENTRIES", 500)
        monkeypatch.setattr(decay_recurrence, "_CHUNK_TOKENS", 8)
        monkeypatch.setattr(decay_recurrence, "_CHUNKS", {"cpu": 3})


SHAPES = [
    (1, 1, 3, 4, 1, 4, 1),
    (2, 31, 6, 5, 1, 5, 1),
    (1, 33, 6, 5, 3, 5, 2),
    (3, 65, 4, 1, 2, 8, 3),
    (1, 63, 2, 1, 1, 4, 5),
    (2, 128, 2, 1, 2, 4, 1),
    (1, 97, 5, 1, 1, 1, 1),
    (2, 70, 4, 0, 4, 3, 2),
]


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_scan_is_the_recurrence(shape):
    operands = random_operands(*shape)
    wanted = reference_scan(operands)
    got = selective_scan(operands)
    assert got.dtype == torch.float32
    assert float((got - wanted).norm() / wanted.norm()) < 1e-6
    exact = selective_scan(operands.map(lambda t: t.double()))
    assert float((exact - wanted).norm() / wanted.norm()) < 1e-13


def test_a_decay_from_the_data_includes_one_that_is_not():
    operands = random_operands(2, 66, 4, 1, 2, 3, 2)
    again = dataclasses.replace(operands, A=None, log_decay=operands.delta * operands.A.T)
    torch.testing.assert_close(selective_scan(again), selective_scan(operands))
    torch.testing.assert_close(reference_scan(again), reference_scan(operands))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("shape", SHAPES[1:5])
def test_gradients_are_those_of_the_recurrence(shape):
    """Through the oracle's own loop, which shares no code with the fast paths."""
    operands = random_operands(*shape).map(lambda t: t.double())
    fields = [f.name for f in dataclasses.fields(operands)]
    names = [name for name in fields if getattr(operands, name) is not None]
    leaves = {n: getattr(operands, n).clone().requires_grad_() for n in names}
    live = ScanOperands(**leaves)
    weight = torch.randn_like(operands.x)
    got = torch.autograd.grad((weight * selective_scan(live)).sum(), list(leaves.values()))
    wanted = torch.autograd.grad((weight * reference_scan(live)).sum(), list(leaves.values()))
    for name, g, w in zip(names, got, wanted, strict=True):
        torch.testing.assert_close(g, w, msg=name)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("name", ["delta", "A", "B", "C", "x"])
def test_one_operand_alone_can_have_a_gradient(name):
    """Memory that slabs share without gradients must not be shared with any."""
    operands = random_operands(1, 50, 4, 3, 1, 3, 1).map(lambda t: t.double())
    leaf = getattr(operands, name).clone().requires_grad_()
    live = dataclasses.replace(operands, **{name: leaf})
    (got,) = torch.autograd.grad(selective_scan(live).square().sum(), leaf)
    (wanted,) = torch.autograd.grad(reference_scan(live).square().sum(), leaf)
    torch.testing.assert_close(got, wanted)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("A_state", [1, 3])
def test_gradients_stay_finite_where_everything_decays(A_state):
    operands = random_operands(1, 70, 2, A_state, 1, 3, 1)
    delta = (operands.delta * 1e4).requires_grad_()
    y = selective_scan(dataclasses.replace(operands, delta=delta))
    y.sum().backward()
    assert delta.grad is not None
    assert delta.grad.isfinite().all()


def test_a_scan_without_x_is_refused():
    operands = dataclasses.replace(random_operands(1, 3, 2, 2, 1, 2, 1), x=None)
    with pytest.raises(ValueError, match=r"operands\.x"):
        selective_scan(operands)


def test_no_tokens_give_no_output():
    assert selective_scan(random_operands(2, 0, 4, 3, 1, 3, 1)).shape == (2, 0, 4, 1)


def test_the_callers_tensors_are_left_alone():
    operands = random_operands(1, 40, 4, 3, 1, 3, 1)
    before = operands.map(torch.clone)
    selective_scan(operands)
    for field in ("delta", "A", "B", "C", "x"):
        assert torch.equal(getattr(operands, field), getattr(before, field))


def test_discretisation_is_the_papers():
    o = random_operands(2, 3, 4, 5, 2, 5, 1)
    A_bar, B_bar = discretize_A(o.delta, o.A), discretize_B(o.delta, o.B)
    assert A_bar.shape == B_bar.shape == (2, 3, 4, 5)
    for h in range(4):
        torch.testing.assert_close(A_bar[:, :, h], torch.exp(o.delta[:, :, h, None] * o.A[h]))
        torch.testing.assert_close(B_bar[:, :, h], o.delta[:, :, h, None] * o.B[:, :, h // 2])
