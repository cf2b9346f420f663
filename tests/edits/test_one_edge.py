"""One edge of a trained layer carries the answer: the model that was trained to copy, without it."""

import pytest
import torch

import ssmlens
from ssmlens.edits import KnockOut
from ssmlens.tasks.task import tasks

LAYER, QUERY, KEY = 3, 30, 10


@pytest.fixture(scope="module")
def copying():
    """The model, rows of a string of 20 letters and its copy, and the letters that are right at the query."""
    rows = tasks["copy"](length=20, count=3).build(seed=0)
    assert (rows.target[:, QUERY] == KEY).all()
    return ssmlens.load_model("copy-mamba1-mimetic"), rows.tokens, rows.labels[:, QUERY]


@torch.no_grad()
def right_logit(copying, *edits):
    """The logit of the right letter at the query, of every row."""
    model, tokens, letters = copying
    with ssmlens.editing(model, list(edits)):
        logits = model(tokens[:, : QUERY + 1]).logits[:, QUERY]
    return logits.gather(1, letters.unsqueeze(1)).squeeze(1)


def test_one_edge_carries_the_answer_and_no_other_of_that_query_does(copying):
    whole = right_logit(copying)
    drops = torch.stack(
        [
            whole - right_logit(copying, KnockOut(layer=LAYER, queries=QUERY, keys=key))
            for key in range(QUERY + 1)
        ]
    )
    others = torch.arange(QUERY + 1) != KEY
    assert whole.min() > 19
    assert drops[KEY].min() > 12
    assert (whole - drops[KEY]).mean() < 8
    assert drops[others].abs().max() < 8
    assert drops[others].mean(1).abs().max() < 5


def test_all_other_edges_at_once_matter_less_than_that_one(copying):
    others = KnockOut(layer=LAYER, queries=QUERY, keys=f":{KEY},{KEY + 1}:")
    assert right_logit(copying, others).min() > 15
