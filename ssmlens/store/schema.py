"""The schema of a capture file: names, axes, versions. Writer, reader and guard share this module.

One file (`run.h5`) or a folder of them (`run/`: `header.h5`, one `layer-005.h5` a block, `manifest.json`). Every
HDF5 file of a capture has the same shape: root attributes, the header's arrays in the root (in `run.h5` and
`header.h5`) and groups `layers/005` (in `run.h5` and `layer-005.h5`). `ssmlens.names` explains each array; the file of
an operator explains its operands.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ssmlens import names
from ssmlens.names import (
    BLOCK,
    KEY,
    KEY_BLOCK,
    LAG,
    PROMPT,
    QUERY,
    QUERY_BLOCK,
    TOKEN,
)
from ssmlens.scan.operator import Operator, operators
from ssmlens.scan.operators.softmax import Softmax

# Version 2 adds `block_kinds`, layers of softmax attention, data-dependent decay and reduced maps to version 1.
# Version 3: a layer names its operator, every dataset carries its axes and its role, and readers skip unknown datasets.
# The attribute `needs` lists the features that a reader must know to read the file correctly.
SCHEMA_VERSION = 3
# The attribute of a layer that is not causal: its maps are not lower triangles. A file with such a layer needs a reader
# that knows the attribute.
LOOKS_AHEAD = "looks_ahead"
FEATURES: tuple[str, ...] = (LOOKS_AHEAD,)
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
OPERATORS: dict[str, type[Operator]] = {kind: operators[kind] for kind in operators}
AXES, ROLE = "axes", "role"  # attributes of every dataset


def _operands() -> dict[str, tuple[str, ...]]:
    """The arrays that operators store. If several share a name, the longest axes: the last axis may be dropped."""
    arrays: dict[str, tuple[str, ...]] = {}
    for operator in OPERATORS.values():
        for name, axes in operator.axes.items() if operator.stored else ():
            other = arrays.get(name, ())
            if axes[: len(other)] != other[: len(axes)]:
                raise ValueError(f"operators disagree on the axes of {name}: {axes} and {other}")
            arrays[name] = max(axes, other, key=len)
    return arrays


# Ā and B̄ (`store_discretized`) follow from the operands.
_DISCRETIZED = dict.fromkeys(("A_bar", "B_bar"), (PROMPT, TOKEN, names.HEAD, names.STATE))
_BY_ROLE = {names.OPERAND: {**_operands(), **_DISCRETIZED}, **names.ARRAYS}
LAYER_ARRAYS = {name: axes for arrays in _BY_ROLE.values() for name, axes in arrays.items()}
STORED_LAYER_ARRAYS = {**LAYER_ARRAYS, PROMPT_DIGEST: (PROMPT, BYTE)}
MAY_DROP_THE_LAST_AXIS = {
    *("A_log", "D", "A_bar", "log_decay", "dt_bias"),
    *(name for operator in OPERATORS.values() for name in operator.may_drop_the_last_axis),
}
# A reduced map is stored with the statistics that replace the whole map.
_REDUCED = {
    names.MAP: ("lag_energy", "row_magnitude"),  # and ahead_energy, where the layer looks ahead
    names.MASK: ("mask_row_sum",),
    names.ERASE: (),
}

FINITE_STATES = (
    names.FINITE,
    names.NONFINITE_WEIGHTS,
    names.NONFINITE_INPUT,
    names.NONFINITE_OUTPUT,
)
LAYER_KINDS = (
    *(names.MAMBA, names.DELTA_RULE, names.RECURRENCE, names.CONVOLUTION),
    *(names.LINEAR_ATTENTION, names.ATTENTION),
)
TOKEN_AXES = (TOKEN, QUERY, KEY, LAG)
BLOCK_AXES = (QUERY_BLOCK, KEY_BLOCK)
BLOCK_TOKENS = "block_tokens"

# Attributes that the store writes itself. Volatile attributes tell how a file was made, not what it contains: they may
# differ between two captures with the same digest.
OWN_ROOT_ATTRIBUTES = (
    "format",
    "schema_version",
    "needs",
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


def version_problem(version: object, needs: object = "") -> str | None:
    """Why this ssmlens cannot read a capture; None if it can.

    Args:
        version: Its schema version. A later one is read too.
        needs: The features that a reader must know, separated by spaces.
    """
    if not isinstance(version, int) or version < 1:
        return f"has schema version {version}, which no ssmlens writes: capture it again"
    lacking = [feature for feature in str(needs).split() if feature not in FEATURES]
    if not lacking:
        return None
    return (
        f"needs {', '.join(lacking)} to be read (schema version {version}), which this ssmlens lacks: "
        "open it with a later ssmlens, or capture it again with this one"
    )


def role_of(name: str) -> str:
    """The role of a layer's array; "prompts" for an array of the header."""
    roles = [role for role, arrays in _BY_ROLE.items() if name in arrays]
    return roles[0] if roles else "prompts"


