"""The one file of a capture, while its layers are computed: each is written straight into it.

So every byte is written once. What is complete of an interrupted file is in its entries (see `journal`).
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ssmlens.files import disk, place
from ssmlens.files.new import write_file
from ssmlens.files.sink import Sink
from ssmlens.store import hdf5
from ssmlens.store.assemble import Assembly, write_assembly
from ssmlens.store.journal import Entry, entry_path
from ssmlens.store.layer_file import stored_layer, write_layer
from ssmlens.store.schema import Attribute
from ssmlens.store.skeleton import add_layer, plan


class GrowingFile:
    """A file that becomes a complete capture. Threads may write layers at the same time.

    Args:
        target: Beside this path it has a unique name. Its entries are in the same folder.
        header_digest: The digest of the capture's request.

    Attributes:
        path: Its path.

    Raises:
        SsmlensError: It cannot be created.
    """

    def __init__(self, target: Path, header_digest: str):
        self.path = place.own_name(target)
        self._target = target
        self._header_digest = header_digest
        with disk.one_line_errors(target):
            self._sink = Sink(self.path)
        self._file = hdf5.NewFile(self._sink)
        self._file.create_group("layers")
        self._digests: dict[int, str] = {}

    def __contains__(self, layer: int) -> bool:
        """Whether a layer is complete."""
        return layer in self._digests

    def stored(self, layer: int, name: str) -> np.ndarray | None:
        """An array of a complete layer; None if the layer lacks it."""
        group = stored_layer(self._file, layer)
        return hdf5.stored_array(group, name)[...] if name in group else None

    def write(
        self,
        layer: int,
        arrays: Mapping[str, np.ndarray],
        attributes: Mapping[str, Attribute],
        threads: ThreadPoolExecutor | None = None,
    ) -> Callable[[], None]:
        """Write one layer from checked arrays and attributes; `threads` compute its digests.

        It is complete, and a resumed run finds it, once the returned function, which waits for the disk, has ended.

        Raises:
            SsmlensError: The disk is full, or cannot be written. The returned function raises it too.
        """
        datasets = plan(arrays)
        with self._disk_errors():
            group = add_layer(self._file, layer, datasets)
            written = write_layer(group, layer, datasets, arrays, attributes, self._sink, threads)
            entry = Entry.of(self.path, self._header_digest, group, datasets)

        def complete() -> None:
            with self._disk_errors():
                self._sink.sync()
            write_file(entry_path(self.path.parent, layer), entry.to_json(), sync_name=False)
            self._digests[layer] = written

        return complete

    def finish(self, job: Assembly) -> None:
        """Add what is missing of a job, and wait until all of it is on the disk, under `path`.

        Raises:
            SsmlensError: The disk is full, or a source is bad.
        """
        with self._disk_errors():
            write_assembly(job, self._file, self._digests)
            self._file.close()
            self._sink.sync()
        self._sink.close()

    def leave(self) -> None:
        """Close the file, if it is open. It remains for a resumed run if one of its layers is complete."""
        with suppress(OSError, RuntimeError):  # HDF5 cannot read back what a full disk did not take
            self._file.close()
        self._sink.close()
        if not self._digests:
            self.path.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn an error of the disk into one line. It is also why HDF5 fails, if it then does."""
        try:
            try:
                yield
            except (OSError, RuntimeError):
                self._sink.check()
                raise
        except OSError as error:
            raise disk.failure(self._target, self._sink.size, error) from error
