"""Edits as plain data and as text."""

import json

import pytest
import torch

from ssmlens.edits import Ablate, Add, Apply, KnockOut, Scale, Set, Swap
from ssmlens.edits.edit import edits, from_json, from_text
from ssmlens.errors import UsageError

IN_WORDS = {
    "knock-out layer=17 queries=64: keys=0:64": KnockOut(layer=17, queries="64:", keys="0:64"),
    "knock-out layer=2 lags=1: heads=0,3 taps=true": KnockOut(
        layer=2, lags="1:", heads=[0, 3], taps=True
    ),
    "scale layer=3 what=delta factor=0.5 tokens=8:16": Scale(
        layer=3, what="delta", factor=0.5, tokens=range(8, 16)
    ),
    "scale layer=3 what=dt factor=2": Scale(layer=3, what="delta", factor=2),
    "set layer=3 what=state tokens=40 value=0 cut-taps=true": Set(
        layer=3, what="state", tokens=40, value=0, cut_taps=True
    ),
    "set layer=0 what=conv taps=1: value=0": Set(layer=0, what="conv", taps="1:", value=0),
    "add layer=1 vector=-1e-2 part=attention": Add(layer=1, vector=-0.01, part="attention"),
    "ablate layer=4": Ablate(layer=4),
    "ablate layer=4 heads=-1 how=mean": Ablate(layer=4, heads=-1, how="mean"),
    "ablate layer=4 what=mlp tokens=0": Ablate(layer=4, what="mlp", tokens=0),
}


def same(one, other):
    def told(edit):
        ranges = {name: value for name, value in vars(edit).items() if hasattr(value, "parts")}
        return {**vars(edit), **{n: v.mask(99, n).tolist() for n, v in ranges.items()}}

    return type(one) is type(other) and told(one) == told(other)


@pytest.mark.parametrize("text", IN_WORDS)
def test_text_and_json_name_the_same_edit(text):
    wanted = IN_WORDS[text]
    assert same(from_text(text), wanted)
    data = json.loads(json.dumps(wanted.to_json()))
    assert same(from_json(data), wanted)
    assert same(from_text(str(wanted)), wanted)


def test_json_has_only_what_is_not_the_default():
    data = KnockOut(layer=17, queries="64:", keys=[3]).to_json()
    assert data == {"edit": "knock-out", "layer": 17, "queries": "64:", "keys": "3"}


def test_json_may_list_numbers():
    edit = from_json({"edit": "ablate", "layer": 1, "heads": [0, 2]})
    assert same(edit, Ablate(layer=1, heads="0,2"))


@pytest.mark.parametrize(
    "edit",
    [
        Scale(layer=0, what="delta", factor=torch.ones(2)),
        Apply(layer=0, what="B", function=torch.sin),
        Swap(layer=0, what="B", source=torch.ones(2)),
        KnockOut(layer=0, mask=torch.ones(2, 2, dtype=torch.bool)),
    ],
)
def test_what_only_python_can_give_has_no_form_in_json(edit):
    with pytest.raises(UsageError, match="has no form in JSON"):
        edit.to_json()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "an edit begins with its kind"),
        ("knock-out 'layer=1", "No closing quotation"),
        ("knock-ot layer=1", "did you mean 'knock-out'"),
        ("knock-out", r"a knock-out edit needs layer=…"),
        ("scale layer=0 what=delta", "a scale edit needs factor=…"),
        ("scale layer=0 what=delta factor=x", "factor='x' does not fit"),
        ("scale layer=0 what=3 factor=1", "what=3 does not fit"),
        ("knock-out layer", "'layer' is no name=value, such as layer=17"),
        ("knock-out layer=x", "layer='x' does not fit"),
        ("knock-out layer=true", "layer=True does not fit"),
        ("knock-out layer=1 row=3", "a knock-out edit has no 'row'; it has: layer, part, queries"),
        ("knock-out layer=1 queries=a", "'a' selects nothing"),
        ("knock-out layer=1 lags=-1", "a lag is a number of tokens, 0 or more"),
        ("knock-out layer=1 taps=2", "taps=2 does not fit"),
        ("set layer=1 what=state value=0", "name the token after which the state changes"),
        ("set layer=1 what=delta value=0 cut-taps=true", "cut_taps needs what=state"),
        ("ablate layer=1 what=delta", "use set for delta"),
        ("ablate layer=1 how=gone", "how is zero, mean or resample"),
    ],
)
def test_text_that_names_no_edit_is_refused_in_one_line(text, complaint):
    with pytest.raises(UsageError, match=complaint) as refused:
        from_text(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [{}, {"layer": 1}, {"edit": 3}])
def test_data_that_is_no_edit(data):
    with pytest.raises(UsageError, match='an edit is an object that names its "edit"'):
        from_json(data)


def test_a_mask_cannot_be_given_in_json():
    with pytest.raises(UsageError, match=r"mask=.* does not fit"):
        from_json({"edit": "knock-out", "layer": 0, "mask": [[True]]})


def test_every_kind_is_registered_under_its_name():
    assert {*edits} == {"ablate", "add", "apply", "knock-out", "scale", "set", "swap"}
    assert all(edits[name].kind == name for name in edits)
