"""Captures of a model that looks ahead (analyses/typeseg, with random weights): maps, statistics, checks, scores."""

import h5py
import numpy as np
import pytest
import torch
from map_scores import diagonal_sharpness, memory_length
from oracles import relative
from two_way_models import IDS, random_typeseg, two_way_capture

import ssmlens
from ssmlens import names
from ssmlens.errors import CaptureFileError, UsageError
from ssmlens.scores import compute
from ssmlens.scores.diagonal import sharpest_lag
from ssmlens.scores.statistics import energy_by_lag

LAYER = 1


@pytest.fixture(scope="module")
def model(typeseg):
    return random_typeseg(typeseg)


def exact(model, ids):
    """M [head query key] and the mask of the layer on one prompt alone, in float64, from M's own definition."""
    with torch.no_grad(), ssmlens.recording(model, LAYER) as rec:
        model(torch.tensor([ids]))
    o = rec[LAYER].operands
    delta, B, C = (a[0].double().numpy() for a in (o.delta, o.B[:, :, 0], o.C[:, :, 0]))
    A, S = o.A.double().numpy(), np.cumsum(delta, 0)
    tokens = len(delta)
    maps, mask = np.zeros((len(A), tokens, tokens)), np.zeros((tokens, tokens))
    for i in range(tokens):
        for j in range(tokens):
            steps = S[i] - S[j] if j <= i else S[j] - S[i] + delta[i] - delta[j]
            decay = np.exp(A * steps[:, None])
            twice = 2 if i == j else 1
            maps[:, i, j] = twice * (C[i] * decay * B[j]).sum(1) * delta[j]
            mask[i, j] = decay.mean()
    return maps, mask


@pytest.fixture(scope="module")
def whole(typeseg, tmp_path_factory):
    return two_way_capture(typeseg, tmp_path_factory.mktemp("two-way") / "run.h5")


@pytest.fixture(scope="module")
def reduced(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("two-way") / "reduced.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "LARGEST_WHOLE_MAP", 20)
        patch.setattr("ssmlens.recorder.layer_capture.tokens_per_block", lambda tokens: 4)
        ssmlens.capture(model, IDS, path).close()
    return path


def test_padded_prompts_have_the_maps_they_have_alone(model, whole):
    with ssmlens.open_capture(whole) as captured:
        layer = captured.layer(LAYER)
        assert layer.operator == "two-way scan"
        assert layer.verdict.believed, layer.verdict.reason
        for prompt, ids in enumerate(IDS):
            maps, mask = exact(model, ids)
            assert relative(layer.read("attention_map", prompt), maps.mean(0)) < 1e-5
            assert relative(layer.read("attention_mask", prompt), mask) < 1e-5
            assert relative(layer.channel_map(7, prompt), maps[7]) < 1e-5
            assert float(layer.read("closure_error")[prompt]) < 1e-5
        assert np.triu(maps if len(ids) > 1 else layer.read("attention_map", 0), 1).any()


@pytest.mark.parametrize("kind", ["map", "mask"])
def test_verify_finds_what_is_changed_above_the_diagonal(
    whole, reduced, tmp_path, kind, monkeypatch
):
    for path, end in ((whole, ""), (reduced, "_max")):
        assert ssmlens.verify(path) == []
        name = f"{names.MAP_ARRAYS[kind]}{end}"
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as file:
            array = file[f"layers/00{LAYER}/{name}"]
            value = array[0]
            value[0, -1] += 10 * np.abs(value).max()
            array[0] = value
        (problem, *_) = ssmlens.verify(copy)
        assert "not what was written" in problem
        with monkeypatch.context() as patch:  # as if the digests were made of it
            patch.setattr("ssmlens.store.layer.Layer.damages", lambda self: [])
            found = ssmlens.verify(copy)
        if kind == "map" or not end:
            assert len(found) == 1
            assert f"prompt 0: {name}" in found[0]


def test_reduced_energy_ahead_is_verified(reduced, tmp_path, monkeypatch):
    copy = tmp_path / "run.h5"
    copy.write_bytes(reduced.read_bytes())
    with h5py.File(copy, "r+") as file:
        array = file[f"layers/00{LAYER}/ahead_energy"]
        value = array[0]
        value[len(IDS[0]) - 1] *= 2
        array[0] = value
    monkeypatch.setattr("ssmlens.store.layer.Layer.damages", lambda self: [])
    (problem,) = ssmlens.verify(copy)
    assert "prompt 0: ahead_energy[25] does not follow from the operands" in problem


def test_a_model_that_takes_no_mask_is_refused_where_prompts_are_padded(
    model, tmp_path, monkeypatch
):
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, input_ids: forward(self, input_ids))
    with pytest.raises(UsageError, match=r"layer 0: its mixer looks ahead.*one length"):
        ssmlens.capture(model, IDS, tmp_path / "run")
    with ssmlens.capture(model, IDS[:1] * 2, tmp_path / "same") as captured:
        assert captured.layer(LAYER).verdict.believed


def test_scores_read_both_sides(model, whole, reduced):
    both = []
    for path in (whole, reduced):
        with ssmlens.open_capture(path) as captured:
            both.append(compute(captured))
    one, other = both
    for prompt, ids in enumerate(IDS[:3]):
        maps, mask = exact(model, ids)
        mean = maps.mean(0)
        of = one.isel(layer=LAYER, prompt=prompt)
        assert float(of.mask_ones) == pytest.approx(mask.mean(), rel=1e-4)
        assert float(of.memory_length) == pytest.approx(memory_length(mask), rel=1e-4)
        wanted = diagonal_sharpness(mean, 3, looks_ahead=True)
        assert float(of.diagonal_sharpness) == pytest.approx(wanted, rel=1e-4, nan_ok=True)
    for name in ("mask_ones", "memory_length", "diagonal_sharpness", "sharpest_lag"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4)


def test_a_layer_that_copies_from_ahead():
    mean = np.eye(20, k=6) + 0.2 * np.eye(20, k=-7) + 0.1 * np.eye(20)
    back, ahead = energy_by_lag(mean), energy_by_lag(mean.T)
    assert sharpest_lag([back], 2, [ahead]) == -6
    assert sharpest_lag([back], 2) == 7
    assert diagonal_sharpness(mean, 2, looks_ahead=True) == pytest.approx(1 / 1.05)
    assert diagonal_sharpness(np.tril(mean), 2) == pytest.approx(0.04 / 0.05)


def test_a_file_says_that_a_reader_must_know_it(whole, model, tmp_path, monkeypatch):
    with h5py.File(whole) as file:
        assert file.attrs["needs"] in ("looks_ahead", b"looks_ahead")
    ssmlens.capture(model, IDS, tmp_path / "folder").close()
    with h5py.File(tmp_path / "folder" / f"layer-00{LAYER}.h5") as file:
        assert file.attrs["needs"] in ("looks_ahead", b"looks_ahead")
    monkeypatch.setattr("ssmlens.store.schema.FEATURES", ())
    with pytest.raises(CaptureFileError, match="needs looks_ahead to be read"):
        ssmlens.open_capture(whole)
