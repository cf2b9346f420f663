"""One layer in an HDF5 file: checked, written, and compared with its digest."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

from ssmlens.files.sink import Sink
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
from ssmlens.store.skeleton import Planned

_DTYPES = ("float32", "float64", "int32", "int64")


def write_root(file: h5py.File, kind: str, attributes: Mapping[str, Attribute]) -> None:
    """Write the root attributes: those that every file of a capture has, and `attributes`.

    Write the layers first: the attribute `needs` follows from them.
    """
    layers = file.require_group("layers").values() if "layers" in file else ()
    marked = (layer for layer in layers if LOOKS_AHEAD in layer.attrs)
    ahead = any(looks_ahead(hdf5.read_attributes(layer)) for layer in marked)
    version = {"schema_version": SCHEMA_VERSION, "needs": LOOKS_AHEAD if ahead else ""}
    hdf5.write_attributes(file, {"format": FORMAT, **version, "kind": kind, **attributes})


def new_layer(file: h5py.File, index: int) -> h5py.Group:
    """Create an empty group for block `index`."""
    return file.require_group("layers").create_group(layer_name(index))


def stored_layer(file: h5py.File, index: int) -> h5py.Group:
    """The group of block `index`."""
    group = file[f"layers/{layer_name(index)}"]
    assert isinstance(group, h5py.Group)
    return group


def array_names(group: h5py.Group) -> list[str]:
    """The layer's arrays that this ssmlens knows, without bare dimensions and digests."""
    present = set(group)
    return [name for name in LAYER_ARRAYS if name in present]


def all_array_names(group: h5py.Group) -> list[str]:
    """The layer's arrays, and those of later versions, which carry their role."""
    others = sorted({str(name) for name in group} - {*STORED_LAYER_ARRAYS})
    later = [name for name in others if ROLE in stored_array(group, name).attrs]
    return array_names(group) + later


def check_arrays(
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Attribute],
    prompts: int,
    tokens: int,
    *,
    first: bool,
) -> dict[str, np.ndarray]:
    """Check a batch's arrays and return those that it stores, C-contiguous.

    Only the first batch stores the arrays without prompts. Every batch stores `channel`: merging compares it.

    Args:
        arrays: The layer's arrays by name.
        attributes: Its checked attributes.
        prompts: Number of prompts of the batch.
        tokens: Number of tokens, padding included.
        first: Whether it is the first batch.

    Raises:
        ValueError: An unknown name, a wrong number of axes, sizes that disagree, an unsupported dtype, or a missing
            operand.
    """
    axes = {name: layer_axes(name, array.ndim) for name, array in arrays.items()}
    for name, array in arrays.items():
        if str(array.dtype) not in _DTYPES:
            raise ValueError(f"{name} is {array.dtype}; it must be one of {', '.join(_DTYPES)}")
    missing = missing_arrays(arrays, attributes, first=first)
    if missing:
        raise ValueError(
            "a layer needs its operands, or, for softmax attention, its map; "
            f"missing: {', '.join(missing)}"
        )
    if ("channel_map" in arrays) != (CHANNEL in arrays):
        raise ValueError("channel_map and channel (the channels' numbers) must come together")
    sizes = axis_sizes(arrays, axes)
    if sizes[PROMPT] != prompts:
        raise ValueError(f"the arrays have {sizes[PROMPT]} prompts, the batch has {prompts}")
    if sizes[TOKEN] != tokens:
        raise ValueError(
            f"the arrays have {sizes[TOKEN]} tokens, pad them to the header's {tokens}"
        )
    if problem := block_problem(sizes, attributes):
        raise ValueError(problem)
    stored = {n: a for n, a in arrays.items() if first or has_prompts(n) or n == CHANNEL}
    return {name: np.asarray(array, order="C") for name, array in stored.items()}


def check_attributes(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Check a layer's attributes and return them; `kind` defaults to Mamba.

    Raises:
        ValueError: `finite` is missing or unknown, `kind` is unknown, or an attribute is reserved for the store.
    """
    finite = attributes.get("finite")
    if finite not in FINITE_STATES:
        raise ValueError(f"a layer's `finite` is one of {FINITE_STATES}, got {finite!r}")
    reserved = sorted(set(attributes) & {*OWN_LAYER_ATTRIBUTES})
    if reserved:
        raise ValueError(f"these attributes are reserved for the store: {', '.join(reserved)}")
    kind = attributes.get("kind", MAMBA)
    if kind not in LAYER_KINDS:
        raise ValueError(f"a layer's `kind` is one of {LAYER_KINDS}, got {kind!r}")
    return {"kind": kind, **attributes}


def write_layer(
    group: h5py.Group,
    index: int,
    datasets: Sequence[Planned],
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, Attribute],
    sink: Sink,
    threads: ThreadPoolExecutor | None = None,
) -> str:
    """Write block `index` from checked arrays and attributes, with their digests, which `threads` compute.

    Returns the layer's digest.

    Args:
        group: The layer, which has all datasets, empty (see `skeleton`).
        index: The block.
        datasets: The `skeleton.plan` of the arrays.
        arrays: The arrays.
        attributes: The layer's attributes.
        sink: The sink of its file.
        threads: A pool.
    """
    per_prompt = {name: array for name, array in arrays.items() if has_prompts(name)}
    shared = {name: array for name, array in arrays.items() if not has_prompts(name)}
    *of_arrays, of_digests = datasets
    prompts = of_digests.shape[0]
    digests = threads.submit(digest.prompt_digests, per_prompt, prompts) if threads else None
    for planned in of_arrays:
        dataset = stored_array(group, planned.name)
        hdf5.write_chunks(dataset, arrays[planned.name], planned.axes, planned.level, sink)
    rows = digests.result() if digests else digest.prompt_digests(per_prompt, prompts)
    dataset = stored_array(group, PROMPT_DIGEST)
    hdf5.write_chunks(dataset, rows, of_digests.axes, of_digests.level)
    return close_layer(group, index, rows, digest.static_digest(shared), attributes)


def close_layer(
    group: h5py.Group,
    index: int,
    prompts: np.ndarray,
    static: str,
    attributes: Mapping[str, Attribute],
) -> str:
    """Complete a layer whose arrays and prompt digests are written: write its attributes and other digests.

    Returns the layer's digest.
    """
    of_layer = digest.layer_digest(index, attributes, static, prompts)
    digests = {"static_digest": static, "digest": of_layer}
    hdf5.write_attributes(group, {**attributes, **digests})
    return of_layer


def damages(group: h5py.Group, index: int) -> list[str]:
    """List the parts of the layer that differ from what was written: prompts, arrays without prompts, attributes.

    Raises:
        OSError: A chunk fails its checksum.
    """
    per_prompt: dict[str, np.ndarray] = {}
    shared: dict[str, np.ndarray] = {}
    for name in all_array_names(group):
        dataset = stored_array(group, name)
        (per_prompt if hdf5.axes_of(dataset)[0] == PROMPT else shared)[name] = dataset[...]
    attributes = hdf5.read_attributes(group)
    written = stored_array(group, PROMPT_DIGEST)[...]
    rows = digest.prompt_digests(per_prompt, len(written))
    parts = [f"prompt {p}" for p in np.flatnonzero((rows != written).any(axis=1))]
    static = str(attributes["static_digest"])
    if digest.static_digest(shared) != static:
        parts.append("its arrays without prompts")
    if digest.layer_digest(index, attributes, static, written) != attributes["digest"]:
        parts.append("its attributes")
    return parts
