"""The file of a layer without its values. Layers with the same arrays begin as copies of it.

HDF5 takes longer to create a dataset with its dimensions and attributes than to open one, a layer has some 25, and the
interpreter is locked meanwhile.
"""

import functools
import io
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import h5py
import numpy as np

from ssmlens.names import CHANNEL
from ssmlens.store import hdf5
from ssmlens.store.schema import PROMPT_DIGEST, has_prompts, layer_axes, layer_name

# Bytes of a row of `prompt_digest`.
_DIGEST_BYTES = 32


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


@functools.lru_cache(maxsize=8)
def skeleton(datasets: tuple[Planned, ...]) -> bytes:
    """The file with these datasets, all empty, in the group of block 0."""
    image = io.BytesIO()
    with h5py.File(image, "w", libver=hdf5.LIBVER) as file:
        group = file.create_group(f"layers/{layer_name(0)}")
        for planned in datasets:
            name, shape, dtype, level = planned
            kind, axes = np.dtype(dtype), planned.axes
            hdf5.create_dataset(group, name, shape, kind, axes, level, shuffle=level > 0)
    return image.getvalue()
