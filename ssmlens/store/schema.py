"""What a capture file holds: names, axes, versions. Writer, reader and guard all read this page.

One file (`run.h5`) or a folder of them (`run/`: `header.h5`, one `layer-005.h5` a block, `manifest.json`). Every
HDF5 file of a capture has the same shape: root attributes, the header's arrays in the root (in `run.h5` and
`header.h5`) and groups `layers/005` (in `run.h5` and `layer-005.h5`). What each array means is in `ssmlens.names`.
"""

from collections.abc import Mapping

import numpy as np

from ssmlens import names
from ssmlens.names import KEY, LAYER_ARRAYS, PROMPT, QUERY, TOKEN

SCHEMA_VERSION = 1
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
}
REQUIRED_ROOT = ("tokens", "length", "prompt_texts", "prompt_kinds")
TEXT_ARRAYS = ("token_strings", "prompt_texts", "prompt_kinds")
STORED_LAYER_ARRAYS = {**LAYER_ARRAYS, PROMPT_DIGEST: (PROMPT, BYTE)}
_MAY_DROP_THE_LAST_AXIS = ("A", "A_log", "D", "A_bar")
OPERANDS = ("delta", "A", "B", "C")

FINITE_STATES = (
    names.FINITE,
    names.NONFINITE_WEIGHTS,
    names.NONFINITE_INPUT,
    names.NONFINITE_OUTPUT,
)
TOKEN_AXES = (TOKEN, QUERY, KEY)

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
VOLATILE_ATTRIBUTES = ("command", "created", "host", "seconds", "time", "versions")

Attribute = str | int | float


def is_volatile(attribute: str) -> bool:
    """Whether an attribute is left out of the digest: time, command, host, versions."""
    return attribute in VOLATILE_ATTRIBUTES or attribute.endswith("_version")


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


def batch_of_prompts(prompts: int, batches: int, batch: int) -> range:
    """The prompts of one batch: a contiguous range, sizes differing by at most one."""
    return range(batch * prompts // batches, (batch + 1) * prompts // batches)


def axis_sizes(
    arrays: Mapping[str, np.ndarray], axes: Mapping[str, tuple[str, ...]]
) -> dict[str, int]:
    """Size of every axis, query and key counting as token. Raises ValueError where two arrays disagree."""
    sizes: dict[str, int] = {}
    said_by: dict[str, str] = {}
    for name, array in arrays.items():
        for axis, size in zip(axes[name], array.shape, strict=True):
            one = TOKEN if axis in TOKEN_AXES else axis
            if sizes.setdefault(one, size) != size:
                raise ValueError(f"{name} has {size} along {axis}, {said_by[one]} has {sizes[one]}")
            said_by.setdefault(one, name)
            if size == 0:
                raise ValueError(f"{name} is empty along {axis}")
    return sizes
