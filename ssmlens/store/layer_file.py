"""One layer in an HDF5 file: checked, written, and compared with its own digest."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

from ssmlens.names import CHANNEL, MAMBA, PROMPT, TOKEN
from ssmlens.store import digest, hdf5
from ssmlens.store.hdf5 import stored_array
from ssmlens.store.schema import (
    FINITE_STATES,
    FORMAT,
    LAYER_ARRAYS,
    LAYER_KINDS,
    LOOKS_AHEAD,
    OWN_LAYER_ATTRIBUTES,
    PROMPT_DIGEST,
    ROLE,
    SCHEMA_VERSION,
    STORED_LAYER_ARRAYS,
    Attribute,
    axis_sizes,
    block_problem,
    has_prompts,
    layer_axes,
    layer_name,
    looks_ahead,
    missing_arrays,
)

_DTYPES = ("float32", "float64", "int32", "int64")


def write_root(file: h5py.File, kind: str, attributes: Mapping[str, Attribute]) -> None:
    """Say what the file is: the root attributes that every file of a capture has, and `attributes`.

    What it needs of a reader follows from the layers that are in it, so they come first.
    """
    layers = file.require_group("layers").values() if "layers" in file else ()
    ahead = any(looks_ahead(hdf5.read_attributes(layer)) for layer in layers)
    version = {"schema_version": SCHEMA_VERSION, "needs": LOOKS_AHEAD if ahead else ""}
    hdf5.write_attributes(file, {"format": FORMAT, **version, "kind": kind, **attributes})


def new_layer(file: h5py.File, index: int) -> h5py.Group:
    """An empty group for block `index`."""
    return file.require_group("layers").create_group(layer_name(index))


def stored_layer(file: h5py.File, index: int) -> h5py.Group:
    """The group of block `index`."""
    group = file[f"layers/{layer_name(index)}"]
    assert isinstance(group, h5py.Group)
    return group


def array_names(group: h5py.Group) -> list[str]:
    """The layer's arrays that this ssmlens knows: neither its bare dimensions nor the store's own digests."""
    present = set(group)
    return [name for name in LAYER_ARRAYS if name in present]


def all_array_names(group: h5py.Group) -> list[str]:
    """The layer's arrays, and those of later versions, which say what they are."""
    others = sorted({str(name) for name in group} - {*STORED_LAYER_ARRAYS})
    later = [name for name in others if ROLE in stored_array(group, name).attrs]
    return array_names(group) + later


def checked_arrays(
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Attribute],
    prompts: int,
    tokens: int,
    *,
    first: bool,
) -> dict[str, np.ndarray]:
    """The arrays that a batch of prompts stores, C-contiguous: the first one also those without prompts.

    `channel` is kept in every batch: merging compares it.

    Args:
        arrays: The layer's arrays by name.
        attributes: Its checked attributes.
        prompts: Number of prompts of the batch.
        tokens: Number of tokens, padding included.
        first: Whether it is the first batch.

    Raises:
        ValueError: An unknown name, a wrong number of axes, sizes that disagree, a dtype that is not stored, or
            an operand that is missing.
    """
    axes = {name: layer_axes(name, array.ndim) for name, array in arrays.items()}
    for name, array in arrays.items():
        if str(array.dtype) not in _DTYPES:
            raise ValueError(f"{name} is {array.dtype}; stored are {', '.join(_DTYPES)}")
    missing = missing_arrays(arrays, attributes, first=first)
    if missing:
        raise ValueError(
            f"a layer is stored with its operands, or softmax attention with its map; "
            f"missing: {', '.join(missing)}"
        )
    if ("channel_map" in arrays) != (CHANNEL in arrays):
        raise ValueError("channel_map and channel (which channels they are) go together")
    sizes = axis_sizes(arrays, axes)
    if sizes[PROMPT] != prompts:
        raise ValueError(f"the arrays have {sizes[PROMPT]} prompts, the batch has {prompts}")
    if sizes[TOKEN] != tokens:
        raise ValueError(
            f"the arrays have {sizes[TOKEN]} tokens, pad them to the header's {tokens}"
        )
    if problem := block_problem(sizes, attributes):
        raise ValueError(problem)
    kept = {n: a for n, a in arrays.items() if first or has_prompts(n) or n == CHANNEL}
    return {name: np.asarray(array, order="C") for name, array in kept.items()}


def checked_attributes(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """The layer's attributes, `kind` being Mamba unless it is said.

    Raises:
        ValueError: `finite` is missing or none of its values, `kind` is none, or an attribute is the store's own.
    """
    finite = attributes.get("finite")
    if finite not in FINITE_STATES:
        raise ValueError(f"a layer's `finite` is one of {FINITE_STATES}, got {finite!r}")
    taken = sorted(set(attributes) & {*OWN_LAYER_ATTRIBUTES})
    if taken:
        raise ValueError(f"these attributes are the store's own: {', '.join(taken)}")
    kind = attributes.get("kind", MAMBA)
    if kind not in LAYER_KINDS:
        raise ValueError(f"a layer's `kind` is one of {LAYER_KINDS}, got {kind!r}")
    return {"kind": kind, **attributes}


def write_layer(
    file: h5py.File,
    index: int,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Attribute],
    threads: ThreadPoolExecutor | None = None,
) -> None:
    """Write block `index` from checked arrays and attributes, with their digests; `threads` share the work."""
    mine = {name: array for name, array in arrays.items() if has_prompts(name)}
    shared = {name: array for name, array in arrays.items() if not has_prompts(name)}
    prompts = len(next(iter(mine.values())))
    digests = threads.submit(digest.prompt_digests, mine, prompts) if threads else None
    group = new_layer(file, index)
    for name in coordinates_first(arrays):
        hdf5.write_array(group, name, arrays[name], layer_axes(name, arrays[name].ndim), threads)
    rows = digests.result() if digests else digest.prompt_digests(mine, prompts)
    close_layer(group, index, rows, digest.static_digest(shared), attributes)


def close_layer(
    group: h5py.Group,
    index: int,
    prompts: np.ndarray,
    static: str,
    attributes: Mapping[str, Attribute],
) -> None:
    """Write what comes last: the attributes and the digests over everything."""
    hdf5.write_array(group, PROMPT_DIGEST, prompts, layer_axes(PROMPT_DIGEST, 2))
    whole = digest.layer_digest(index, attributes, static, prompts)
    hdf5.write_attributes(group, {**attributes, "static_digest": static, "digest": whole})


def coordinates_first(names: Mapping[str, object] | list[str]) -> list[str]:
    """`names`, a coordinate before what it labels."""
    return sorted(names, key=lambda name: name != CHANNEL)


def damages(group: h5py.Group, index: int) -> list[str]:
    """What of the layer is not as it was written: prompts, the arrays without prompts, attributes.

    Raises:
        OSError: A chunk does not pass its checksum.
    """
    mine: dict[str, np.ndarray] = {}
    shared: dict[str, np.ndarray] = {}
    for name in all_array_names(group):
        dataset = stored_array(group, name)
        (mine if hdf5.axes_of(dataset)[0] == PROMPT else shared)[name] = dataset[...]
    attributes = hdf5.read_attributes(group)
    written = stored_array(group, PROMPT_DIGEST)[...]
    rows = digest.prompt_digests(mine, len(written))
    found = [f"prompt {p}" for p in np.flatnonzero((rows != written).any(axis=1))]
    static = str(attributes["static_digest"])
    if digest.static_digest(shared) != static:
        found.append("its arrays without prompts")
    if digest.layer_digest(index, attributes, static, written) != attributes["digest"]:
        found.append("its attributes")
    return found
