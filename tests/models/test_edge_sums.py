"""Sums over any edges on a GPU: against M in float64, entry by entry; here its launch, against the same."""

import pytest
import torch
from oracles import maps_by_definition, relative

from ssmlens.models import edge_sums as module
from ssmlens.models.edge_sums import edge_sums, is_available, launch
from ssmlens.scan.operators.decay_scan import ScanOperands

GPU = pytest.mark.gpu
CASES = {
    "Mamba-1": {"heads": 40, "groups": 1, "states": 16, "headdim": 1},
    "Mamba-1, odd": {"heads": 7, "groups": 1, "states": 5, "headdim": 1},
    "Mamba-1, wide": {"heads": 300, "groups": 2, "states": 16, "headdim": 1},
    "heads of several channels": {"heads": 3, "groups": 1, "states": 6, "headdim": 5},
    "Mamba-2": {"heads": 6, "groups": 2, "states": 24, "headdim": 9, "A_states": 1},
    "Mamba-3": {"heads": 4, "groups": 4, "states": 10, "headdim": 6, "A_states": None},
}


def make(tokens, *, heads, groups, states, headdim, A_states=0, batch=2):
    """Operands and x; A_states: 1, 0 for as many as states, None for a decay from the data."""
    g = torch.Generator().manual_seed(tokens + heads)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    delta = 0.3 * torch.rand(batch, tokens, heads, generator=g)
    B, C = (draw(batch, tokens, groups, states) for _ in range(2))
    kwargs = {"A": -0.1 - torch.rand(heads, A_states or states, generator=g)}
    if A_states is None:
        names = ("log_decay", "write", "write_now")
        kwargs = {n: torch.rand(batch, tokens, heads, generator=g) for n in names}
        kwargs |= {"A": None, "log_decay": -kwargs["log_decay"]}
    return ScanOperands(delta=delta, B=B, C=C, **kwargs), draw(batch, tokens, heads, headdim)


def by_definition(o, x, chosen, first):
    """Σ_j M[i, j] x[j] over the chosen keys j ≤ i, from M made row by row."""
    out = []
    for n in range(o.batch):
        one = o.sequence(n)
        names = ("log_decay", "write", "write_now")
        more = {
            name: None if getattr(one, name) is None else getattr(one, name)[0] for name in names
        }
        M, _ = maps_by_definition(one.delta[0], one.A, one.B[0], one.C[0], **more)
        M = torch.from_numpy(M)[:, first : first + len(chosen)] * chosen.cpu()
        out.append(torch.einsum("hij,jhp->ihp", M, x[n].double().cpu()))
    return torch.stack(out)


def choose(tokens, share):
    return torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(3)) < share


@GPU
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("tokens", "first"), [(1, 0), (2, 1), (63, 0), (130, 17)])
def test_the_kernel_sums_what_is_chosen(case, tokens, first):
    o, x = make(tokens, **CASES[case])
    for share in (0.02, 0.6, 1.1):
        chosen = choose(tokens, share)[first:]
        got = edge_sums(o.map(torch.Tensor.cuda), x.cuda(), chosen.cuda(), first)
        wanted = by_definition(o, x, chosen, first)
        assert got.shape == wanted.shape
        if wanted.any():
            assert relative(got.cpu(), wanted) < 1e-6
        else:
            assert not got.any()


@GPU
def test_the_same_bits_again_and_of_nothing_nothing():
    o, x = make(65, **CASES["Mamba-1"])
    o, x, chosen = o.map(torch.Tensor.cuda), x.cuda(), choose(65, 0.3).cuda()
    once = edge_sums(o, x, chosen, 0)
    assert torch.equal(once, edge_sums(o, x, chosen, 0))
    assert not edge_sums(o, x, torch.zeros_like(chosen), 0).any()
    assert edge_sums(o, x, chosen[:0], 0).shape == (2, 0, 40, 1)


@GPU
def test_what_is_not_a_number_stays_with_the_edges_that_read_it():
    o, x = make(40, **CASES["Mamba-1"])
    x[0, 30, 2] = torch.nan
    chosen = torch.ones(40, 40, dtype=torch.bool)
    chosen[35] = False
    got = edge_sums(o.map(torch.Tensor.cuda), x.cuda(), chosen.cuda(), 0).cpu()
    assert got[0, 30:35, 2].isnan().all()
    assert not got[0, 35].any()
    assert got[1].isfinite().all()
    assert got[0, :30].isfinite().all()


@GPU
def test_the_kernel_runs_on_this_gpu_and_leaves_gradients_to_torch():
    assert is_available(torch.device("cuda", torch.cuda.current_device()))
    o, x = make(5, **CASES["Mamba-1"])
    o, chosen = o.map(torch.Tensor.cuda), choose(5, 0.5).cuda()
    wanted = x.cuda().requires_grad_()
    assert edge_sums(o, wanted, chosen, 0) is None
    with torch.no_grad():
        assert edge_sums(o, wanted, chosen, 0) is not None


def test_on_a_cpu_torch_sums():
    o, x = make(5, **CASES["Mamba-1"])
    assert edge_sums(o, x, choose(5, 0.5), 0) is None


class Kernel:
    """Passes for the kernel: launched as kernel[grid](…), program by program, in float64."""

    def __getitem__(self, grid):
        def run(
            chosen, summed, rate, B, C, write, write_now, x, y,
            first, tokens, heads, groups, states, headdim, *, H, N, P, K, SCALAR, num_warps,
        ):  # fmt: skip
            assert all(size & (size - 1) == 0 for size in (H, N, P, K))
            assert states <= N
            assert headdim <= P
            assert chosen.dtype == torch.uint8
            assert summed.dtype == torch.float64
            flat = [t.reshape(-1) for t in (summed, rate, B, C, write, write_now, x, y)]
            summed, rate, B, C, write, write_now, x, y = flat
            n, p = torch.arange(states), torch.arange(headdim)
            for row in range(grid[0]):
                for h in range(grid[1] * H):
                    if h >= heads:
                        continue
                    for batch in range(grid[2]):
                        i = first + row
                        group = h // (heads // groups)
                        total = torch.zeros(headdim, dtype=torch.double)
                        for j in range(i + 1):
                            if not chosen[row, j]:
                                continue
                            here, there = batch * tokens + i, batch * tokens + j
                            lag = summed[here * heads + h] - summed[there * heads + h]
                            decay = torch.exp(lag * (rate[h] if SCALAR else rate[h * states + n]))
                            C_i = C[(here * groups + group) * states + n].double()
                            B_j = B[(there * groups + group) * states + n].double()
                            weight = (write if j < i else write_now)[there * heads + h]
                            entry = (C_i * B_j * decay).sum() * weight
                            total += entry * x[(there * heads + h) * headdim + p]
                        y[((batch * grid[0] + row) * heads + h) * headdim + p] = total.float()

        return run


@pytest.mark.parametrize(
    "case", ["Mamba-1, odd", "heads of several channels", "Mamba-2", "Mamba-3"]
)
def test_the_kernel_is_launched_with_what_it_needs(case, monkeypatch):
    monkeypatch.setattr(module, "_kernel", Kernel)
    o, x = make(9, **CASES[case])
    # Views, as adapters hand them over: the kernel reads flat memory.
    x = x.transpose(1, 2).contiguous().transpose(1, 2)
    for first in (0, 4):
        chosen = choose(9, 0.5)[first:]
        assert relative(launch(o, x, chosen, first), by_definition(o, x, chosen, first)) < 1e-6
