"""The shards of a capture that is being written: what they are called, which are sound, how batches become a layer."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from ssmlens.errors import CaptureFileError, SsmlensError
from ssmlens.files import place
from ssmlens.files.new import ensure_folder
from ssmlens.store import hdf5
from ssmlens.store.assemble import Assembly, assemble
from ssmlens.store.guard import damage_told, open_guarded
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import damages, stored_layer, write_layer, write_root
from ssmlens.store.manifest import HEADER_FILE
from ssmlens.store.schema import HEADER, LAYER, Attribute, layer_name


class Shards:
    """The files in `<out>.partial/`.

    Args:
        folder: The folder.
        header_digest: What the capture was asked; a shard that was asked something else is not sound.
        batches: In how many batches of prompts each layer comes.
    """

    def __init__(self, folder: Path, header_digest: str, batches: int):
        self.folder = folder
        self.header = folder / HEADER_FILE
        self._header_digest = header_digest
        self._batches = batches
        self._known_sound: set[Path] = set()

    def layer(self, layer: int) -> Path:
        """The file of a whole layer."""
        return self.folder / f"layer-{layer_name(layer)}.h5"

    def batch(self, layer: int, batch: int) -> Path:
        """The file of one batch of a layer; the number of batches is in its name, as a resumed run may change it."""
        if self._batches == 1:
            return self.layer(layer)
        part = f"batch-{batch:04d}-of-{self._batches:04d}"
        return self.folder / f"layer-{layer_name(layer)}.{part}.h5"

    def files(self, layer: int) -> list[Path]:
        """Everything on the disk that belongs to a layer, half-written files too."""
        return sorted(self.folder.glob(f"layer-{layer_name(layer)}.*"))

    def start(self, header: CaptureHeader) -> None:
        """Make the folder and `header.h5`, where they are not there yet."""

        def build(file: h5py.File) -> None:
            write_root(file, HEADER, {})
            header.write(file)

        ensure_folder(self.folder)
        if not self.header.exists():
            hdf5.write_file(self.header, build)

    def stored_header(self) -> CaptureHeader | None:
        """What the capture in the folder was asked. A damaged header is removed, to be written again."""
        if not self.header.exists():
            return None
        try:
            with open_guarded(self.header) as file, damage_told(self.header, "its header"):
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
    ) -> None:
        """Write one shard of checked arrays and attributes; `threads` share the work."""

        def build(file: h5py.File) -> None:
            origin = {"header_digest": self._header_digest, "first_prompt": first_prompt}
            write_layer(file, layer, arrays, attributes, threads)
            write_root(file, LAYER, origin)

        path = self.batch(layer, batch)
        hdf5.write_file(path, build, sync_name=False)
        self._known_sound.add(path)

    def done(self, layer: int, batch: int) -> bool:
        """Whether this shard, or its whole layer, is there and sound."""
        return any(
            self.sound(path, layer) for path in (self.layer(layer), self.batch(layer, batch))
        )

    def stored(self, layer: int, batch: int, name: str) -> np.ndarray | None:
        """An array without prompts of a sound shard (or of its whole layer), or None where it is not there."""
        for path in (self.layer(layer), self.batch(layer, batch)):
            if self.sound(path, layer):
                with open_guarded(path) as file:
                    group = stored_layer(file, layer)
                    return hdf5.stored_array(group, name)[...] if name in group else None
        return None

    def sound(self, path: Path, layer: int) -> bool:
        """Whether a file is there and holds what was written. One that does not is removed, to be written again."""
        if path in self._known_sound:
            return True
        if not path.exists():
            return False
        try:
            with open_guarded(path) as file:
                asked = hdf5.read_attributes(file)["header_digest"]
                sound = asked == self._header_digest
                sound = sound and not damages(stored_layer(file, layer), layer)
        except (CaptureFileError, OSError, KeyError, ValueError):
            sound = False
        if sound:
            self._known_sound.add(path)
        else:
            path.unlink(missing_ok=True)
        return sound

    def parts(self, layer: int) -> list[Path]:
        """The files that hold a layer: its own, or those of its batches in order.

        Raises:
            SsmlensError: A batch is missing.
        """
        whole = self.layer(layer)
        if self.sound(whole, layer):
            return [whole]
        parts = [self.batch(layer, batch) for batch in range(self._batches)]
        for batch, path in enumerate(parts):
            if not self.sound(path, layer):
                raise SsmlensError(f"layer {layer} lacks batch {batch}: write it, then finish")
        return parts

    def merge(self, parts: Mapping[int, list[Path]]) -> None:
        """Make one file of each layer from its batches, which are removed. Raises SsmlensError on a full disk."""
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
        self._known_sound |= {self.layer(layer) for layer in parts}

    def sync_names(self) -> None:
        """Wait until the shards' names are on the disk: once, not after every one."""
        place.sync_folder(self.folder)

    def remove_strangers(self, names: Iterable[str]) -> None:
        """Remove what stopped writers left in the folder beside `names`: half-written files and merged batches."""
        for path in self.folder.iterdir():
            left_over = (
                path.name.startswith(("layer-", "assembled")) or path.suffix == place.PARTIAL
            )
            if path.name not in names and left_over:
                path.unlink(missing_ok=True)

    def layer_digest(self, layer: int) -> str:
        """The digest that a whole layer bears."""
        with open_guarded(self.layer(layer)) as file:
            return str(hdf5.read_attributes(stored_layer(file, layer))["digest"])
