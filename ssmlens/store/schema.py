"""What a capture file holds: names, axes, versions. Writer, reader and guard all read this page.

One file (`run.h5`) or a folder of them (`run/`: `header.h5`, one `layer-005.h5` a block, `manifest.json`). Every
HDF5 file of a capture has the same shape: root attributes, the header's arrays in the root (in `run.h5` and
`header.h5`) and groups `layers/005` (in `run.h5` and `layer-005.h5`). What each array means is in `ssmlens.names`.
"""

from collections.abc import Collection, Mapping

import numpy as np

from ssmlens import names
from ssmlens.names import (
    BLOCK,
    KEY,
    KEY_BLOCK,
    LAG,
    LAYER_ARRAYS,
    PROMPT,
    QUERY,
    QUERY_BLOCK,
    TOKEN,
)

# Version 2 adds `block_kinds`, layers of softmax attention, data-dependent decay and reduced maps to version 1.
SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)
FORMAT = "ssmlens capture"

# Kinds of HDF5 file, the root attribute `kind`.
WHOLE, HEADER, LAYER = "capture", "header", "layer"

BYTE = "byte"
PROMPT_DIGEST = "prompt_digest"
ROOT_ARRAYS: dict[str, tuple[str, ...]] = {
    "tokens": (PROMPT, TOKEN),
    "length": (PROMPT,),
    "target": (PROMPT, TOKEN),
    "token_strings": (PROMPT, TOKEN),
    "prompt_texts": (PROMPT,),
    "prompt_kinds": (PROMPT,),
    "block_kinds": (BLOCK,),
}
REQUIRED_ROOT = ("tokens", "length", "prompt_texts", "prompt_kinds")
TEXT_ARRAYS = ("token_strings", "prompt_texts", "prompt_kinds", "block_kinds")
STORED_LAYER_ARRAYS = {**LAYER_ARRAYS, PROMPT_DIGEST: (PROMPT, BYTE)}
_MAY_DROP_THE_LAST_AXIS = ("A", "A_log", "D", "A_bar")
OPERANDS = ("delta", "A", "B", "C", "D", "log_decay", "write", "write_now")
# A reduced map comes with the statistics that stand for the whole one.
REDUCED_MAP = ("attention_map_mean", "attention_map_max", "lag_energy", "row_magnitude")
REDUCED_MASK = ("attention_mask_mean", "attention_mask_max", "mask_row_sum")

FINITE_STATES = (
    names.FINITE,
    names.NONFINITE_WEIGHTS,
    names.NONFINITE_INPUT,
    names.NONFINITE_OUTPUT,
)
LAYER_KINDS = (names.MAMBA, names.ATTENTION)
TOKEN_AXES = (TOKEN, QUERY, KEY, LAG)
BLOCK_AXES = (QUERY_BLOCK, KEY_BLOCK)
BLOCK_TOKENS = "block_tokens"

# Attributes the store writes itself, and those that tell how a file came about rather than what it says: the
# latter may differ between two captures with the same digest.
OWN_ROOT_ATTRIBUTES = (
    "format",
    "schema_version",
    "kind",
    "layers",
    "pad",
    "header_digest",
    "digest",
    "first_prompt",
)
OWN_LAYER_ATTRIBUTES = ("digest", "static_digest")
VOLATILE_ATTRIBUTES = ("command", "created")

Attribute = str | int | float


def is_volatile(attribute: str) -> bool:
    """Whether an attribute is left out of the digest: command, time, versions."""
    return attribute in VOLATILE_ATTRIBUTES or attribute.endswith("_version")


def version_problem(version: object) -> str | None:
    """What to say of a capture of another schema version; None where this ssmlens reads it."""
    if version in READABLE_VERSIONS:
        return None
    readable = " and ".join(map(str, READABLE_VERSIONS))
    return (
        f"has schema version {version}, this ssmlens reads versions {readable}: "
        "capture it again with this ssmlens, or open it with the ssmlens that wrote it"
    )


def layer_name(index: int) -> str:
    """Name of a layer's group: block 5 is `005`."""
    return f"{index:03d}"


