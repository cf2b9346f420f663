"""What a stopped run leaves of the layers that it wrote straight into the one file.

HDF5 writes its own data when a file is closed, so the file of a stopped run cannot be opened. But the chunks of its
complete layers are on the disk. For each of these layers there is an entry, a JSON file, which says where the chunks
are. With it a resumed run makes the layer's shard. A shard with a wrong digest is written again, as always.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ssmlens.errors import CaptureFileError, SsmlensError
from ssmlens.files import plain_json
from ssmlens.store import hdf5
from ssmlens.store.hdf5 import StoredChunk, stored_array
from ssmlens.store.schema import Attribute, layer_name
from ssmlens.store.skeleton import Planned, skeleton

_MOST_BYTES = 1 << 26  # of an entry
_MOST_CHUNK_BYTES = 1 << 22  # four times the largest chunk that is written


class DamagedEntryError(CaptureFileError):
    """An entry, or the file that it is about, is not what was written."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer in the file of a stopped run.

    Attributes:
        file: The file.
        header_digest: The digest of its capture's request.
        datasets: The layer's datasets.
        chunks: The chunks of each dataset.
        attributes: The layer's attributes, its digests among them.
    """

    file: Path
    header_digest: str
    datasets: tuple[Planned, ...]
    chunks: tuple[list[StoredChunk], ...]
    attributes: dict[str, Attribute]

    @classmethod
    def of(
        cls, file: Path, header_digest: str, layer: h5py.Group, datasets: Sequence[Planned]
    ) -> "Entry":
        """The entry of a layer that is completely written to `file`."""
        chunks = tuple(hdf5.stored_chunks(stored_array(layer, d.name)) for d in datasets)
        return cls(file, header_digest, tuple(datasets), chunks, hdf5.read_attributes(layer))

    def to_json(self) -> bytes:
        """The bytes of the entry's file."""
        page = {
            "file": self.file.name,
            "header_digest": self.header_digest,
            "datasets": self.datasets,
            "chunks": self.chunks,
            "attributes": self.attributes,
        }
        return json.dumps(page).encode()

    def write(self, layer: h5py.Group) -> None:
        """Copy chunks and attributes into a layer that has all datasets, empty.

        Raises:
            DamagedEntryError: The file is absent or cut short, or the entry does not fit its datasets.
        """
        try:
            data = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DamagedEntryError(f"{self.file} cannot be read") from error
        try:
            for planned, chunks in zip(self.datasets, self.chunks, strict=True):
                dataset = stored_array(layer, planned.name)
                for chunk in chunks:
                    octets = _read(data, chunk)
                    dataset.id.write_direct_chunk(chunk.start, octets, chunk.filter_mask)
            hdf5.write_attributes(layer, self.attributes)
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise DamagedEntryError(f"{self.file} or its entry is damaged") from error
        finally:
            os.close(data)


def entry_path(folder: Path, layer: int) -> Path:
    """The file of a layer's entry."""
    return folder / f"layer-{layer_name(layer)}.written.json"


def entry_paths(folder: Path) -> list[Path]:
    """The entries' files in a folder."""
    return list(folder.glob("layer-*.written.json"))


def read_entry(path: Path) -> Entry | None:
    """Read an entry; None if there is none, or none that makes sense."""
    try:
        page = plain_json.read_object(path, _MOST_BYTES, finite=False)
        file, header_digest = str(page["file"]), str(page["header_digest"])
        if Path(file).name != file:
            return None
        datasets = tuple(_planned(*fields) for fields in page["datasets"])
        chunks = tuple([_chunk(*fields) for fields in rows] for rows in page["chunks"])
        attributes = {str(name): value for name, value in page["attributes"].items()}
        if any(not isinstance(value, str | int | float) for value in attributes.values()):
            return None
        skeleton(datasets)  # fails unless such datasets can be
        return Entry(path.with_name(file), header_digest, datasets, chunks, attributes)
    except (SsmlensError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _planned(name: str, shape: Sequence[int], dtype: str, level: int) -> Planned:
    planned = Planned(str(name), tuple(map(int, shape)), np.dtype(dtype).str, int(level))
    if len(planned.axes) != len(planned.shape):
        raise ValueError(f"{name} does not have {len(planned.shape)} axes")
    return planned


def _chunk(start: Sequence[int], filter_mask: int, place: int, size: int) -> StoredChunk:
    if not (place >= 0 and 0 <= size <= _MOST_CHUNK_BYTES):
        raise ValueError("no chunk can be there")
    return StoredChunk(tuple(map(int, start)), int(filter_mask), int(place), int(size))


def _read(data: int, chunk: StoredChunk) -> bytes:
    octets = os.pread(data, chunk.size, chunk.place)
    if len(octets) < chunk.size:
        raise ValueError("it is cut short")
    return octets
