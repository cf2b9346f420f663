"""`MambaLM.generate`: token after token, each from the logits of all before it."""

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=13)).eval()
    with torch.no_grad():
        model.lm_head.weight[13:] += 10  # rows of no token
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def follow(model, row, steps):
    """The greedy continuation of one row, by definition."""
    row = list(row)
    for _ in range(steps):
        row.append(int(model(torch.tensor([row])).logits[0, -1, :13].argmax()))
    return row


def test_greedy_is_the_largest_logit_each_time(model):
    out = model.generate(IDS, max_new_tokens=6)
    assert out.tolist() == [follow(model, row, 6) for row in IDS.tolist()]
    assert out.dtype == IDS.dtype
    assert torch.equal(model.generate(IDS, max_new_tokens=0), IDS)


def test_rows_padded_on_the_left_go_on_as_alone(model):
    ids = torch.tensor([[0, 0, 4, 1, 5], [9, 2, 6, 5, 3]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    out = model.generate(ids, mask, max_new_tokens=5)
    assert out[0, 2:].tolist() == follow(model, [4, 1, 5], 5)
    assert out[1].tolist() == follow(model, [9, 2, 6, 5, 3], 5)


def test_a_row_ends_at_its_end_token(model):
    plain = model.generate(IDS, max_new_tokens=8)
    end = int(plain[0, 7])
    first = [row.index(end) if end in row else None for row in plain[:, 5:].tolist()]
    out = model.generate(IDS, max_new_tokens=8, eos_token_id=end, pad_token_id=12)
    for row, whole, at in zip(out[:, 5:].tolist(), plain[:, 5:].tolist(), first, strict=True):
        if at is None:
            assert row == whole
        else:
            assert row[: at + 1] == whole[: at + 1]
            assert set(row[at + 1 :]) <= {12}
    alone = model.generate(IDS[:1], max_new_tokens=8, eos_token_id=end)
    assert alone.shape[1] == 5 + first[0] + 1


def test_samples_have_the_models_probabilities(model):
    ids = IDS[:1].expand(4000, -1)
    generator = torch.Generator().manual_seed(0)
    drawn = model.generate(
        ids, max_new_tokens=1, do_sample=True, temperature=2.0, generator=generator
    )[:, -1]
    expected = (model(IDS[:1]).logits[0, -1, :13] / 2).softmax(0)
    counts = torch.bincount(drawn, minlength=13) / 4000
    assert (counts - expected).abs().max() < 0.04
    assert drawn.max() < 13


def test_top_k_draws_among_the_largest(model):
    best = model(IDS[:1]).logits[0, -1, :13].topk(3).indices.tolist()
    drawn = model.generate(
        IDS[:1].expand(300, -1), max_new_tokens=1, do_sample=True, top_k=3, temperature=3.0
    )
    assert set(drawn[:, -1].tolist()) == set(best)
    one = model.generate(IDS, max_new_tokens=4, do_sample=True, top_k=1)
    assert torch.equal(one, model.generate(IDS, max_new_tokens=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be 0 or more"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 1, 0]] * 2)}, "on the left"),
    ],
)
def test_bad_options_are_refused_in_one_line(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.generate(IDS, **options)


def test_nothing_to_continue(model):
    with pytest.raises(UsageError, match="no token to continue"):
        model.generate(IDS[:, :0])
