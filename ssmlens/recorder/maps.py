"""A layer's maps for every prompt of a batch, whole or reduced, checked against the operator."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssmlens.names import AGREEMENTS, MAP, MAP_ARRAYS, MAP_ERRORS, MAP_STATISTICS
from ssmlens.recorder.host import ToHost
from ssmlens.recorder.replay import Replays
from ssmlens.scan.finite import finite_flag
from ssmlens.scan.operator import Operator, scan_dtype
from ssmlens.scan.reduce import reduced_maps
from ssmlens.store.schema import role_of

_MAP_ROLE = role_of("attention_map")


@dataclasses.dataclass(frozen=True)
class Maps:
    """Maps and their checks.

    Attributes:
        arrays: By the names under which they are stored.
        finite: Whether every map is finite.
        unknown: Prompts whose operands are not finite, to be passed to `set_unknown` once the arrays are on the host.
    """

    arrays: dict[str, Tensor]
    finite: Bool[Tensor, ""]
    unknown: Bool[Tensor, " prompt"]


# Side of the blocks, in tokens, in which a head's map is summed; the blocks are not stored.
_STRIP = 64


def whole(
    operands: Operator,
    length: Int[Tensor, " prompt"],
    channels: Sequence[int],
    to_host: ToHost,
    replays: Replays,
) -> Maps:
    """Compute every map of the operator, `channel_map` and the checks, over each prompt's real tokens; 0 at padding.

    `to_host` brings the maps to the host one by one. No step waits for a GPU.
    """
    arrays: dict[str, Tensor] = {}
    checks, finite, known = _unknown_checks(operands), [], []
    for prompt, real in enumerate(length.tolist()):
        one, tokens = operands.sequence(prompt, real), (0, real)
        known.append(one.finite)
        computed = replays.run(_means_and_checks, one, _random_vector(one))
        means = computed.pop("means")
        finite.append(computed.pop("finite"))
        for place, kind in enumerate(one.maps):
            _put(arrays, MAP_ARRAYS[kind], operands, prompt, means[place], to_host)
        for name, value in computed.items():
            checks[name][prompt] = value
        del means  # before the maps of channels are computed
        if channels:
            of_channels = one.matrix(channels, tokens, tokens)[0]
            finite.append(finite_flag(of_channels))
            _put(arrays, "channel_map", operands, prompt, of_channels, to_host)
    return Maps(arrays | checks, torch.stack([*finite, *known]).all(), ~torch.stack(known))


def set_unknown(arrays: Mapping[str, np.ndarray], prompt: int, real: int) -> None:
    """Set a prompt's whole maps, over its real tokens, and their checks to NaN."""
    for array in arrays.values():
        here = (prompt, ..., slice(real), slice(real)) if array.ndim > 2 else prompt
        array[here] = np.nan


def _means_and_checks(one: Operator, vector: Float[Tensor, " token"]) -> dict[str, Tensor]:
    """The maps of one sequence [kind query key], whether they are finite, and their checks by name."""
    tokens = (0, one.tokens)
    means = one.means(one.maps, tokens, tokens)[0]
    products = {kind: means[place] @ vector for place, kind in enumerate(one.maps)}
    return {"means": means, "finite": finite_flag(means), **_checks(one, vector, products)}


def _put(
    arrays: dict[str, Tensor],
    name: str,
    operands: Operator,
    prompt: int,
    part: Tensor,
    to_host: ToHost,
) -> None:
    """Copy one prompt's map, or maps of channels, into the host arrays of all prompts, padded with zeros."""
    tokens = operands.tokens
    if operands.batch == 1 and part.shape[-1] == tokens and not part.is_cuda:
        arrays[name] = part.unsqueeze(0)  # the only prompt, already on the host
        return
    if name not in arrays:
        arrays[name] = to_host.empty((operands.batch, *part.shape[:-2], tokens, tokens), part)
    to_host.fill(arrays[name][prompt], part)


def attention_map(operands: Operator, length: Int[Tensor, " prompt"], to_host: ToHost) -> Tensor:
    """Compute the attention map alone, over each prompt's real tokens; 0 at padding."""
    array = to_host.empty((operands.batch, operands.tokens, operands.tokens), operands.like)
    for prompt, real in enumerate(length.tolist()):
        mean = operands.sequence(prompt, real).means((MAP,), (0, real), (0, real))
        to_host.fill(array[prompt], mean[0, 0])
    return array


