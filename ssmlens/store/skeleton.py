"""The file of a layer without its values. Layers with the same arrays begin as copies of it.

HDF5 takes longer to create a dataset with its dimensions and attributes than to open one, a layer has some 25, and the
interpreter is locked meanwhile.
"""

import functools
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5o, h5r  # pyright: ignore[reportAttributeAccessIssue]

from ssmlens.names import CHANNEL
from ssmlens.store import hdf5
from ssmlens.store.schema import PROMPT_DIGEST, has_prompts, layer_axes, layer_name

# Bytes of a row of `prompt_digest`.
_DIGEST_BYTES = 32
_LAYER = f"layers/{layer_name(0)}"
_REFERENCES = h5py.vlen_dtype(h5py.ref_dtype)


class Planned(NamedTuple):
    """A dataset of a layer.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Its dtype, as text.
        level: Its deflate level.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    level: int

    @property
    def axes(self) -> tuple[str, ...]:
        """Its named dimensions."""
        return layer_axes(self.name, len(self.shape))


def plan(arrays: Mapping[str, np.ndarray]) -> tuple[Planned, ...]:
    """The datasets of a layer with these arrays, in the order of writing; that of its prompts' digests is the last."""
    prompts = next(len(array) for name, array in arrays.items() if has_prompts(name))
    datasets = []
    for name in sort_coordinates_first(arrays):
        array = arrays[name]
        level = hdf5.deflate_level(array)
        datasets.append(Planned(name, array.shape, array.dtype.str, level))
    return (*datasets, Planned(PROMPT_DIGEST, (prompts, _DIGEST_BYTES), "|u1", 1))


def sort_coordinates_first(names: Iterable[str]) -> list[str]:
    """Sort `names` so that a coordinate precedes the arrays that it labels."""
    return sorted(names, key=lambda name: name != CHANNEL)


def rename_layer(file: h5py.File, index: int) -> h5py.Group:
    """Give the layer of a file that began as a skeleton the number of its block, and return it."""
    if index:
        file.move(_LAYER, f"layers/{layer_name(index)}")
    return _group(file, index)


def add_layer(file: h5py.File, index: int, datasets: tuple[Planned, ...]) -> h5py.Group:
    """Add block `index`, with these datasets, all empty, to the file of several layers, and return it."""
    with h5py.File(h5f.open_file_image(skeleton(datasets))) as image:
        h5o.copy(image.id, _LAYER.encode(), file.id, f"layers/{layer_name(index)}".encode())
    group = _group(file, index)
    _attach_scales(group, datasets)
    return group


def _group(file: h5py.File, index: int) -> h5py.Group:
    return h5py.Group(h5g.open(file.id, f"layers/{layer_name(index)}".encode()))


def _attach_scales(group: h5py.Group, datasets: Iterable[Planned]) -> None:
    """Let copied datasets and their dimension scales refer to each other: HDF5 copies references without targets."""
    users: defaultdict[str, list[tuple[object, int]]] = defaultdict(list)
    for planned in datasets:
        if planned.axes == (planned.name,):  # a scale itself
            continue
        reference = _reference(group, planned.name)
        for number, axis in enumerate(planned.axes):
            users[axis].append((reference, number))
    scales = {axis: _reference(group, axis) for axis in users}
    for planned in datasets:
        if planned.axes != (planned.name,):
            rows = np.empty(len(planned.axes), _REFERENCES)
            rows[:] = [np.array([scales[axis]], h5py.ref_dtype) for axis in planned.axes]
            dataset = h5d.open(group.id, planned.name.encode())
            h5a.open(dataset, b"DIMENSION_LIST").write(rows)
    for axis, used in users.items():
        attribute = h5a.open(h5d.open(group.id, axis.encode()), b"REFERENCE_LIST")
        attribute.write(np.array(used, attribute.dtype))


def _reference(group: h5py.Group, name: str) -> object:
    return h5r.create(group.id, name.encode(), h5r.OBJECT)


@functools.lru_cache(maxsize=8)
def skeleton(datasets: tuple[Planned, ...]) -> bytes:
    """The file with these datasets, all empty, in the group of block 0."""
    image = io.BytesIO()
    with h5py.File(image, "w", libver=hdf5.LIBVER) as file:
        group = file.create_group(_LAYER)
        for planned in datasets:
            name, shape, dtype, level = planned
            kind, axes = np.dtype(dtype), planned.axes
            hdf5.create_dataset(group, name, shape, kind, axes, level, shuffle=level > 0)
    return image.getvalue()