def layer_axes(name: str, ndim: int) -> tuple[str, ...]:
    """Axes of a layer's array with `ndim` of them: trailing ones may be missing (A is (head,) in Mamba-2).

    Raises:
        ValueError: No such array, or it cannot have that many axes.
    """
    if name not in STORED_LAYER_ARRAYS:
        raise ValueError(f"{name!r} is not an array of a layer; see ssmlens.names.LAYER_ARRAYS")
    axes = STORED_LAYER_ARRAYS[name]
    if ndim != len(axes) and not (name in _MAY_DROP_THE_LAST_AXIS and ndim == len(axes) - 1):
        raise ValueError(f"{name} has {ndim} axes; it must have {' '.join(axes)}")
    return axes[:ndim]


def has_prompts(name: str) -> bool:
    """Whether a layer's array has a value a prompt (operands, maps, proofs), unlike weights and A."""
    return STORED_LAYER_ARRAYS[name][0] == PROMPT


def missing_arrays(present: Collection[str], kind: str, *, first: bool) -> list[str]:
    """What a layer of this kind cannot do without and lacks.

    That is its operands, or the map of softmax attention; and of a reduced map the other half and its statistics.

    Args:
        present: Names of the arrays there are.
        kind: `names.MAMBA` or `names.ATTENTION`.
        first: Whether these are the first prompts, with which the arrays without prompts are stored.
    """
    needed = [n for group in (REDUCED_MAP, REDUCED_MASK) if {*group} & {*present} for n in group]
    if kind == names.ATTENTION:
        needed += [] if needed else ["attention_map"]
        return [name for name in needed if name not in present]
    missing = [name for name in ("delta", "B", "C", *needed) if name not in present]
    one_decay = ("A" in present) != ("log_decay" in present)
    return missing if one_decay or not first else [*missing, "exactly one of A and log_decay"]


def block_problem(sizes: Mapping[str, int], attributes: Mapping[str, Attribute]) -> str | None:
    """What is wrong with a layer's reduced maps: blocks that are not of `block_tokens` tokens. None: nothing.

    Args:
        sizes: Size of every axis, as from `axis_sizes`.
        attributes: The layer's attributes.
    """
    if QUERY_BLOCK not in sizes:
        return None
    block = attributes.get(BLOCK_TOKENS)
    if not isinstance(block, int) or block < 1:
        return f"reduced maps need the attribute {BLOCK_TOKENS}, got {block!r}"
    if -(-sizes[TOKEN] // block) != sizes[QUERY_BLOCK]:
        blocks, tokens = sizes[QUERY_BLOCK], sizes[TOKEN]
        return f"{tokens} tokens in blocks of {block} are not {blocks} blocks"
    return None


def tokens_per_block(tokens: int) -> int:
    """Tokens a side of a reduced map's blocks: the power of two that makes at most 1024 blocks of them."""
    return 1 << max(0, -(-tokens // 1024) - 1).bit_length()


def axis_of_size(axis: str) -> str:
    """The axis whose size `axis` shares: query, key and lag are as long as token, key_block as query_block."""
    return TOKEN if axis in TOKEN_AXES else QUERY_BLOCK if axis in BLOCK_AXES else axis


def batch_of_prompts(prompts: int, batches: int, batch: int) -> range:
    """The prompts of one batch: a contiguous range, sizes differing by at most one."""
    return range(batch * prompts // batches, (batch + 1) * prompts // batches)


def axis_sizes(
    arrays: Mapping[str, np.ndarray], axes: Mapping[str, tuple[str, ...]]
) -> dict[str, int]:
    """Size of every `axis_of_size`. Raises ValueError where two arrays disagree."""
    sizes: dict[str, int] = {}
    said_by: dict[str, str] = {}
    for name, array in arrays.items():
        for axis, size in zip(axes[name], array.shape, strict=True):
            one = axis_of_size(axis)
            if sizes.setdefault(one, size) != size:
                raise ValueError(f"{name} has {size} along {axis}, {said_by[one]} has {sizes[one]}")
            said_by.setdefault(one, name)
            if size == 0:
                raise ValueError(f"{name} is empty along {axis}")
    return sizes
