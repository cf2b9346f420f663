"""What is replayed is what would be computed, and a graph is recorded only where it will be used again."""

import dataclasses

import h5py
import numpy as np
import pytest
import torch

import ssmlens
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.recorder import replay
from ssmlens.recorder.replay import Replays
from ssmlens.scan.operators.decay_scan import DecayScan

LAYERS = 6
MIXERS = {
    "Mamba1": {},
    "Mamba2": {"layer": "Mamba2", "headdim": 8, "d_state": 16},
    "Mamba2 with groups": {"layer": "Mamba2", "headdim": 8, "d_state": 16, "ngroups": 2},
}


def scan(tokens=9, **changes):
    torch.manual_seed(tokens)
    operands = DecayScan(
        delta=torch.rand(1, tokens, 4),
        A=-torch.rand(4, 3),
        B=torch.randn(1, tokens, 1, 3),
        C=torch.randn(1, tokens, 1, 3),
    )
    return dataclasses.replace(operands, **changes)


def product(operands, vector):
    return {"y": operands(vector[None, :, None, None].expand(-1, -1, operands.heads, 1))}


def test_on_a_cpu_nothing_is_recorded():
    replays, vector = Replays(), torch.randn(9)
    for _ in range(3):
        computed = replays.run(product, scan(), vector)
        torch.testing.assert_close(computed["y"], product(scan(), vector)["y"], rtol=0, atol=0)
    assert not replays._graphs


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(replay, "_can_record", lambda operands: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())


def test_what_cannot_be_recorded_is_computed(as_on_a_gpu, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("CUDA error: operation not permitted\nand so on")

    monkeypatch.setattr(replay, "_Graph", fail)
    replays, vector = Replays(), torch.randn(9)
    for _ in range(4):
        y = replays.run(product, scan(), vector)["y"]
        torch.testing.assert_close(y, product(scan(), vector)["y"], rtol=0, atol=0)
    (said,) = caplog.messages
    assert said.endswith("without CUDA graphs, slower (CUDA error: operation not permitted)")


def test_a_shape_is_recorded_when_it_comes_again(as_on_a_gpu, monkeypatch):
    """Prompts of many lengths, which come again only in the next layer, are not recorded."""
    recorded = []

    class Graph:
        def __init__(self, function, operands, tensors):
            recorded.append(operands.tokens)

        def __call__(self, operands, tensors):
            return {}

    monkeypatch.setattr(replay, "_Graph", Graph)

    def run(*lengths):
        replays = Replays()
        recorded.clear()
        for tokens in lengths:
            replays.run(product, scan(tokens), torch.randn(tokens))
        return recorded

    assert run(9) == []
    assert run(9, 9, 9, 9) == [9]
    assert run(9, 8, 9, 8, 9) == [9, 8]
    assert run(*[1, 2, 3, 4, 5, 6] * 5) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"delta": torch.rand(1, 9, 4).double()},
        {"B": torch.randn(1, 9, 1, 5), "C": torch.randn(1, 9, 1, 5), "A": -torch.rand(4, 5)},
        {"write": torch.rand(1, 9, 4)},
        {"write_now": torch.rand(1, 9, 4)},
        {"x": torch.rand(1, 9, 4, 1)},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_a_graph_serves_equal_shapes_alone(changes):
    keys = {replay._key(product, operands, ()) for operands in (scan(), scan(**changes))}
    assert len(keys) == 2
    assert replay._key(product, scan(), ()) == replay._key(product, scan(), ())


def captured(model, prompts, path):
    ssmlens.capture(model, prompts, path, overwrite=True).close()
    with h5py.File(path) as file:
        return {
            f"{layer} {name}": dataset[...]
            for layer, group in file["layers"].items()
            for name, dataset in group.items()
            if "role" in dataset.attrs and name != "prompt_digest"
        }


@pytest.mark.gpu
@pytest.mark.parametrize("mixer", list(MIXERS))
@pytest.mark.parametrize("lengths", [(40,), (33, 33), (17, 40, 17, 40)])
def test_a_capture_with_replays_is_a_capture_without(monkeypatch, tmp_path, mixer, lengths):
    torch.manual_seed(0)
    config = MambaConfig(d_model=16, n_layer=LAYERS, vocab_size=11, ssm_cfg=MIXERS[mixer])
    model = MambaLM(config, device="cuda").eval()
    prompts = [torch.randint(0, 11, (n,)).tolist() for n in lengths]
    recorded = []

    class Counted(replay._Graph):
        def __init__(self, *given):
            super().__init__(*given)
            recorded.append(self)

    monkeypatch.setattr(replay, "_Graph", Counted)
    replayed = captured(model, prompts, tmp_path / "x.h5")
    assert recorded
    monkeypatch.setattr(DecayScan, "recordable", False)
    plain = captured(model, prompts, tmp_path / "x.h5")
    assert replayed.keys() == plain.keys()
    assert len(plain) >= 10 * LAYERS
    for name, array in plain.items():
        np.testing.assert_allclose(replayed[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.gpu
def test_a_graph_keeps_what_it_indexes_with():
    """The tensors of other selections take its place in the cache, and its memory."""
    replays, given = Replays(), scan().map(lambda t: t.cuda())
    expected = chosen(given.map(lambda t: t.cpu()))["y"]
    for _ in range(4):
        y = replays.run(chosen, given)["y"]
        torch.testing.assert_close(y.cpu(), expected, rtol=1e-5, atol=1e-6)
        for n in range(200):
            given.select_heads([n % 4, *[n // 4 % 4] * (n % 3 + 1), n // 16 % 4])
    assert len(replays._graphs) == 1


def chosen(operands):
    return {"y": operands.select_heads([0, 3]).delta.clone()}


@pytest.mark.gpu
def test_a_result_is_not_overwritten_by_the_next():
    replays, vector = Replays(), torch.randn(9, device="cuda")
    given = [scan(delta=torch.rand(1, 9, 4)).map(lambda t: t.cuda()) for _ in range(4)]
    computed = [replays.run(product, operands, vector)["y"] for operands in given]
    assert len(replays._graphs) == 1
    for operands, y in zip(given, computed, strict=True):
        expected = product(operands.map(lambda t: t.cpu().double()), vector.cpu().double())["y"]
        torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-5, atol=1e-6)
