"""Sums over heads by the GPU's kernels, against maps made row by row in float64.

Without a GPU, Triton's interpreter runs the kernels where Triton is installed.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import maps_by_definition, relative

from ssmlens.names import MAP, MASK
from ssmlens.recorder.replay import Replays
from ssmlens.scan import decay_sums, spans
from ssmlens.scan.hidden_attention import attention_map_and_mask

GPU = pytest.mark.gpu
# heads, groups, states: a slice has 32 heads, tensor cores multiply 8 at a time.
WIDTHS = [(1, 1, 2), (40, 1, 16), (70, 2, 37), (66, 33, 7)]
# Around the sizes of leaves and tiles: 16, 32, 64.
LENGTHS = [1, 2, 7, 16, 17, 33, 64, 65, 130, 193]


def by_definition(o):
    """Map and mask, [sequence query key], and the energy of every sequence's heads."""
    maps, masks, energies = [], [], []
    for n in range(o.batch):
        M, mask = maps_by_definition(o.delta[n], o.A, o.B[n], o.C[n])
        maps.append(M.mean(0))
        masks.append(mask)
        energies.append(np.square(M).sum((1, 2)).mean())
    return {MAP: np.stack(maps), MASK: np.stack(masks)}, np.array(energies)


def on_gpu(o):
    o = o.bare().map(torch.Tensor.cuda)
    assert decay_sums.fits(o)
    return o


@GPU
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_map_mask_and_agreement_are_those_of_the_definition(random_operands, tokens, width):
    heads, groups, states = width
    o = random_operands(2, tokens, heads, states, groups, states)
    wanted, energy = by_definition(o)
    got = on_gpu(o).means((MASK, MAP), (0, tokens), (0, tokens)).cpu()
    for n, kind in enumerate((MASK, MAP)):
        assert relative(got[:, n], wanted[kind]) < 5e-7
        assert not got[:, n].triu(1).any()
    agreement = np.square(wanted[MAP]).sum((1, 2)) / energy
    assert relative(on_gpu(o).agreement(sample=heads).cpu(), agreement) < 1e-5


@GPU
@pytest.mark.parametrize("kinds", [(MAP,), (MASK,), (MAP, MASK)])
def test_any_kinds_in_any_order(random_operands, kinds):
    o = random_operands(1, 130, 40, 16, 1, 16)
    wanted, _ = by_definition(o)
    got = on_gpu(o).means(kinds, (0, 130), (0, 130))[0].cpu()
    for one, kind in zip(got, kinds, strict=True):
        assert relative(one, wanted[kind][0]) < 5e-7


@GPU
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
def test_steps_of_any_size(random_operands, scale):
    """A step of 0 keeps everything, a huge one nothing; none of them overflows."""
    o = random_operands(1, 100, 40, 16, 1, 16, scale=scale)
    wanted, _ = by_definition(o)
    got_map, got_mask = attention_map_and_mask(on_gpu(o))
    assert relative(got_mask.cpu(), wanted[MASK]) < 5e-7
    if scale:
        assert relative(got_map.cpu(), wanted[MAP]) < 5e-7
    else:
        assert not got_map.any()


@GPU
def test_steps_after_a_very_long_one_keep_their_digits(random_operands):
    """Float32 sums would lose the steps of 0.001 beside 3e5."""
    o = random_operands(1, 130, 3, 4, 1, 4)
    o.delta.fill_(1e-3)[:, [3, 70]] = 3e5
    wanted, energy = by_definition(o)
    got_map, got_mask = attention_map_and_mask(on_gpu(o))
    assert relative(got_map.cpu(), wanted[MAP]) < 1e-6
    assert relative(got_mask.cpu(), wanted[MASK]) < 1e-6
    late = (slice(None), slice(71, None), slice(71, None))
    assert relative(got_mask.cpu()[late], wanted[MASK][late]) < 1e-6
    agreement = np.square(wanted[MAP]).sum((1, 2)) / energy
    assert relative(on_gpu(o).agreement().cpu(), agreement) < 1e-5


@GPU
@pytest.mark.parametrize(
    "rectangle",
    [((0, 200), (0, 200)), ((100, 200), (0, 100)), ((131, 197), (3, 70)), ((60, 130), (20, 90))],
)
def test_rectangles(random_operands, rectangle):
    o = random_operands(1, 200, 40, 5, 1, 5)
    wanted, _ = by_definition(o)
    got = on_gpu(o).means((MAP, MASK), *rectangle).cpu()
    queries, keys = (slice(*span) for span in rectangle)
    for n, kind in enumerate((MAP, MASK)):
        assert relative(got[:, n], wanted[kind][:, queries, keys]) < 5e-7


@GPU
def test_tiles_of_a_long_prompt(random_operands, monkeypatch):
    monkeypatch.setattr(spans, "TILE_TOKENS", {"cuda": 70})
    o = random_operands(1, 200, 40, 5, 1, 5)
    wanted, energy = by_definition(o)
    agreement = np.square(wanted[MAP]).sum((1, 2)) / energy
    assert relative(on_gpu(o).agreement().cpu(), agreement) < 1e-5


