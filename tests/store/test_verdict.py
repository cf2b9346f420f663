"""One answer to "may I believe this layer?", against errors written by hand."""

import numpy as np
import pytest

from ssmlens.store.verdict import judge


class Stored:
    """A layer of these arrays."""

    index = 0

    def __init__(self, state="yes", kind="mamba", reason="", **arrays):
        self.state = state
        self.attributes = {"kind": kind, "reason": reason}
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}

    def __contains__(self, name):
        return name in self._arrays

    def read(self, name, prompt=None):
        return self._arrays[name]


MAPS = {"attention_map": np.zeros((3, 2, 2)), "attention_mask": np.zeros((3, 2, 2))}
GOOD = {name: [1e-6, 2e-6, 3e-6] for name in ("closure_error", "map_error", "mask_error")}


def test_a_layer_within_every_tolerance_is_believed():
    verdict = judge(
        Stored(**MAPS, **GOOD, closure_worst_token=[4, 5, 6], channel_agreement=[0.2, 0.4, 0.9]),
        1e-3,
    )
    assert (verdict.answer, verdict.reason, verdict.failures) == ("yes", "", ())
    assert verdict.believed
    assert verdict.errors == {"closure_error": 3e-6, "map_error": 3e-6, "mask_error": 3e-6}
    assert verdict.tolerances["closure_error"] == 1e-3
    assert verdict.worst_token == 6
    assert verdict.agreement == pytest.approx(0.5)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("error", [0.5, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_error_too_large_or_not_a_number_is_a_no(name, error, place):
    """NaN as well, wherever it stands: Python's max over floats would pass it over."""
    errors = [1e-9, 1e-9, 1e-9]
    errors[place] = error
    verdict = judge(Stored(**MAPS, **GOOD | {name: errors}))
    assert verdict.answer == "no"
    assert not verdict.believed
    assert verdict.reason.startswith(f"{name} ")
    assert [(f.error_name, f.prompt) for f in verdict.failures] == [(name, place)]
    assert np.array_equal(verdict.errors[name], error, equal_nan=True)


def test_a_proof_that_is_not_stored_resolves_nothing():
    errors = {n: e for n, e in GOOD.items() if n != "map_error"}
    verdict = judge(Stored(**MAPS, **errors))
    assert (verdict.answer, verdict.reason) == ("not resolved", "no map_error is stored")
    assert judge(Stored(**MAPS, **errors | {"mask_error": [1, 1, 1]})).answer == "no"


def test_a_layer_that_is_not_finite_says_why():
    verdict = judge(Stored("weights", reason="A_log has 1 NaN", **MAPS, **GOOD))
    assert (verdict.answer, verdict.reason) == ("no", "weights not finite: A_log has 1 NaN")


def test_a_third_map_needs_its_own_proof():
    erase = {"erase_map": np.zeros((3, 2, 2))}
    assert judge(Stored(**MAPS, **GOOD, **erase)).reason == "no erase_error is stored"
    assert judge(Stored(**MAPS, **GOOD, **erase, erase_error=[0, 0, 0])).answer == "yes"
    assert judge(Stored(**MAPS, **GOOD, **erase, erase_error=[0, 0, 1])).answer == "no"


def test_softmax_attention_whose_values_cannot_be_read_has_no_closure_error():
    """NaN is stored, with the reason: it is no error, and no token closes worst."""
    unknown = {"closure_error": [np.nan] * 3, "closure_worst_token": [0, 0, 0]}
    layer = Stored(
        kind="attention", attention_map=MAPS["attention_map"], map_error=[0] * 3, **unknown
    )
    layer.attributes["closure_reason"] = "the values of Attention cannot be read"
    verdict = judge(layer)
    assert (verdict.answer, verdict.reason) == ("yes", "the model's own weights")
    assert verdict.errors == {"map_error": 0}
    assert verdict.worst_token is None
    del layer.attributes["closure_reason"]
    assert judge(layer).answer == "no"
    mixer = Stored(**MAPS, **GOOD | unknown)
    mixer.attributes["closure_reason"] = "its weights are offloaded"
    assert judge(mixer).answer == "not resolved"
    assert np.isnan(judge(mixer).errors["closure_error"])


def test_reduced_maps_need_only_closure():
    reduced = {"attention_map_max": np.zeros((1, 2, 2)), "closure_error": [1e-6]}
    assert judge(Stored(**reduced)).answer == "yes"
    assert judge(Stored(**reduced, map_error=[1e-2])).answer == "no"
    assert judge(Stored(attention_map_max=np.zeros((1, 2, 2)))).answer == "not resolved"


def test_softmax_attention_needs_none():
    verdict = judge(Stored(kind="attention", attention_map=np.zeros((1, 2, 2))))
    assert (verdict.answer, verdict.reason) == ("yes", "the model's own weights")
    assert judge(Stored("input", kind="attention")).answer == "no"


def test_an_output_that_cannot_be_computed_again_resolves_nothing():
    layer = Stored(**MAPS, **GOOD | {"closure_error": [np.nan] * 3})
    assert judge(layer).answer == "no"
    layer.attributes["closure_reason"] = "its output projection is quantised"
    verdict = judge(layer)
    assert (verdict.answer, verdict.reason) == (
        "not resolved",
        "its output projection is quantised",
    )
    assert verdict.failures == ()
    layer.attributes["kind"] = "attention"
    assert judge(layer).answer == "yes"
