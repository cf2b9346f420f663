"""The verdict on a layer's maps, against errors written by hand."""

import numpy as np
import pytest

from ssmlens.store.verdict import judge, why_open


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


def test_the_verdict_on_a_layer_within_every_tolerance_is_yes():
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


SMALL = [1e-7, 1e-7, 1e-7]


@pytest.mark.parametrize(
    ("errors", "rounding", "answer", "failed"),
    [
        (SMALL, SMALL, "yes", []),
        ([1e-3] * 3, [1e-3] * 3, "yes", []),  # at the tolerance is within it
        ([1e-7, 0.5, 1e-7], SMALL, "no", [1]),
        ([0.5, 0.5, 1e-7], [1e-7, 0.4, 1e-7], "no", [0]),
        ([1e-7, 0.5, 1e-7], [1e-7, 0.4, 1e-7], "not resolved", []),
        ([1e-7, 1e-7, 1e-7], [1e-7, 0.4, 1e-7], "not resolved", []),  # rounding alone
        ([8 * 2**-9, 0, 0], [2**-9, 0, 0], "not resolved", []),  # eight roundings, no more
        ([8.01 * 2**-9, 0, 0], [2**-9, 0, 0], "no", [0]),
        ([0.004, 0, 0], [0.0006, 0, 0], "not resolved", []),  # within eight roundings
        ([1e-7, np.nan, 1e-7], SMALL, "yes", []),  # not known of one prompt
        ([np.nan] * 3, [np.nan] * 3, "yes", []),
        ([0.5] * 3, None, "yes", []),  # a file of before the rounding was stored
    ],
)
def test_the_maps_own_closure_counts_where_rounding_does_not_hide_it(
    errors, rounding, answer, failed
):
    arrays = {"map_closure": errors} | ({} if rounding is None else {"map_rounding": rounding})
    layer = Stored(**MAPS, **GOOD, **arrays)
    verdict = judge(layer, 1e-3)
    assert verdict.answer == answer
    assert [(f.error_name, f.prompt) for f in verdict.failures] == [
        ("map_closure", prompt) for prompt in failed
    ]
    assert [f.error for f in verdict.failures] == [errors[prompt] for prompt in failed]
    if np.isnan(errors).all():
        assert "map_closure" not in verdict.errors
    else:
        assert verdict.tolerances["map_closure"] == 1e-3
        np.testing.assert_equal(verdict.errors["map_closure"], np.max(errors))
    assert why_open(layer, 1e-3) == verdict.reason
    wanted = {"yes": "", "no": "map_closure ", "not resolved": "its map contributes so little"}
    assert verdict.reason.startswith(wanted[answer])
    assert bool(verdict.reason) == (answer != "yes")


def test_hidden_maps_are_told_with_their_own_numbers():
    """Of those prompts alone that rounding hides."""
    layer = Stored(**MAPS, **GOOD, map_closure=[1e-4, 0.02, 0.1], map_rounding=[1e-4, 0.01, 0.05])
    assert judge(layer, 1e-3).reason == (
        "its map contributes so little to the output that rounding hides it "
        "(map_closure 1.0e-01, rounding alone 5.0e-02 > 1e-03)"
    )


def test_where_the_output_cannot_be_computed_again_the_maps_closure_is_not_known_either():
    layer = Stored(**MAPS, **GOOD, map_closure=[0.5] * 3, map_rounding=SMALL)
    layer.attributes["closure_reason"] = "its weights are offloaded"
    verdict = judge(layer)
    assert (verdict.answer, verdict.reason) == ("not resolved", "its weights are offloaded")
    assert "map_closure" not in verdict.errors
    assert why_open(layer) == ""


def test_heads_that_nobody_sees_leave_the_mean_map_open():
    layer = Stored(**MAPS, **GOOD)
    layer.attributes["unseen_heads"] = 2
    told = "2 heads do not reach the output, so closure says nothing of their maps"
    assert (judge(layer).answer, judge(layer).reason) == ("not resolved", told)
    assert why_open(layer) == told


@pytest.mark.parametrize(
    ("closure", "tolerance", "why"),
    [
        ([1e-5, 1e-4, 1e-5], None, ""),
        ([1e-5, 2e-4, 1e-5], None, "closure_error 2.0e-04 > 1e-04"),
        ([1e-5, 2e-4, 1e-5], 1e-3, ""),
        ([1e-5, 2e-3, 1e-5], 1e-3, "closure_error 2.0e-03 > 1e-03"),
        ([1e-5, np.nan, 1e-5], None, "closure_error nan > 1e-04"),
    ],
)
def test_why_a_layer_does_not_close(closure, tolerance, why):
    layer = Stored(**MAPS, **GOOD | {"closure_error": closure})
    assert why_open(layer, tolerance) == why
    layer.attributes["closure_reason"] = "its output projection is quantised"
    assert why_open(layer, tolerance) == ""


def test_both_closures_are_named():
    both = {"closure_error": [0.25] * 3, "map_closure": [0.5] * 3, "map_rounding": SMALL}
    assert why_open(Stored(**MAPS, **GOOD | both)) == (
        "closure_error 2.5e-01 > 1e-04; map_closure 5.0e-01 > 1e-04"
    )
