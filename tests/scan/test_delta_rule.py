"""The delta rule as an operator: what it checks, cuts and stores."""

import jaxtyping
import numpy as np
import pytest
import torch
from delta_rules import random_delta_rule, row_by_definition
from reference_delta import reference_delta_maps, reference_delta_rule

from ssmlens.scan.operators.delta_rule import DeltaRule


@pytest.mark.parametrize("vector", [False, True])
def test_the_oracles_agree(vector):
    """The recurrence run on unit vectors, the explicit formula, and rows carried back."""
    o = random_delta_rule(2, 11, 4, 2, 3, vector=vector, strongest=2.0)
    maps, erases, mask = reference_delta_maps(o)
    unit = torch.eye(11, dtype=torch.double)[None, :, None].expand(2, -1, 4, -1)
    torch.testing.assert_close(reference_delta_rule(o, unit), maps.movedim(1, 2))
    for n in range(2):
        rows = [[row_by_definition(o, n, head, i) for i in range(11)] for head in range(4)]
        M, erase, L = torch.tensor(np.array(rows)).unbind(2)
        torch.testing.assert_close(maps[n], M)
        torch.testing.assert_close(erases[n], erase)
        torch.testing.assert_close(mask[n], L.mean(0))


def test_the_diagonal_is_that_of_every_matrix():
    o = random_delta_rule(2, 9, 4, 2, 3)
    wanted = reference_delta_maps(o)[0].diagonal(dim1=2, dim2=3).mT
    torch.testing.assert_close(o.diagonal(), wanted)


def test_a_sequence_is_one_of_the_batch_cut_to_its_tokens():
    o = random_delta_rule(3, 12, 4, 2, 3, vector=True)
    one = o.sequence(1, 7)
    assert (one.batch, one.tokens, one.heads, one.groups) == (1, 7, 4, 2)
    torch.testing.assert_close(one(one.x), o(o.x)[1:2, :7])


def test_between_begins_from_nothing():
    o = random_delta_rule(1, 12, 2, 1, 3)
    here = o.between(4, 9)
    torch.testing.assert_close(here(here.x), reference_delta_rule(here, here.x))
    torch.testing.assert_close(here.matrix([0], (0, 5), (0, 5)), o.matrix([0], (4, 9), (4, 9)))
    assert not torch.allclose(here(here.x), o(o.x)[:, 4:9])


def test_selected_heads_have_their_own_copy_of_what_a_group_shares():
    o = random_delta_rule(2, 12, 6, 2, 3)
    some = o.select_heads([5, 0, 1])
    assert (some.heads, some.groups) == (3, 3)
    torch.testing.assert_close(some(some.x), o(o.x)[:, :, [5, 0, 1]])
    torch.testing.assert_close(
        some.matrix(range(3), (0, 12), (0, 12)), o.matrix([5, 0, 1], (0, 12), (0, 12))
    )


@pytest.mark.parametrize("vector", [False, True])
def test_it_is_made_again_of_its_arrays(vector):
    o = random_delta_rule(1, 5, 2, 1, 3, vector=vector)
    assert set(o.arrays()) == set(DeltaRule.axes)
    again = DeltaRule.from_arrays(o.arrays())
    torch.testing.assert_close(again(o.x), o(o.x))
    assert DeltaRule.missing(["q", "beta"]) == ["k", "log_decay"]


def test_a_file_may_drop_a_last_axis_of_one():
    o = random_delta_rule(1, 5, 2, 1, 1)
    again = DeltaRule.from_arrays(
        {name: x.squeeze(-1) if x.ndim == 4 else x for name, x in o.arrays().items()}
    )
    torch.testing.assert_close(again(o.x), o(o.x))


def test_half_precision_is_computed_in_single():
    o = random_delta_rule(1, 9, 2, 1, 3).map(lambda t: t.bfloat16())
    single = o.map(lambda t: t.float())
    for got, wanted in (
        (o(o.x), single(single.x)),
        (o.means(("map",), (0, 9), (0, 9)), single.means(("map",), (0, 9), (0, 9))),
        (o.matrix([0], (0, 9), (0, 9)), single.matrix([0], (0, 9), (0, 9))),
        (o.diagonal(), single.diagonal()),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted)


def test_the_decay_is_its_discretized_array():
    o = random_delta_rule(1, 5, 2, 1, 3, vector=True)
    torch.testing.assert_close(o.discretized()["A_bar"], o.log_decay.exp())


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        ("q", (slice(None), 0), "q must have the axes prompt, token, group, state"),
        ("k", (..., slice(2)), "q is .*, but k is .*: they must have one shape"),
        ("beta", (slice(None), slice(4)), "beta and q must have the same prompts and tokens"),
        (
            "log_decay",
            (slice(None), slice(None), slice(2)),
            "log_decay and beta must have the same",
        ),
        ("log_decay", (..., slice(2)), "log_decay has 2 components, but keys have 3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, cut, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which sees it first
    arrays = random_delta_rule(1, 5, 4, 2, 3, vector=True).arrays()
    with pytest.raises(ValueError, match=message):
        DeltaRule(**{**arrays, name: arrays[name][cut]})


def test_heads_must_divide_over_groups():
    arrays = random_delta_rule(1, 5, 4, 2, 3).arrays()
    three = {name: arrays[name][:, :, :3] for name in ("beta", "log_decay")}
    with pytest.raises(ValueError, match="3 heads do not divide over 2 groups of q and k"):
        DeltaRule(**{**arrays, **three})
