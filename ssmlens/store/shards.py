"""The shards of a capture that is being written: their names, which are intact, and merging batches into layers."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from ssmlens.errors import CaptureFileError, SsmlensError
from ssmlens.files import place
from ssmlens.files.new import ensure_folder
from ssmlens.store import hdf5, journal
from ssmlens.store.assemble import Assembly, assemble
from ssmlens.store.guard import open_guarded, reporting_damage
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import damages, stored_layer, write_layer, write_root
from ssmlens.store.manifest import HEADER_FILE
from ssmlens.store.schema import HEADER, LAYER, Attribute, layer_name
from ssmlens.store.skeleton import plan, rename_layer, skeleton


class Shards:
    """The files in `<out>.partial/`.

    Args:
        folder: The folder.
        header_digest: Digest of the request; a shard of another request is not intact.
        batches: Number of batches of prompts in each layer.
    """

    def __init__(self, folder: Path, header_digest: str, batches: int):
        self.folder = folder
        self.header = folder / HEADER_FILE
        self._header_digest = header_digest
        self._batches = batches
        self._intact: dict[Path, str] = {}  # files to the digests of their layers

    def layer(self, layer: int) -> Path:
        """The file of a complete layer."""
        return self.folder / f"layer-{layer_name(layer)}.h5"

    def batch(self, layer: int, batch: int) -> Path:
        """The file of one batch of a layer. Its name has the number of batches, since a resumed run may change that."""
        if self._batches == 1:
            return self.layer(layer)
        part = f"batch-{batch:04d}-of-{self._batches:04d}"
        return self.folder / f"layer-{layer_name(layer)}.{part}.h5"

    def files(self, layer: int) -> list[Path]:
        """All files of a layer on the disk, half-written ones too."""
        return sorted(self.folder.glob(f"layer-{layer_name(layer)}.*"))

    def start(self, header: CaptureHeader) -> None:
        """Create the folder and `header.h5` if they do not exist."""

        def build(file: h5py.File) -> None:
            write_root(file, HEADER, {})
            header.write(file)

        ensure_folder(self.folder)
        if not self.header.exists():
            hdf5.write_file(self.header, build)

    def stored_header(self) -> CaptureHeader | None:
        """The request of the capture in the folder, if any. A damaged header is removed, to be written again."""
        if not self.header.exists():
            return None
        try:
            with open_guarded(self.header) as file, reporting_damage(self.header, "its header"):
                return CaptureHeader.read(file)
        except CaptureFileError:
            self.header.unlink()
            return None

    def write(
        self,
        layer: int,
        batch: int,
        first_prompt: int,
        arrays: Mapping[str, np.ndarray],
        attributes: Mapping[str, Attribute],
        threads: ThreadPoolExecutor | None = None,
    ) -> Callable[[], None]:
        """Write one shard of checked arrays and attributes; `threads` compute its digests.

        The shard exists once the returned function, which waits for the disk, has ended.
        """
        datasets, written = plan(arrays), ""

        def build(file: hdf5.NewFile) -> None:
            nonlocal written
            group = rename_layer(file, layer)
            written = write_layer(group, layer, datasets, arrays, attributes, file.sink, threads)
            _write_origin(file, first_prompt, self._header_digest)

        path = self.batch(layer, batch)
        end = hdf5.begin_file(path, build, skeleton=skeleton(datasets), sync_name=False)

        def complete() -> None:
            end()
            self._intact[path] = written

        return complete

    def restore(self, layer: int) -> None:
        """Make a layer's file, unless there is one, of what a stopped run wrote straight into the one file.

        Raises:
            SsmlensError: The disk is full, or cannot be written.
        """
        source, path = journal.entry_path(self.folder, layer), self.layer(layer)
        entry = None if path.exists() else journal.read_entry(source)
        if entry is not None:

            def build(file: hdf5.NewFile) -> None:
                entry.write(rename_layer(file, layer))
                _write_origin(file, 0, entry.header_digest)

            with suppress(journal.DamagedEntryError):
                hdf5.write_file(path, build, skeleton=skeleton(entry.datasets))
        source.unlink(missing_ok=True)

    def is_written(self, layer: int, batch: int) -> bool:
        """Whether this shard, or its complete layer, exists and is intact."""
        return any(
            self.is_intact(path, layer) for path in (self.layer(layer), self.batch(layer, batch))
        )

    def stored(self, layer: int, batch: int, name: str) -> np.ndarray | None:
        """An array without prompts of an intact shard (or its complete layer); None if it does not exist."""
        for path in (self.layer(layer), self.batch(layer, batch)):
            if self.is_intact(path, layer):
                with open_guarded(path) as file:
                    group = stored_layer(file, layer)
                    return hdf5.stored_array(group, name)[...] if name in group else None
        return None

    def is_intact(self, path: Path, layer: int) -> bool:
        """Whether a file exists and holds what was written. A damaged one is removed, to be written again."""
        if path in self._intact:
            return True
        if not path.exists():
            return False
        try:
            with open_guarded(path) as file:
                request = hdf5.read_attributes(file)["header_digest"]
                group = stored_layer(file, layer)
                if request == self._header_digest and not damages(group, layer):
                    self._intact[path] = _digest(group)
        except (CaptureFileError, OSError, KeyError, ValueError):
            pass
        if path not in self._intact:
            path.unlink(missing_ok=True)
        return path in self._intact

    def parts(self, layer: int) -> list[Path]:
        """The files of a layer: the complete layer's, or those of its batches in order.

        Raises:
            SsmlensError: A batch is missing.
        """
        complete = self.layer(layer)
        if self.is_intact(complete, layer):
            return [complete]
        parts = [self.batch(layer, batch) for batch in range(self._batches)]
        for batch, path in enumerate(parts):
            if not self.is_intact(path, layer):
                raise SsmlensError(f"layer {layer} lacks batch {batch}: write it, then finish")
        return parts

    def merge(self, parts: Mapping[int, list[Path]]) -> None:
        """Merge the batches of each layer into one file, and remove them. Raises SsmlensError on a full disk."""
        jobs = [
            Assembly(
                target=self.layer(layer),
                header=None,
                header_digest=self._header_digest,
                layers={layer: paths},
                consume=True,
            )
            for layer, paths in parts.items()
            if paths != [self.layer(layer)]
        ]
        if jobs:
            assemble(jobs)
        for layer in parts:
            self._intact[self.layer(layer)] = self.layer_digest(layer)

    def sync_names(self) -> None:
        """Sync the names of all shards to the disk at once."""
        place.sync_folder(self.folder)

    def remove_strangers(self, names: Iterable[str]) -> None:
        """Remove files of stopped writers, but not `names`: half-written files and merged batches."""
        for path in self.folder.iterdir():
            left_over = (
                path.name.startswith(("layer-", "assembled")) or path.suffix == place.PARTIAL
            )
            if path.name not in names and left_over:
                path.unlink(missing_ok=True)

    def layer_digest(self, layer: int) -> str:
        """The digest of a complete layer."""
        path = self.layer(layer)
        if path in self._intact:
            return self._intact[path]
        with open_guarded(path) as file:
            return _digest(stored_layer(file, layer))


def layers_written(folder: Path) -> int:
    """Number of layers of which a capture that is being written has something complete in its `<out>.partial/`."""
    names = [path.name for path in (*folder.glob("layer-*.h5"), *journal.entry_paths(folder))]
    return len({name.partition(".")[0] for name in names})


def _write_origin(file: h5py.File, first_prompt: int, header_digest: str) -> None:
    write_root(file, LAYER, {"header_digest": header_digest, "first_prompt": first_prompt})


def _digest(layer: h5py.Group) -> str:
    return str(hdf5.read_attributes(layer)["digest"])
