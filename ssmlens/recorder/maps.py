"""A layer's maps for every prompt of a batch, whole or reduced, with the check that they are the operator's."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssmlens.names import AGREEMENTS, MAP, MAP_ARRAYS, MAP_ERRORS, MAP_STATISTICS
from ssmlens.recorder.host import ToHost
from ssmlens.scan.finite import all_finite, finite_flag
from ssmlens.scan.operator import Operator, scan_dtype
from ssmlens.scan.reduce import reduced_maps
from ssmlens.store.schema import role_of

_MAP_ROLE = role_of("attention_map")


@dataclasses.dataclass(frozen=True)
class Maps:
    """Maps and their checks.

    Attributes:
        arrays: By the names under which they are stored.
        finite: Whether every map is.
    """

    arrays: dict[str, Tensor]
    finite: bool


# Tokens of the blocks by which a head's map is summed up; nothing is kept of the blocks.
_STRIP = 64


def whole(
    operands: Operator,
    length: Int[Tensor, " prompt"],
    channels: Sequence[int],
    to_host: ToHost,
) -> Maps:
    """Every map of the operator, `channel_map` and the maps' checks, over each prompt's real tokens, in zeros.

    NaN where a prompt's operands are not finite. `to_host` brings the maps to the host one by one.
    """
    like = operands.like
    arrays: dict[str, Tensor] = {}
    checks, flags = _unknown_checks(operands), [torch.tensor(True, device=like.device)]
    for prompt, real in enumerate(length.tolist()):
        one, everything = operands.sequence(prompt, real), (0, real)
        if not one.finite:
            flags.append(torch.zeros_like(flags[0]))
            nothing = like.new_full((real, real), torch.nan, dtype=scan_dtype(like))
            for kind in one.maps:
                _put(arrays, MAP_ARRAYS[kind], operands, prompt, nothing, to_host)
            if channels:
                of_some = nothing.expand(len(channels), real, real)
                _put(arrays, "channel_map", operands, prompt, of_some, to_host)
            continue
        means = one.means(one.maps, everything, everything)[0]
        flags.append(finite_flag(means))
        vector, products = _random_vector(one), {}
        for place, kind in enumerate(one.maps):
            _put(arrays, MAP_ARRAYS[kind], operands, prompt, means[place], to_host)
            products[kind] = means[place] @ vector
        _check(checks, prompt, one, vector, products)
        del means  # before the maps of channels are made
        if channels:
            of_some = one.matrix(channels, everything, everything)[0]
            flags.append(finite_flag(of_some))
            _put(arrays, "channel_map", operands, prompt, of_some, to_host)
    return Maps(arrays | checks, bool(torch.stack(flags).all()))


def _put(
    arrays: dict[str, Tensor],
    name: str,
    operands: Operator,
    prompt: int,
    part: Tensor,
    to_host: ToHost,
) -> None:
    """Put one prompt's map, or maps of channels, among those of all prompts on the host, padded with zeros."""
    tokens = operands.tokens
    if operands.batch == 1 and part.shape[-1] == tokens and not part.is_cuda:
        arrays[name] = part.unsqueeze(0)  # it is all there is, and where it should be
        return
    if name not in arrays:
        arrays[name] = to_host.empty((operands.batch, *part.shape[:-2], tokens, tokens), part)
    to_host.fill(arrays[name][prompt], part)


def attention_map(operands: Operator, length: Int[Tensor, " prompt"], to_host: ToHost) -> Tensor:
    """The attention map alone, over each prompt's real tokens, in zeros."""
    array = to_host.empty((operands.batch, operands.tokens, operands.tokens), operands.like)
    for prompt, real in enumerate(length.tolist()):
        mean = operands.sequence(prompt, real).means((MAP,), (0, real), (0, real))
        to_host.fill(array[prompt], mean[0, 0])
    return array


