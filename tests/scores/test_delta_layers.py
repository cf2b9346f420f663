"""Scores of delta-rule layers in a capture, against numbers from the rule's formulas in float64."""

import math

import numpy as np
import pytest
import torch
from reference_delta import reference_delta_maps

import ssmlens
from ssmlens.recorder.prompts import Prompts
from ssmlens.scores import compute

# One decay a head, one a component, β up to 2, rows of keys that lie apart.
FAMILIES = ["Qwen3_5GatedDeltaNet", "KimiLinearDeltaAttention", "OlmoHybridGatedDeltaNet"]
FAMILIES = [f"transformers {name}" for name in [*FAMILIES, "Qwen3NextGatedDeltaNet"]]
LENGTHS = (14, 11)
COPY, REPEAT = 0, 1
PROMPTS = Prompts(
    tokens=((3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7), (6, 5, 3, 5, 8, 6, 5, 3, 5, 8, 6)),
    kinds=("copy", "repeat"),
    texts=("", ""),
    target=((-1,) * 7 + (0, 1, 2, -1, 4, 5, 6), (-1,) * 5 + (1, 2, 3, 4, 5, 6)),
)


@pytest.fixture(scope="module", params=FAMILIES)
def captured(request, tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "run.h5"
    with ssmlens.capture(tiny_model(request.param), PROMPTS, path) as capture:
        yield capture


@pytest.fixture(scope="module")
def scores(captured):
    return compute(captured)


@pytest.fixture(scope="module", params=[0, 2])
def layer(request, captured):
    return captured.layer(request.param)


def oracle(layer, prompt):
    """Map and mask in float64."""
    maps, _, mask = reference_delta_maps(layer.operands(prompt, torch.float64))
    return maps[0].mean(0).numpy(), mask[0].numpy()


def share(m, pairs):
    return np.mean([abs(m[i, j]) / np.abs(m[i, : i + 1]).sum() for i, j in pairs])


@pytest.mark.parametrize("prompt", [COPY, REPEAT])
def test_scores_of_the_mask(scores, layer, prompt):
    _, mask = oracle(layer, prompt)
    here, tokens = scores.sel(layer=layer.index, prompt=prompt), LENGTHS[prompt]
    entries = [mask[i, j] for i in range(tokens) for j in range(i + 1)]
    assert float(here["mask_ones"]) == pytest.approx(np.mean(entries), rel=1e-5)
    late = [mask[i].sum() for i in range(tokens - math.ceil(tokens / 4), tokens)]
    assert float(here["memory_length"]) == pytest.approx(np.mean(late), rel=1e-5)


@pytest.mark.parametrize("prompt", [COPY, REPEAT])
def test_sharpness_leaves_the_convolution_its_lags(scores, layer, prompt):
    m, _ = oracle(layer, prompt)
    taps, tokens = layer.shape("conv")[1], LENGTHS[prompt]
    assert taps == 4
    energy = [np.mean([m[i, i - lag] ** 2 for i in range(lag, tokens)]) for lag in range(tokens)]
    kept = energy[: 3 * tokens // 4 + 1]
    got = float(scores["diagonal_sharpness"].sel(layer=layer.index, prompt=prompt))
    assert got == pytest.approx(max(kept[taps:]) / sum(kept), rel=1e-4)


def test_shares_on_targets(scores, layer):
    here = scores.sel(layer=layer.index)
    for prompt, name in ((COPY, "copy_score"), (REPEAT, "induction_score")):
        m, _ = oracle(layer, prompt)
        pairs = [(i, j) for i, j in enumerate(PROMPTS.target[prompt]) if j >= 0]
        assert float(here[name][prompt]) == pytest.approx(share(m, pairs), rel=1e-4)
        assert np.isnan(here[name][1 - prompt])
        assert str(here["reason"].sel(score=name)[1 - prompt].item())
    m, _ = oracle(layer, REPEAT)
    before = share(m, [(i, i - 1) for i in range(1, LENGTHS[REPEAT])])
    assert float(here["previous_token_score"][REPEAT]) == pytest.approx(before, rel=1e-4)


def test_queries_against_keys_through_their_convolutions(captured, scores, layer):
    """The whole products, tap by tap: Σ over a − b = r of ⟨κ_q[a] W_q, κ_k[b] W_k⟩."""
    k, q = (layer.read(name).astype(np.float64) for name in ("W_B", "W_C"))
    groups, states, inputs = k.shape
    cosines = [
        (k[g] * q[g]).sum() / np.linalg.norm(k[g]) / np.linalg.norm(q[g]) for g in range(groups)
    ]
    here = scores.sel(layer=layer.index)
    assert float(here["bc_correlation"]) == pytest.approx(np.mean(cosines))
    assert float(here["bc_z"]) == pytest.approx(
        np.mean(cosines) * math.sqrt(groups * states * inputs)
    )
    traces = [
        np.trace(q[g].T @ k[g]) / math.sqrt(states) / np.linalg.norm(q[g].T @ k[g])
        for g in range(groups)
    ]
    assert float(here["bc_identity"]) == pytest.approx(np.mean(traces))
    taps = 4
    read, written = (
        layer.read(n).astype(np.float64)[..., ::-1, None] * w[:, :, None]
        for n, w in (("conv_C", q), ("conv_B", k))
    )  # group state back input
    best = {}
    for shift in range(-taps + 1, taps):
        backs = [(a, a - shift) for a in range(taps) if 0 <= a - shift < taps]
        values = [
            sum((read[g, :, a] * written[g, :, b]).sum() for a, b in backs)
            / np.linalg.norm(read[g])
            / np.linalg.norm(written[g])
            for g in range(groups)
        ]
        best[shift] = np.mean(values)
    top = max(best, key=best.get)
    assert float(here["bc_effective"]) == pytest.approx(best[top])
    assert int(here["bc_shift"]) == top


def test_softmax_attention_beside_them_has_its_own_scores_and_reasons(scores):
    here = scores.sel(layer=1)
    assert np.isfinite(here["copy_score"][COPY])
    assert np.isfinite(here["induction_score"][REPEAT])
    for name in ("mask_ones", "bc_correlation"):
        assert np.isnan(here[name]).all()
        assert "softmax attention has no" in str(here["reason"].sel(score=name)[0].item())