def head_statistics(
    operands: Operator,
    length: Int[Tensor, " prompt"],
    target: Int[Tensor, "prompt token"] | None,
    separator: Bool[Tensor, "prompt token"] | None = None,
) -> dict[str, Tensor]:
    """Compute where the rows of each head's map look (`names.MAP_STATISTICS`); 0 at padding. The maps are not stored.

    NaN if a prompt's operands are not finite. Without `reach` if tokens look ahead (`ReducedMaps.reach`).

    Args:
        operands: The operands of all prompts.
        length: Real tokens of each prompt.
        target: The position that each query must look at, −1 for none. None: no query has one.
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
        targets, separators = (
            None if rows is None else rows[prompt, :real] for rows in (target, separator)
        )
        for head in range(operands.heads):
            alone = reduced_maps(one.select_heads([head]), _STRIP, targets, separator=separators)
            statistics = alone.statistics()
            for name in known:
                arrays[f"head_{name}"][prompt, head, :real] = statistics[name]
    return arrays


def reduced(
    operands: Operator,
    length: Int[Tensor, " prompt"],
    target: Int[Tensor, "prompt token"] | None,
    block: int,
    separator: Bool[Tensor, "prompt token"] | None = None,
) -> Maps:
    """Compute block means and maxima, statistics and checks, over each prompt's real tokens; 0 at padding.

    NaN if a prompt's operands are not finite.

    Args:
        operands: The operands of all prompts.
        length: Real tokens of each prompt.
        target: The position that each query must look at, −1 for none. None: no query has one.
        block: Side of a block in tokens.
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
        targets, separators = (
            None if rows is None else rows[prompt, :real] for rows in (target, separator)
        )
        maps = reduced_maps(one, block, targets, vector, separators)
        _fill(arrays, prompt, maps.arrays(), operands, block)
        for name, value in _checks(one, vector, maps.product).items():
            checks[name][prompt] = value
    for prompt in bad:
        empty = reduced_maps(operands.sequence(prompt, 0), block).arrays()
        _fill(arrays, prompt, empty, operands, block)
        real = int(length[prompt])
        for array in arrays.values():
            rows = real if array.ndim == 2 else -(-real // block)
            array[(prompt, *[slice(rows)] * (array.ndim - 1))] = torch.nan
    of_maps = [array for name, array in arrays.items() if role_of(name) == _MAP_ROLE]
    unknown = torch.zeros(operands.batch, dtype=torch.bool)  # those are NaN already
    return Maps(arrays | checks, finite_flag(*of_maps), unknown)


def _fill(
    arrays: dict[str, Tensor],
    prompt: int,
    values: dict[str, Tensor],
    operands: Operator,
    block: int,
) -> None:
    """Copy one prompt's arrays, whose axes are tokens or blocks of tokens, into those of the batch."""
    for name, value in values.items():
        size = operands.tokens if value.ndim == 1 else -(-operands.tokens // block)
        shape = (operands.batch, *[size] * value.ndim)
        array = arrays.setdefault(name, torch.zeros(shape))
        array[(prompt, *map(slice, value.shape))] = value.to(array)


def _unknown_checks(operands: Operator) -> dict[str, Tensor]:
    names = [
        table[kind] for table in (MAP_ERRORS, AGREEMENTS) for kind in operands.maps if kind in table
    ]
    device = operands.like.device  # so that storing a check there does not wait for a GPU
    return {name: torch.full((operands.batch,), torch.nan, device=device) for name in names}


def _checks(
    operands: Operator,
    vector: Float[Tensor, " token"],
    products: Mapping[str, Float[Tensor, " token"]],
) -> dict[str, Tensor]:
    """Compare each map times a vector with the recurrence, and compute the agreement of the heads."""
    checks: dict[str, Tensor] = {}
    for kind, expected in operands.probe(vector[None]).items():
        checks[MAP_ERRORS[kind]] = _relative_error(products[kind], expected[0])
        if kind in AGREEMENTS:
            checks[AGREEMENTS[kind]] = operands.agreement(kind)[0]
    return checks


def _random_vector(operands: Operator) -> Float[Tensor, " token"]:
    generator = torch.Generator().manual_seed(operands.tokens)
    vector = torch.randn(operands.tokens, generator=generator)
    return vector.to(operands.like.device, scan_dtype(operands.like))


def _relative_error(value: Tensor, expected: Tensor) -> Tensor:
    size = expected.norm().clamp_min(torch.finfo(expected.dtype).tiny)
    return (value - expected).norm() / size