def of_heads(
    operands: Operator,
    length: Int[Tensor, " prompt"],
    target: Int[Tensor, "prompt token"] | None,
    separator: Bool[Tensor, "prompt token"] | None = None,
) -> dict[str, Tensor]:
    """Where the rows of each head's own map look (`names.MAP_STATISTICS`), in zeros; no head's map is kept.

    NaN where a prompt's operands are not finite. Without `reach` where tokens look ahead (`ReducedMaps.reach`).

    Args:
        operands: The operands of all prompts.
        length: Real tokens of each prompt.
        target: The position that each query must look at, −1 where it has none. None: nowhere.
        separator: Which tokens are separators. None: none.
    """
    shape = operands.batch, operands.heads, operands.tokens
    zeros = operands.like.new_zeros(shape, dtype=torch.float32)
    known = [name for name in MAP_STATISTICS if name != "reach" or operands.is_causal]
    arrays = {f"head_{name}": zeros.clone() for name in known}
    for prompt, real in enumerate(length.tolist()):
        one = operands.sequence(prompt, real)
        if not one.finite:
            for array in arrays.values():
                array[prompt, :, :real] = torch.nan
            continue
        looks, parts = (None if at is None else at[prompt, :real] for at in (target, separator))
        for head in range(operands.heads):
            alone = reduced_maps(one.select_heads([head]), _STRIP, looks, separator=parts)
            found = alone.statistics()
            for name in known:
                arrays[f"head_{name}"][prompt, head, :real] = found[name]
    return arrays


def reduced(
    operands: Operator,
    length: Int[Tensor, " prompt"],
    target: Int[Tensor, "prompt token"] | None,
    block: int,
    separator: Bool[Tensor, "prompt token"] | None = None,
) -> Maps:
    """Block means and maxima, statistics and checks, over each prompt's real tokens, in zeros.

    NaN where a prompt's operands are not finite.

    Args:
        operands: The operands of all prompts.
        length: Real tokens of each prompt.
        target: The position that each query must look at, −1 where it has none. None: nowhere.
        block: Tokens a side of a block.
        separator: Which tokens are separators. None: none.
    """
    arrays: dict[str, Tensor] = {}
    checks, bad = _unknown_checks(operands), []
    for prompt, real in enumerate(length.tolist()):
        one = operands.sequence(prompt, real)
        if not one.finite:
            bad.append(prompt)
            continue
        vector = _random_vector(one)
        looks, parts = (None if at is None else at[prompt, :real] for at in (target, separator))
        found = reduced_maps(one, block, looks, vector, parts)
        _fill(arrays, prompt, found.arrays(), operands, block)
        _check(checks, prompt, one, vector, found.product)
    for prompt in bad:
        empty = reduced_maps(operands.sequence(prompt, 0), block).arrays()
        _fill(arrays, prompt, empty, operands, block)
        real = int(length[prompt])
        for array in arrays.values():
            rows = real if array.ndim == 2 else -(-real // block)
            array[(prompt, *[slice(rows)] * (array.ndim - 1))] = torch.nan
    of_maps = [array for name, array in arrays.items() if role_of(name) == _MAP_ROLE]
    return Maps(arrays | checks, all_finite(*of_maps))


def _fill(
    arrays: dict[str, Tensor],
    prompt: int,
    found: dict[str, Tensor],
    operands: Operator,
    block: int,
) -> None:
    """Put one prompt's arrays, whose axes are all tokens or blocks of them, into those of the batch."""
    for name, value in found.items():
        size = operands.tokens if value.ndim == 1 else -(-operands.tokens // block)
        shape = (operands.batch, *[size] * value.ndim)
        array = arrays.setdefault(name, torch.zeros(shape))
        array[(prompt, *map(slice, value.shape))] = value.to(array)


def _unknown_checks(operands: Operator) -> dict[str, Tensor]:
    names = [
        table[kind] for table in (MAP_ERRORS, AGREEMENTS) for kind in operands.maps if kind in table
    ]
    device = operands.like.device  # nobody waits for a GPU to store what it has found there
    return {name: torch.full((operands.batch,), torch.nan, device=device) for name in names}


def _check(
    checks: dict[str, Tensor],
    prompt: int,
    operands: Operator,
    vector: Float[Tensor, " token"],
    products: Mapping[str, Float[Tensor, " token"]],
) -> None:
    """What each map does to a vector, against the recurrence; and what the mean over heads keeps."""
    for kind, wanted in operands.probe(vector[None]).items():
        checks[MAP_ERRORS[kind]][prompt] = _relative(products[kind], wanted[0])
        if kind in AGREEMENTS:
            checks[AGREEMENTS[kind]][prompt] = operands.agreement(kind)[0]


def _random_vector(operands: Operator) -> Float[Tensor, " token"]:
    generator = torch.Generator().manual_seed(operands.tokens)
    vector = torch.randn(operands.tokens, generator=generator)
    return vector.to(operands.like.device, scan_dtype(operands.like))


def _relative(got: Tensor, wanted: Tensor) -> Tensor:
    return (got - wanted).norm() / wanted.norm().clamp_min(torch.finfo(wanted.dtype).tiny)
