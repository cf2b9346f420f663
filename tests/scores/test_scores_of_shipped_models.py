"""Scores against reality: the shipped models, whose copying layers are known."""

import functools

import numpy as np
import pytest
import torch

from ssmlens.adapters.find import find_mixers
from ssmlens.adapters.load import load_model
from ssmlens.scan.hidden_attention import attention_map_and_mask
from ssmlens.scores import compute, rank_layers

SEPARATOR, END = 1, 2
COPYING = {"copy-mamba1-mimetic": 3, "copy-mamba2-default": 1, "copy-mamba2-mimetic": 3}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The models are tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def capture_copies(make_capture):
    """capture_copies(model, length): its layers on two strings of that many letters."""

    @functools.cache
    def capture(name, length):
        model, rng = load_model(name), np.random.default_rng(length)
        letters = rng.integers(3, 29, (2, length))
        ones = np.ones((2, 1), int)
        tokens = np.concatenate([letters, SEPARATOR * ones, letters, END * ones], axis=1)
        target = np.full(tokens.shape, -1)
        target[:, length : 2 * length] = np.arange(length)
        layers = []

        def record(site):
            def hook(module, args, kwargs):
                given = site.adapter.read_input(module, args, kwargs)
                maps, masks = attention_map_and_mask(site.adapter.project(module, given))
                weights = site.adapter.weights(module).named()
                layers.append(
                    {n: w.numpy() for n, w in weights.items()}
                    | {"attention_map": maps.numpy(), "attention_mask": masks.numpy()}
                )

            return site.module.register_forward_pre_hook(hook, with_kwargs=True)

        with torch.no_grad():
            hooks = [record(site) for site in find_mixers(model)]
            model(torch.from_numpy(tokens))
        for hook in hooks:
            hook.remove()
        return make_capture(layers, kinds=["copy"] * 2, target=target)

    return capture


@pytest.mark.parametrize("name", COPYING)
@pytest.mark.parametrize("length", [17, 30, 40])
def test_the_copying_layer_is_first_and_its_lag_is_the_string(capture_copies, name, length):
    ranking = rank_layers(capture_copies(name, length))
    assert ranking.by == ("copy_score",)
    first, second = ranking[0], ranking[1]
    assert first.layer == COPYING[name]
    assert first.scores["sharpest_lag"] == length
    assert first.scores["copy_score"] > 4 * second.scores["copy_score"]
    assert rank_layers(capture_copies(name, length), "diagonal_sharpness")[0].layer == first.layer


def test_a_model_that_never_learned_has_no_copying_layer(capture_copies):
    first = rank_layers(capture_copies("copy-mamba1-default", 40))[0]
    assert first.scores["copy_score"] < 0.03
    assert first.scores["diagonal_sharpness"] < 0.1


def test_in_mamba2_the_correlation_misleads_until_the_convolutions_are_counted(capture_copies):
    scores = compute(capture_copies("copy-mamba2-mimetic", 17)).sel(layer=3)
    assert float(scores["bc_correlation"]) == pytest.approx(-0.32, abs=0.005)
    assert float(scores["bc_z"]) == pytest.approx(-25, abs=0.5)
    assert float(scores["bc_effective"]) == pytest.approx(0.32, abs=0.005)
    assert float(scores["bc_shift"]) == -1
