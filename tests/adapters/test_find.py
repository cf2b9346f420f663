"""Mixers under the index of their block, however the model is built."""

import pytest
from mixers import build_mixer
from torch import nn

from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.find import block_names, count_blocks, find_mixers


def mamba():
    return build_mixer("Mamba", d_model=8, d_state=2)


class Holds(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def stack(*blocks):
    return nn.ModuleList(blocks)


def layers_of(model):
    return {site.name: site.layer for site in find_mixers(model)}


def test_blocks_without_a_mixer_count():
    model = Holds(
        layers=stack(nn.Linear(2, 2), Holds(m=mamba()), nn.Linear(2, 2), Holds(m=mamba()))
    )
    assert layers_of(model) == {"layers.1.m": 1, "layers.3.m": 3}
    assert count_blocks(model, find_mixers(model)) == 4
    assert [block.layer for block in find_blocks(model)] == [0, 1, 2, 3]


def test_one_mixer_among_many_blocks():
    model = Holds(body=Holds(h=stack(*[nn.Linear(2, 2)] * 2, Holds(inner=Holds(m=mamba())))))
    assert layers_of(model) == {"body.h.2.inner.m": 2}
    assert count_blocks(model, find_mixers(model)) == 3


def test_numbers_outside_and_inside_the_blocks_are_not_theirs():
    blocks = stack(Holds(mamba1=mamba()), Holds(mamba2=mamba()))
    model = nn.Sequential(Holds(layers=blocks), nn.Linear(2, 2))
    assert layers_of(model) == {"0.layers.0.mamba1": 0, "0.layers.1.mamba2": 1}
    assert count_blocks(model, find_mixers(model)) == 2


def test_two_stacks_go_one_after_the_other():
    model = Holds(
        first=stack(nn.Linear(2, 2), Holds(m=mamba())), second=stack(Holds(m=mamba()), mamba())
    )
    assert layers_of(model) == {"first.1.m": 1, "second.0.m": 2, "second.1": 3}
    assert count_blocks(model, find_mixers(model)) == 4


def test_mixers_that_share_a_block_are_counted():
    model = Holds(layers=stack(Holds(forth=mamba(), back=mamba()), Holds(forth=mamba())))
    assert list(layers_of(model).values()) == [0, 1, 2]
    assert [block.module for block in find_blocks(model)] == [s.module for s in find_mixers(model)]


@pytest.mark.parametrize("model", [mamba(), Holds(mixer=mamba()), nn.Sequential(mamba())])
def test_a_mixer_alone(model):
    (site,) = find_mixers(model)
    assert (site.layer, count_blocks(model, [site])) == (0, 1)
    assert [block.kind for block in find_blocks(model)] == ["mamba"]


def test_mixers_without_numbers_are_counted():
    model = Holds(first=mamba(), second=Holds(m=mamba()))
    assert layers_of(model) == {"first": 0, "second.m": 1}
    assert block_names(model, ["first", "second.m"]) == ["first", "second.m"]