@GPU
def test_more_heads_than_one_program_adds_up(random_operands):
    """2048 heads in shares, summed in the same order each time."""
    o = random_operands(1, 130, 2048, 4, 1, 4)
    wanted, _ = by_definition(o)
    got = attention_map_and_mask(on_gpu(o))
    again = attention_map_and_mask(on_gpu(o))
    for one, other, kind in zip(got, again, (MAP, MASK), strict=True):
        assert relative(one.cpu(), wanted[kind]) < 5e-7
        assert torch.equal(one, other)


@GPU
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_visible(random_operands, number):
    o = random_operands(1, 130, 3, 4, 1, 4)
    o.delta[0, 40, 1] = number
    # A NaN is in every later sum of steps; of infinite ones the difference is none.
    lost = torch.ones(130, 130, dtype=torch.bool).tril(-1)
    lost[:40] = False
    if number == torch.inf:
        lost[:, :40] = False
    for got in attention_map_and_mask(on_gpu(o)):
        assert not got[0].cpu()[lost].isfinite().any()
        assert got[0, :40].isfinite().all()
    assert on_gpu(o).agreement().isnan().all()


@GPU
def test_one_b_that_is_not_a_number(random_operands):
    o = random_operands(1, 130, 3, 4, 1, 4)
    o.B[0, 40, 0, 2] = torch.nan
    got_map, got_mask = (x.cpu() for x in attention_map_and_mask(on_gpu(o)))
    assert got_map[0, 40:, 40].isnan().all()
    assert got_map.isnan().sum() == 90
    assert got_mask.isfinite().all()


def _both(o):
    of_map, of_mask = attention_map_and_mask(o)
    return {MAP: of_map, MASK: of_mask, "agreement": o.agreement()}


@GPU
def test_recorded_as_a_graph_the_bits_are_the_same(random_operands):
    replays = Replays()
    for seed in range(4):
        o = on_gpu(random_operands(1, 130, 40, 16, 1, 16, seed=seed))
        wanted, got = _both(o), replays.run(_both, o)
        assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert replays._graphs


@GPU
def test_in_inference_mode_too(random_operands):
    o = on_gpu(random_operands(1, 70, 40, 16, 1, 16))
    wanted = _both(o)
    with torch.inference_mode():
        got = _both(o)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


@GPU
def test_gradients_are_left_to_torch(random_operands):
    o = on_gpu(random_operands(1, 20, 3, 4, 1, 4))
    wanted, _ = by_definition(o)
    delta = o.delta.clone().requires_grad_()
    o = type(o)(delta=delta, A=o.A, B=o.B, C=o.C)
    assert not decay_sums.fits(o)
    of_map = attention_map_and_mask(o)[0]
    assert relative(of_map.cpu(), wanted[MAP]) < 1e-6
    of_map.sum().backward()
    assert delta.grad.any()
    with torch.no_grad():
        assert decay_sums.fits(o)


@GPU
def test_other_operands_are_left_to_torch(random_operands):
    for o in (random_operands(1, 9, 4, 1, 2, 5), random_operands(1, 9, 4, 0, 4, 3)):
        assert not decay_sums.fits(o.map(torch.Tensor.cuda))
    assert not decay_sums.fits(random_operands(1, 9, 4, 3, 1, 3).map(lambda x: x.double().cuda()))


def test_on_a_cpu_torch_sums(random_operands):
    assert not decay_sums.fits(random_operands(1, 9, 4, 3, 1, 3))


INTERPRETED = """
import contextlib, torch
from ssmlens.scan import decay_sums
from ssmlens.scan.operators import decay_scan

torch.cuda.device_of = lambda _: contextlib.nullcontext()
assert decay_sums.is_available(torch.device("cpu"))
decay_sums.fits = lambda o: not o.scalar_decay
g = torch.Generator().manual_seed(0)
delta = torch.exp(torch.empty(1, 70, 34).uniform_(-9, 2, generator=g))
A = -torch.exp(torch.empty(34, 3).uniform_(-2, 3, generator=g))
B, C = torch.randn(2, 1, 70, 2, 3, generator=g)
o = decay_scan.ScanOperands(delta=delta, A=A, B=B, C=C)
means = o.means(("mask", "map"), (0, 70), (0, 70))
rectangle = o.means(("map",), (40, 70), (3, 40))
torch.save([delta, A, B, C, means, rectangle, o.agreement()], "out.pt")
"""


def test_triton_s_interpreter_computes_the_definition(tmp_path):
    pytest.importorskip("triton")
    if np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton's interpreter makes numbers of arrays, which numpy 2.4 forbids")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    delta, A, B, C, means, rectangle, agreement = torch.load(tmp_path / "out.pt")
    M, mask = maps_by_definition(delta[0], A, B[0], C[0])
    of_map = M.mean(0)
    assert relative(means[0, 0], mask) < 5e-7
    assert relative(means[0, 1], of_map) < 5e-7
    assert relative(rectangle[0, 0], of_map[40:70, 3:40]) < 5e-7
    wanted = np.square(of_map).sum() / np.square(M).sum((1, 2)).mean()
    assert relative(agreement, wanted) < 1e-5
