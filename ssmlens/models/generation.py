"""Continue sequences of tokens with a language model, greedily or by sampling."""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ssmlens.errors import UsageError


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Int[Tensor, "batch token"],
    attention_mask: Shaped[Tensor, "batch token"] | None = None,
    *,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch longer"]:
    """Continue each row of tokens, greedily or by sampling; return the rows with their new tokens.

    Every step runs the model on all tokens so far: the mixers of MambaLM keep no state between calls. So k new tokens
    cost k forwards, and hooks and recordings see all tokens in each.

    Args:
        model: A `MambaLM`.
        input_ids: The tokens to continue; rows of different length are padded on the left.
        attention_mask: 1 at real tokens and 0 at padding.
        max_new_tokens: Most tokens to add; generation stops early when all rows have ended.
        do_sample: Sample from softmax(logits / temperature); else take the largest logit.
        temperature: See `do_sample`; above 0.
        top_k: Sample only among this many largest logits. None: among all.
        eos_token_id: The token that ends a row.
        pad_token_id: The token that fills a row that has ended. None: `eos_token_id`.
        generator: Random generator of the samples. None: torch's default.

    Raises:
        UsageError: An option is out of range, there is no token to continue, or a row is padded on the right.
    """
    if max_new_tokens < 0:
        raise UsageError(f"max_new_tokens must be 0 or more, not {max_new_tokens}")
    if temperature <= 0:
        raise UsageError(
            f"temperature must be above 0, not {temperature}; leave do_sample out to decode greedily"
        )
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k must be 1 or more, not {top_k}")
    if not input_ids.shape[1]:
        raise UsageError("there is no token to continue; pass at least one per row")
    if attention_mask is not None and not bool(attention_mask[:, -1].bool().all()):
        raise UsageError("pad the rows on the left, not on the right")
    ended = torch.zeros_like(input_ids[:, 0], dtype=torch.bool)
    for _ in range(max_new_tokens):
        logits = model(input_ids, attention_mask).logits[:, -1, : model.config.vocab_size]
        token = logits.argmax(1)
        if do_sample:
            token = _draw(logits / temperature, top_k, generator)
        if eos_token_id is not None:
            token = token.masked_fill(ended, eos_token_id if pad_token_id is None else pad_token_id)
            ended = ended | (token == eos_token_id)
        input_ids = torch.cat([input_ids, token[:, None].to(input_ids.dtype)], dim=1)
        if attention_mask is not None:
            column = torch.ones_like(attention_mask[:, :1])
            attention_mask = torch.cat([attention_mask, column], dim=1)
        if bool(ended.all()):
            break
    return input_ids


def _draw(
    logits: Float[Tensor, "batch vocabulary"], top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, " batch"]:
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.float().softmax(1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
