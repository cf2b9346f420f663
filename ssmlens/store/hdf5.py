"""Datasets and attributes as a capture writes them: checksummed, chunked, with named dimensions.

Every dataset passes deflate and fletcher32, and shuffle before them where that helps. Fletcher alone is not enough: it
accepts a chunk whose page was lost (all zero, its checksum too), and cannot tell 0xFFFF from 0x0000. A deflate stream
begins with a nonzero byte and ends in an Adler-32; large chunks have this alone (see `chunks`). Where values would not
shrink, the deflate level is 0, which costs a copy, and nothing is shuffled. Batches are merged by moving chunks without
decoding, where both have the same filters.

Nothing that ssmlens reads lives in HDF5's global heap (strings and references of variable length), which has no
checksum. The dimension scales' references do; only h5netcdf and h5py's `dims` read them.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5ds, h5p, h5s, h5t  # pyright: ignore[reportAttributeAccessIssue]

from ssmlens.files.new import new_file
from ssmlens.files.sink import Sink
from ssmlens.names import (
    CHANNEL,
    GROUP,
    HEAD,
    KEY,
    KEY_BLOCK,
    PROMPT,
    QUERY,
    QUERY_BLOCK,
    TOKEN,
)
from ssmlens.store.chunks import encode_rows
from ssmlens.store.schema import (
    AXES,
    BLOCK_AXES,
    ROLE,
    STORED_LAYER_ARRAYS,
    TOKEN_AXES,
    Attribute,
    layer_axes,
    role_of,
)

# Files that any HDF5 since 1.10 reads, in the layout whose metadata is all checksummed ("latest" would ask for 2.0).
LIBVER = ("v110", "v110")

# Largest chunk along each axis of an array with tokens. One prompt, one row block of a map or one head's Δ can then be
# read without the rest.
_LARGEST = {
    **{PROMPT: 1, CHANNEL: 1, GROUP: 1, TOKEN: 512, QUERY: 256, KEY: 256, HEAD: 64},
    **{QUERY_BLOCK: 256, KEY_BLOCK: 256},
}
_CHUNK_BYTES = 1 << 20
# Arrays up to this size HDF5 filters itself, in half the time.
_SMALL_BYTES = 1 << 14
# Bytes of chunks in memory when chunks are moved.
_LENT_BYTES = 1 << 24
_SCALAR = h5s.create(h5s.SCALAR)
_NUMBERS = h5t.TypeIntegerID | h5t.TypeFloatID
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable.%10d"


class NewFile(h5py.File):
    """An HDF5 file that is being written.

    Args:
        sink: What it is written to.
        skeleton: The file that it begins as. Empty: an empty one.
    """

    def __init__(self, sink: Sink, skeleton: bytes = b""):
        if skeleton:
            sink.write(skeleton)
        super().__init__(sink, "r+" if skeleton else "w", libver=LIBVER)
        self.sink = sink


def write_file(
    path: Path, build: Callable[[NewFile], object], least: int = 0, *, skeleton: bytes = b""
) -> None:
    """Write an HDF5 file; it appears under `path` only when it is complete.

    Args:
        path: The file.
        build: The function that fills it.
        least: Least size of the file in bytes.
        skeleton: The file that it begins as (see `store.skeleton`).

    Raises:
        SsmlensError: The disk is full, has less than `least` bytes free, or cannot be written.
    """
    begin_file(path, build, least, skeleton=skeleton)()


def begin_file(
    path: Path,
    build: Callable[[NewFile], object],
    least: int = 0,
    *,
    skeleton: bytes = b"",
    sync_name: bool = True,
) -> Callable[[], None]:
    """Do all of `write_file` but wait for the disk; the returned function does the rest, in any thread.

    Args:
        path: As in `write_file`.
        build: As in `write_file`.
        least: As in `write_file`.
        skeleton: As in `write_file`.
        sync_name: Whether to sync its name too (see `new_file`).
    """
    with ExitStack() as stack:
        sink = stack.enter_context(new_file(path, least, sync_name=sync_name))
        with NewFile(sink, skeleton) as file:
            build(file)
        return stack.pop_all().close


def chunk_shape(axes: Sequence[str], shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Shape of the chunks: one prompt and a block of tokens, or at most 1 MiB of an array without tokens."""
    if moves_by_chunk(axes):
        chunk = [min(n, _LARGEST.get(axis, n)) for axis, n in zip(axes, shape, strict=True)]
    else:
        chunk = list(shape)
    while math.prod(chunk) * itemsize > _CHUNK_BYTES and max(chunk) > 1:
        widest = chunk.index(max(chunk))
        chunk[widest] = -(-chunk[widest] // 2)
    return tuple(chunk)


def moves_by_chunk(axes: Sequence[str]) -> bool:
    """Whether no chunk of the array spans two prompts, so that batches merge by moving chunks."""
    return axes[0] == PROMPT and any(axis in (*TOKEN_AXES, *BLOCK_AXES) for axis in axes)


def create_dataset(
    group: h5py.Group,
    name: str,
    shape: Sequence[int],
    dtype: np.dtype,
    axes: Sequence[str],
    level: int,
    role: str | None = None,
    *,
    shuffle: bool,
    chunks: tuple[int, ...] | None = None,
) -> h5py.Dataset:
    """Create an empty dataset with the store's filters, named dimensions, and its axes and role as attributes.

    `chunks` is the shape of its chunks, by default `chunk_shape`.
    """
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk(chunks or chunk_shape(axes, shape, dtype.itemsize))
    if shuffle:
        properties.set_shuffle()
    properties.set_deflate(level)
    properties.set_fletcher32()
    properties.set_obj_track_times(False)
    if dtype.kind == "S":
        stored = h5t.py_create(h5py.string_dtype("utf-8", dtype.itemsize), logical=True)
    else:
        stored = h5t.py_create(dtype.newbyteorder("<"), logical=True)
    space = h5s.create_simple(tuple(shape))
    dataset = h5py.Dataset(h5d.create(group.id, name.encode(), stored, space, dcpl=properties))
    if dtype.kind == "S":
        write_attributes(dataset, {"_Encoding": "utf-8"})  # so that xarray shows str
    if (name,) == tuple(axes):
        h5ds.set_scale(dataset.id, name.encode())
    else:
        for number, (axis, size) in enumerate(zip(axes, shape, strict=True)):
            h5ds.attach_scale(dataset.id, _dimension(group, axis, size), number)
            h5ds.set_label(dataset.id, number, axis.encode())
    write_attributes(dataset, {AXES: " ".join(axes), ROLE: role or role_of(name)})
    return dataset


def axes_of(dataset: h5py.Dataset) -> tuple[str, ...]:
    """The axes of a layer's stored array: the schema's, or, for an array of a later version, those it declares."""
    name = str(dataset.name).rsplit("/", 1)[-1]
    if name in STORED_LAYER_ARRAYS:  # `guard` has compared them with the declared axes
        return layer_axes(name, dataset.ndim)
    return declared_axes(dataset.id) or ()


def declared_axes(dataset: h5d.DatasetID) -> tuple[str, ...] | None:
    """The axes that a dataset declares; None before version 3."""
    if not h5a.exists(dataset, AXES.encode()):
        return None
    attribute = h5a.open(dataset, AXES.encode())
    text = np.empty(attribute.shape, attribute.dtype)
    attribute.read(text, mtype=attribute.get_type())
    value = text.item()
    return tuple((value.decode() if isinstance(value, bytes) else str(value)).split())


def write_array(
    group: h5py.Group,
    name: str,
    array: np.ndarray,
    axes: Sequence[str],
) -> None:
    """Write one array. All-zero chunks (padding, the future of a causal map) take no room.

    Args:
        group: The parent group.
        name: The array's name.
        array: Its values.
        axes: Its named dimensions.
    """
    level = deflate_level(array)
    dataset = create_dataset(group, name, array.shape, array.dtype, axes, level, shuffle=level > 0)
    write_chunks(dataset, array, axes, level)


def write_chunks(
    dataset: h5py.Dataset,
    array: np.ndarray,
    axes: Sequence[str],
    level: int,
    sink: Sink | None = None,
) -> None:
    """Fill an empty dataset that `create_dataset` made for such an array.

    Args:
        dataset: The dataset.
        array: Its values.
        axes: Its named dimensions.
        level: Its deflate level.
        sink: The sink of its file, to write many chunks at once, outside h5py's lock. None: HDF5 writes each.
    """
    shape = chunk_shape(axes, array.shape, array.dtype.itemsize)
    if array.nbytes <= _SMALL_BYTES and shape == array.shape and array.dtype.kind != "S":
        values = np.ascontiguousarray(array)
        if values.view(np.uint8).any():  # as bytes, since −0.0 is not zero
            dataset.id.write(h5s.ALL, h5s.ALL, values)
        return
    for row in encode_rows(array, shape, level):
        for chunk in row:
            if sink is not None:
                sink.lend(chunk.data)
            dataset.id.write_direct_chunk(chunk.start, chunk.data, filter_mask=chunk.filter_mask)
        if sink is not None:
            sink.write_lent()


def create_like(
    group: h5py.Group, model: h5py.Dataset, shape: Sequence[int], axes: Sequence[str]
) -> h5py.Dataset:
    """Create an empty dataset with the name, dtype, chunks and filters of `model`, for `move_chunks` to fill."""
    name = str(model.name).rsplit("/", 1)[-1]
    known = name in STORED_LAYER_ARRAYS
    role = role_of(name) if known else read_attributes(model).get(ROLE)
    return create_dataset(
        group,
        name,
        shape,
        model.dtype,
        axes,
        model.compression_opts,
        None if role is None else str(role),
        shuffle=model.shuffle,
        chunks=model.chunks,
    )


def move_chunks(
    source: h5py.Dataset, target: h5py.Dataset, first_prompt: int, sink: Sink | None = None
) -> None:
    """Copy every chunk of `source` into `target`; its first prompt becomes `first_prompt`.

    Chunks of the same shape and filters are not decoded. Batches differ where only one shrank, or where versions of
    ssmlens with other chunks wrote them.

    Args:
        source: A batch's dataset.
        target: The dataset of all batches.
        first_prompt: The batch's first prompt.
        sink: The sink of the target's file, as for `write_chunks`.
    """
    alike = (source.shuffle, source.chunks) == (target.shuffle, target.chunks)
    lent = 0
    for offset, *_ in stored_chunks(source):
        moved = (offset[0] + first_prompt, *offset[1:])
        if not alike:
            shape = [
                min(o + n, size) - o
                for o, n, size in zip(offset, source.chunks or (), source.shape, strict=True)
            ]
            target[_box(moved, shape)] = source[_box(offset, shape)]
            continue
        mask, data = source.id.read_direct_chunk(offset)
        if sink is not None:
            sink.lend(data)
        target.id.write_direct_chunk(moved, data, filter_mask=mask)
        lent += len(data)
        if sink is not None and lent > _LENT_BYTES:
            sink.write_lent()
            lent = 0
    if sink is not None:
        sink.write_lent()


class StoredChunk(NamedTuple):
    """Where a chunk is in its file.

    Attributes:
        start: Its first entry in the array.
        filter_mask: A bit for each of the dataset's filters that was skipped.
        place: Its first byte in the file.
        size: Its bytes.
    """

    start: tuple[int, ...]
    filter_mask: int
    place: int
    size: int


def stored_chunks(dataset: h5py.Dataset) -> list[StoredChunk]:
    """The chunks of a dataset that exist; others are zero."""
    found: list[StoredChunk] = []
    dataset.id.chunk_iter(lambda chunk: found.append(StoredChunk(*chunk)))
    return found


def _box(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))


