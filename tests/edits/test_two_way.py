"""Edits of a layer that looks ahead (analyses/typeseg): they work in both directions, or are refused in one line."""

import numpy as np
import pytest
import torch
from oracles import relative
from two_way_models import random_typeseg

import ssmlens
from ssmlens.edits import Ablate, Apply, KnockOut, Scale, Set
from ssmlens.errors import UsageError

LAYER, TOKENS = 1, 9


@pytest.fixture(scope="module")
def layer(typeseg):
    """The model, its input, what the edited mixer puts out, and by what M that is made."""
    return _Layer(random_typeseg(typeseg), typeseg)


class _Layer:
    def __init__(self, model, adapter):
        self.model, self.ids = model, torch.randint(0, 32, (2, TOKENS))
        self.mixer = model.layers[LAYER].mixer
        with torch.no_grad(), ssmlens.recording(model, LAYER) as rec:
            self.logits = model(self.ids)
        self.o, self.adapter = rec[LAYER].operands, adapter
        self.M = ssmlens.channel_maps(self.o.map(lambda tensor: tensor.double())).numpy()

    def edited(self, *edits):
        seen = []
        with torch.no_grad(), ssmlens.editing(self.model, list(edits)):
            handle = self.mixer.register_forward_hook(lambda *call: seen.append(call[2]))
            try:
                self.model(self.ids)
            finally:
                handle.remove()
        return seen[0]

    def put_out(self, M):
        """What the mixer puts out with other matrices [batch head query key]."""
        y = np.einsum("bhij,bjhp->bihp", M, self.o.x.double().numpy())
        y = torch.from_numpy(y).float() + self.o.D * self.o.x
        with torch.no_grad():
            return self.adapter.finish(self.mixer, y, self.o)


APART = np.abs(np.arange(TOKENS)[:, None] - np.arange(TOKENS))


@pytest.mark.parametrize(
    ("chosen", "gone"),
    [
        ({"lags": "1:"}, APART > 0),
        ({"lags": "2:4"}, (APART == 2) | (APART == 3)),
        ({"queries": 2, "keys": "5:"}, np.outer(np.arange(9) == 2, np.arange(9) >= 5)),
        ({"keys": 8}, np.outer(np.ones(9), np.arange(9) == 8) > 0),
    ],
)
@pytest.mark.parametrize("heads", [None, "3,5"])
def test_edges_of_both_directions_are_knocked_out(layer, chosen, gone, heads):
    M = layer.M.copy()
    some = slice(None) if heads is None else [3, 5]
    M[:, some] = np.where(gone, 0, M[:, some])
    edit = KnockOut(layer=LAYER, heads=heads, **chosen)
    assert relative(layer.edited(edit), layer.put_out(M)) < 1e-5
    assert relative(layer.put_out(M), layer.put_out(layer.M)) > 1e-4


def test_a_mask_of_edges_reads_above_the_diagonal(layer):
    mask = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    mask[1, 6] = mask[6, 1] = mask[4, 4] = True
    M = np.where(mask.numpy(), 0, layer.M)
    assert relative(layer.edited(KnockOut(layer=LAYER, mask=mask)), layer.put_out(M)) < 1e-5
    assert relative(layer.put_out(M), layer.put_out(layer.M)) > 1e-4


@pytest.mark.parametrize(
    "edit",
    [
        KnockOut(layer=LAYER, mask=torch.zeros(TOKENS, TOKENS, dtype=torch.bool)),
        Apply(layer=LAYER, what="matrix", function=lambda M, queries: M),
        Scale(layer=LAYER, what="B", factor=1),
    ],
)
def test_edits_that_change_nothing_leave_what_it_puts_out(layer, edit):
    assert torch.equal(layer.edited(edit), layer.edited())
    assert relative(layer.edited(), layer.put_out(layer.M)) < 1e-5


def test_rows_of_M_hold_what_is_ahead(layer):
    edit = Apply(layer=LAYER, what="matrix", function=lambda M, queries: M.tril())
    rows = layer.edited(Apply(layer=LAYER, what="matrix", function=lambda M, queries: M / 2))
    assert relative(rows, layer.put_out(layer.M / 2)) < 1e-5
    assert relative(layer.edited(edit), layer.put_out(np.tril(layer.M))) < 1e-5
    for M in (layer.M / 2, np.tril(layer.M)):
        assert relative(layer.put_out(M), layer.put_out(layer.M)) > 1e-4


def test_operands_are_those_of_both_directions(layer):
    halved = layer.edited(Scale(layer=LAYER, what="B", factor=0.5))
    assert relative(halved, layer.put_out(layer.M / 2)) < 1e-5
    head = layer.edited(Ablate(layer=LAYER, heads=4))
    M = layer.M.copy()
    M[:, 4] = 0
    y = torch.from_numpy(np.einsum("bhij,bjhp->bihp", M, layer.o.x.double().numpy())).float()
    skip = layer.o.D * layer.o.x
    skip[:, :, 4] = 0
    with torch.no_grad():
        wanted = layer.adapter.finish(layer.mixer, y + skip, layer.o)
    assert relative(head, wanted) < 1e-5


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Set(layer=LAYER, what="state", tokens=3, value=0.0), "a two-way scan has no state"),
        (
            Set(layer=LAYER, what="conv", taps="1:", value=0.0),
            "the convolution of a two-way scan looks ahead",
        ),
        (
            KnockOut(layer=LAYER, lags="1:", taps=True),
            "the convolution of a two-way scan looks ahead",
        ),
    ],
)
def test_what_two_directions_do_not_have_is_refused(layer, edit, why):
    with pytest.raises(UsageError, match=why) as refused:
        layer.edited(edit)
    assert "\n" not in str(refused.value)


def test_folding_in_a_convolution_that_looks_ahead_is_refused(layer):
    with pytest.raises(UsageError, match=r"looks ahead.*leave 'conv' out of fold"):
        ssmlens.channel_maps(layer.o, [0], fold=("conv", "gate"))
    matrix, offset = ssmlens.channel_maps(layer.o, [0], fold=("gate", "skip"))
    mixed = (matrix[0, 0] @ layer.o.x[0, :, 0, 0]) + offset[0, 0]
    gate = torch.nn.functional.silu(layer.o.gate[0, :, 0])
    y = ssmlens.selective_scan(layer.o)[0, :, 0, 0]
    torch.testing.assert_close(mixed, y * gate, rtol=1e-4, atol=1e-5)