def operator_name(attributes: Mapping[str, Attribute]) -> str:
    """The name of a layer's operator, from its attributes; before version 3, from its kind."""
    attends = attributes.get("kind", names.MAMBA) == names.ATTENTION
    return str(attributes.get("operator", Softmax.kind if attends else "decay scan"))


def is_softmax(attributes: Mapping[str, Attribute]) -> bool:
    """Whether a layer is softmax attention, from its attributes."""
    return operator_name(attributes) == Softmax.kind


def looks_ahead(attributes: Mapping[str, Any]) -> bool:
    """Whether a layer is not causal, from its attributes: its tokens then read later ones too."""
    return bool(attributes.get(LOOKS_AHEAD, 0))


def layer_name(index: int) -> str:
    """Name of a layer's group: block 5 is `005`."""
    return f"{index:03d}"


def layer_axes(name: str, ndim: int) -> tuple[str, ...]:
    """The axes of a layer's array with `ndim` axes: the last may be dropped (A is (head,) in Mamba-2).

    Raises:
        ValueError: No such array, or it cannot have that many axes.
    """
    if name not in STORED_LAYER_ARRAYS:
        raise ValueError(
            f"{name!r} is not an array of a layer; see ssmlens.store.schema.LAYER_ARRAYS"
        )
    axes = STORED_LAYER_ARRAYS[name]
    if ndim != len(axes) and not (name in MAY_DROP_THE_LAST_AXIS and ndim == len(axes) - 1):
        raise ValueError(f"{name} has {ndim} axes; it must have {' '.join(axes)}")
    return axes[:ndim]


def has_prompts(name: str) -> bool:
    """Whether a layer's array has a prompt axis (operands, maps, checks), unlike weights and A."""
    return STORED_LAYER_ARRAYS[name][0] == PROMPT


def missing_arrays(
    present: Collection[str], attributes: Mapping[str, Attribute], *, first: bool
) -> list[str]:
    """List the required arrays that a layer lacks.

    Required are its operands, or its map if operands are not stored. A reduced map also needs its statistics.

    Args:
        present: Names of the arrays that exist.
        attributes: The layer's attributes.
        first: Whether this is the first batch, which stores the arrays without prompts.
    """
    needed: list[str] = []
    for kind, statistics in _REDUCED.items():
        name = names.MAP_ARRAYS[kind]
        group = (f"{name}_mean", f"{name}_max", *statistics)
        if kind == names.MAP and looks_ahead(attributes):
            group += ("ahead_energy",)
        needed += group if {*group} & {*present} else ()
    operator = OPERATORS.get(operator_name(attributes))
    if operator is None or operator.stored:
        absent = operator.missing(present, first=first) if operator else []
        return absent + [name for name in needed if name not in present]
    needed = needed or [names.MAP_ARRAYS[names.MAP]]
    return [name for name in needed if name not in present]


def block_problem(sizes: Mapping[str, int], attributes: Mapping[str, Attribute]) -> str | None:
    """Why the block axes of a layer's reduced maps do not fit its `block_tokens`; None if they fit.

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
    """Side of a reduced map's blocks, in tokens: the smallest power of two with at most 1024 blocks per axis."""
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
    array_of: dict[str, str] = {}
    for name, array in arrays.items():
        for axis, size in zip(axes[name], array.shape, strict=True):
            one = axis_of_size(axis)
            if sizes.setdefault(one, size) != size:
                raise ValueError(
                    f"{name} has {size} along {axis}, {array_of[one]} has {sizes[one]}"
                )
            array_of.setdefault(one, name)
            if size == 0:
                raise ValueError(f"{name} is empty along {axis}")
    return sizes