def stored_array(group: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset `name` of a group."""
    return h5py.Dataset(h5d.open(group.id, name.encode()))


def write_attributes(thing: h5py.HLObject, attributes: Mapping[str, Attribute]) -> None:
    """Write scalars and strings of fixed length (UTF-8, NUL shown as ␀)."""
    for name, value in attributes.items():
        if isinstance(value, str):
            data = encode_text(value)
            size = max(1, len(data))
            stored, kind = np.array(data, dtype=f"S{size}"), _text_type(size)
        elif isinstance(value, float | np.floating):
            stored, kind = np.array(value, "<f8"), h5t.IEEE_F64LE
        else:
            stored, kind = np.array(value, "<i8"), h5t.STD_I64LE
        # Through HDF5's own calls, which take less time than `attrs.create`.
        if h5a.exists(thing.id, name.encode()):
            h5a.delete(thing.id, name.encode())
        h5a.create(thing.id, name.encode(), kind, _SCALAR).write(stored, mtype=kind)


@functools.cache
def _text_type(size: int) -> Any:
    return h5t.py_create(h5py.string_dtype("utf-8", size), logical=True)


def read_attributes(thing: h5py.HLObject) -> dict[str, Attribute]:
    """The numbers and strings of fixed length of `thing`, without HDF5's own."""
    names: list[bytes] = []
    h5a.iterate(thing.id, lambda name, *_: names.append(name))
    values: dict[str, Attribute] = {}
    for raw in names:
        name = raw.decode("utf-8", "surrogateescape")
        if name.startswith("_") or name in STRUCTURE_ATTRIBUTES:
            continue
        # Through HDF5's own calls, which take less time than `attrs`.
        attribute = h5a.open(thing.id, raw)
        kind = attribute.get_type()
        text = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
        if attribute.shape != () or not (text or isinstance(kind, _NUMBERS)):
            continue
        value: Any = np.empty((), attribute.dtype)
        attribute.read(value, mtype=kind if text else None)
        values[name] = value.item().decode() if text else value.item()
    return values


STRUCTURE_ATTRIBUTES = ("CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "DIMENSION_LABELS")


def encode_text(text: str) -> bytes:
    """Encode a string of fixed length as UTF-8: NUL, which would end it, becomes ␀; lone surrogates are escaped."""
    return text.replace("\0", "␀").encode("utf-8", "backslashreplace")


def _dimension(group: h5py.Group, axis: str, size: int) -> h5d.DatasetID:
    if axis.encode() in group.id:
        return h5d.open(group.id, axis.encode())
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((min(size, _CHUNK_BYTES),))
    properties.set_deflate(0)
    properties.set_fletcher32()
    properties.set_obj_track_times(False)
    space = h5s.create_simple((size,))
    scale = h5d.create(group.id, axis.encode(), h5t.STD_U8LE, space, dcpl=properties)
    h5ds.set_scale(scale, _NO_VARIABLE % size)
    return scale


def deflate_level(array: np.ndarray) -> int:
    """An array's deflate level: 1 where the values shrink (integers, strings, bfloat16 kept as float32), else 0."""
    if array.dtype != np.float32:
        return int(array.dtype.kind not in "f")
    bits = array.reshape(-1).view(np.uint32)
    return int(not (bits[:4096] & 0xFFFF).any() and not (bits & 0xFFFF).any())
