"""A cached step is refused by the name that the family gives its cache."""

import pytest
import torch
from torch import nn

from ssmlens.adapters.ssmlens_mamba import SsmlensMamba


class Mixer(nn.Module):
    def forward(self, hidden, memory=None, cache_params=None):
        return hidden


class OwnName(SsmlensMamba):
    cache_argument = "memory"


class Cache:
    def __init__(self, tokens):
        self.tokens = tokens

    def get_seq_length(self):
        return self.tokens


HIDDEN = torch.zeros(1, 3, 4)


@pytest.mark.parametrize("memory", [Cache(3), torch.zeros(2), {"state": 1}], ids=type)
def test_a_cache_of_the_familys_own_name_is_refused(memory):
    why = OwnName().refusal(Mixer(), (HIDDEN,), {"memory": memory})
    assert why == "a cached step (memory) is not recorded; record the prefill"
    assert SsmlensMamba().refusal(Mixer(), (HIDDEN,), {"memory": memory}) is None


def test_an_empty_cache_and_none_are_recorded():
    adapter = OwnName()
    assert adapter.refusal(Mixer(), (HIDDEN,), {}) is None
    assert adapter.refusal(Mixer(), (HIDDEN, None), {}) is None
    assert adapter.refusal(Mixer(), (HIDDEN, Cache(0)), {}) is None
    assert adapter.refusal(Mixer(), (HIDDEN,), {"cache_params": Cache(0)}) is None


def test_the_usual_names_are_refused_beside_it():
    why = OwnName().refusal(Mixer(), (HIDDEN,), {"cache_params": Cache(1)})
    assert "a cached step (cache_params)" in str(why)
