import numpy as np
import pytest

from ssmlens.plots.proofs import proofs, tolerances


@pytest.fixture
def capture(make_capture):
    return make_capture(kinds=("recency", "copying"), lengths=(9, 5, 7))


def test_the_worst_prompt_counts_and_names_its_token(capture):
    capture.fakes[1].arrays["closure_error"] = np.array([1e-6, 3e-5, 2e-6])
    capture.fakes[1].arrays["closure_worst_token"] = np.array([8, 4, 6])
    proof = proofs(capture)[1]
    assert proof.errors["closure_error"] == 3e-5
    assert proof.worst_token == 4
    assert proof.ok
    assert proof.channel_agreement == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["closure_error", "map_error", "mask_error"])
@pytest.mark.parametrize("error", [0.5, np.nan, np.inf])
def test_an_error_beyond_tolerance_or_not_a_number_fails(capture, name, error):
    capture.fakes[0].arrays[name] = np.array([1e-9, error, 1e-9])
    first, second = proofs(capture)
    assert not first.ok
    assert name in first.problem
    assert second.ok


def test_what_is_not_stored_is_not_proven(capture):
    del capture.fakes[0].arrays["map_error"]
    proof = proofs(capture)[0]
    assert not proof.ok
    assert proof.problem == "no map_error"


def test_a_layer_that_is_not_finite_fails_with_the_reason(make_capture):
    proof = proofs(make_capture(kinds=("broken",)))[0]
    assert (proof.ok, proof.problem) == (False, "weights not finite")


def test_closure_is_held_to_what_the_capture_says(capture):
    capture.attributes["closure_tolerance"] = 0.05
    assert tolerances(capture) == {"closure_error": 0.05, "map_error": 1e-5, "mask_error": 1e-5}
    capture.fakes[0].arrays["closure_error"] = np.array([0.04] * 3)
    assert proofs(capture)[0].ok
