"""Every block of docs/recipes.md runs as it stands, and changes what it says it changes."""

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
START, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TITLES = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
CHANGED = ("patched", "without", "mean_ablated", "slower", "steered")


@pytest.fixture(scope="module")
def start():
    names = {}
    exec(START, names)
    return names


def test_every_recipe_is_one_short_block():
    assert len(TITLES) == len(BLOCKS)
    assert all(2 <= block.count("\n") <= 7 for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=TITLES)
def test_a_recipe_runs_and_does_something(block, start):
    names = dict(start)
    exec(block, names)
    logits = names["logits"]
    for name in CHANGED:
        if name in names:
            assert names[name].shape == logits.shape
            assert torch.isfinite(names[name]).all()
            assert not torch.allclose(names[name], logits)
