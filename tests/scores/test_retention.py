"""`retention` against products of decays, token by token; from masks and from operands of every kind."""

import numpy as np
import pytest
import torch

import ssmlens
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.recorder.prompts import Prompts
from ssmlens.scores import compute
from ssmlens.scores.retention import retention, retention_of_scan

TARGET = np.array([-1, -1, 0, 1, -1, 5, 2])


def by_products(alpha, target):
    """alpha [token head ...]: mean over queries of the mean of Π alpha after the target up to the query."""
    left = []
    for i, j in enumerate(target):
        if j >= 0:
            kept = np.ones(alpha.shape[1:])
            for m in range(j + 1, i + 1):
                kept = kept * alpha[m]
            left.append(kept.mean())
    return np.mean(left)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4)])
def test_decay_that_the_data_decide(shape):
    log_decay = -np.random.default_rng(0).uniform(0, 1, shape)
    assert retention(log_decay, TARGET) == pytest.approx(by_products(np.exp(log_decay), TARGET))
    assert retention(np.zeros(shape), TARGET) == 1


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_decay_of_a_scan(shape, monkeypatch):
    rng = np.random.default_rng(0)
    delta, A = rng.uniform(0, 1, (7, 3)), -rng.uniform(0, 1, shape)
    alpha = np.exp(delta * A if A.ndim == 1 else delta[..., None] * A)
    wanted = by_products(alpha, TARGET)
    assert retention_of_scan(delta, A, TARGET) == pytest.approx(wanted)
    monkeypatch.setattr("ssmlens.scores.retention._MAX_ENTRIES", 5)  # target by target
    assert retention_of_scan(delta, A, TARGET) == pytest.approx(wanted)


def test_a_token_that_forgets_everything():
    log_decay = np.full((7, 1), -0.1)
    log_decay[3] = -np.inf
    assert retention(log_decay, TARGET) == pytest.approx(by_products(np.exp(log_decay), TARGET))


CONFIGS = {
    "Mamba-1": {"ssm_cfg": {"layer": "Mamba1"}},
    "Mamba-2": {"ssm_cfg": {"layer": "Mamba2", "headdim": 8}},
    "Mamba-3": {"ssm_cfg": {"layer": "Mamba3", "headdim": 8, "d_state": 8}},
    "linear attention": {"linear_attn_cfg": {"layer_idx": [0, 1]}},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_mask_and_operands_tell_the_same(kind, tmp_path):
    torch.manual_seed(0)
    config = MambaConfig(d_model=32, n_layer=2, vocab_size=32, **CONFIGS[kind])
    model = MambaLM(config).eval()
    prompts = Prompts(
        [[3, 1, 4, 1, 5, 9, 2], [2, 7, 1]],
        ["copy", "copy"],
        target=[TARGET.tolist(), [-1, 0, -1]],
    )
    captured = ssmlens.capture(model, prompts, tmp_path / "run.h5")
    assert captured
    with captured as capture:
        found = compute(capture, ["retention"])["retention"]
        for index in capture.layers:
            layer = capture.layer(index)
            for prompt, target in enumerate((TARGET, np.array([-1, 0, -1]))):
                alpha = layer.A_bar.values[prompt]
                wanted = by_products(alpha.astype(np.float64), target)
                assert float(found.sel(layer=index, prompt=prompt)) == pytest.approx(
                    wanted, rel=1e-5
                )
                bare = _WithoutMask(layer)
                without = compute(_One(capture, bare), ["retention"])["retention"]
                assert float(without[0, prompt]) == pytest.approx(wanted, rel=1e-5)


class _WithoutMask:
    def __init__(self, layer):
        self._layer = layer
        self.index, self.state, self.attributes = layer.index, layer.state, layer.attributes

    def __contains__(self, name):
        return name != "attention_mask" and name in self._layer

    def read(self, name, prompt=None):
        return self._layer.read(name, prompt)


class _One:
    def __init__(self, capture, layer):
        self.layers, self.layer = [layer.index], lambda _: layer
        self.length, self.target = capture.length, capture.target
        self.prompt_kinds = capture.prompt_kinds
        self.token_strings = capture.token_strings
        self.closure_tolerance = capture.closure_tolerance


def test_without_targets_or_decay_there_is_none(make_capture):
    log_decay = np.zeros((1, 7, 2))
    untargeted = make_capture([{"log_decay": log_decay}], length=[7])
    softmax = make_capture(
        [{"attention_map": np.tri(7)[None], "attributes": {"kind": "attention"}}],
        target=TARGET[None],
    )
    for capture, why in (
        (untargeted, "no query of the prompt has a target"),
        (softmax, "softmax attention has no log_decay"),
    ):
        scores = compute(capture, ["retention"])
        assert scores["reason"].item() == why
        assert np.isnan(scores["retention"]).all()
