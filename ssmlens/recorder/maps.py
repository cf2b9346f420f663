"""A layer's maps for every prompt of a batch, whole or reduced, with the proof that they are the scan's."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.recorder.host import zeros_on_host
from ssmlens.scan.hidden_attention import attention_map_and_mask, channel_agreement, channel_maps
from ssmlens.scan.operator import Operator
from ssmlens.scan.probe import probe
from ssmlens.scan.reduce import reduced_maps

_PROOFS = ("map_error", "mask_error", "channel_agreement")
_BY_BLOCK = (
    "attention_map_mean",
    "attention_map_max",
    "attention_mask_mean",
    "attention_mask_max",
)
_BY_TOKEN = ("lag_energy", "row_magnitude", "mask_row_sum", "target_magnitude")


def whole(
    operands: Operator, length: Int[Tensor, " prompt"], channels: Sequence[int]
) -> dict[str, Tensor]:
    """`attention_map`, `attention_mask`, `channel_map` and their proofs, over each prompt's real tokens, in zeros.

    NaN where a prompt's operands are not finite.
    """
    prompts, tokens = operands.batch, operands.tokens
    arrays = {
        "attention_map": zeros_on_host((prompts, tokens, tokens), operands.delta),
        "attention_mask": zeros_on_host((prompts, tokens, tokens), operands.delta),
        "channel_map": zeros_on_host((prompts, len(channels), tokens, tokens), operands.delta),
    }
    proofs = {name: torch.full((prompts,), torch.nan) for name in _PROOFS}
    for prompt, real in enumerate(length.tolist()):
        one = operands.sequence(prompt, real)
        if not _finite(one):
            for array in arrays.values():
                array[prompt, ..., :real, :real] = torch.nan
            continue
        attention_map, attention_mask = attention_map_and_mask(one)
        arrays["attention_map"][prompt, :real, :real] = attention_map[0]
        arrays["attention_mask"][prompt, :real, :real] = attention_mask[0]
        vector = _random_vector(one)
        _prove(proofs, prompt, one, vector, attention_map[0] @ vector, attention_mask[0] @ vector)
        del attention_map, attention_mask  # before the maps of channels are made
        arrays["channel_map"][prompt, :, :real, :real] = channel_maps(one, channels)[0]
    return arrays | proofs


def reduced(
    operands: Operator,
    length: Int[Tensor, " prompt"],
    target: Int[Tensor, "prompt token"] | None,
    block: int,
) -> dict[str, Tensor]:
    """Block means and maxima, statistics and proofs, over each prompt's real tokens, in zeros.

    NaN where a prompt's operands are not finite.

    Args:
        operands: The operands of all prompts.
        length: Real tokens of each prompt.
        target: The position that each query must look at, −1 where it has none. None: nowhere.
        block: Tokens a side of a block.
    """
    prompts, blocks = operands.batch, -(-operands.tokens // block)
    arrays = {name: torch.zeros(prompts, blocks, blocks) for name in _BY_BLOCK}
    arrays |= {name: torch.zeros(prompts, operands.tokens) for name in _BY_TOKEN}
    proofs = {name: torch.full((prompts,), torch.nan) for name in _PROOFS}
    for prompt, real in enumerate(length.tolist()):
        one = operands.sequence(prompt, real)
        inside = {name: slice(real) for name in _BY_TOKEN} | {
            name: (slice(-(-real // block)),) * 2 for name in _BY_BLOCK
        }
        if not _finite(one):
            for name, array in arrays.items():
                array[prompt][inside[name]] = torch.nan
            continue
        vector = _random_vector(one)
        found = reduced_maps(one, block, None if target is None else target[prompt, :real], vector)
        for name, array in arrays.items():
            array[prompt][inside[name]] = getattr(found, name).to(array)
        _prove(proofs, prompt, one, vector, found.map_product, found.mask_product)
    return arrays | proofs


def _prove(
    proofs: dict[str, Tensor],
    prompt: int,
    operands: Operator,
    vector: Float[Tensor, " token"],
    through_map: Float[Tensor, " token"],
    through_mask: Float[Tensor, " token"],
) -> None:
    """What map and mask do to a vector, against the recurrence."""
    seen, passed = probe(operands, vector[None])
    proofs["map_error"][prompt] = _relative(through_map, seen[0])
    proofs["mask_error"][prompt] = _relative(through_mask, passed[0])
    proofs["channel_agreement"][prompt] = channel_agreement(operands)[0]


def _random_vector(operands: Operator) -> Float[Tensor, " token"]:
    generator = torch.Generator().manual_seed(operands.tokens)
    return torch.randn(operands.tokens, generator=generator).to(operands.delta)


def _relative(got: Tensor, wanted: Tensor) -> Tensor:
    return (got - wanted).norm() / wanted.norm().clamp_min(torch.finfo(wanted.dtype).tiny)


def _finite(operands: Operator) -> bool:
    read = (operands.B, operands.C, *operands.decay, *operands.writes)
    return all(bool(tensor.isfinite().all()) for tensor in read)
