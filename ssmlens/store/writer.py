"""Write a capture shard by shard, so that it can be stopped at any moment and resumed.

While it runs everything lives in the folder `<out>.partial/`:

    header.h5                             what was asked; a resumed capture must ask the same
    layer-005.h5                          a finished layer
    layer-005.batch-0002-of-0008.h5       a shard: one layer, one batch of prompts

A shard is made in memory, written, synced and renamed; `finish` merges the batches of each layer and gives the
folder, or the one file assembled from it, its final name. A name without `.partial` is complete.
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from ssmlens.errors import CaptureFileError, SsmlensError, UsageError
from ssmlens.store import digest, disk, hdf5
from ssmlens.store.assemble import Assembly, assemble
from ssmlens.store.guard import open_guarded
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import checked_arrays, checked_attributes
from ssmlens.store.manifest import HEADER_FILE, MANIFEST, Manifest, read_manifest
from ssmlens.store.overlap import Overlap
from ssmlens.store.schema import Attribute, batch_of_prompts
from ssmlens.store.shards import Shards

_ASSEMBLED = "assembled.h5"


class CaptureWriter:
    """Writes the capture that `header` asks for to `out`, layer by layer and batch by batch.

    Several writers, on several machines, may share one `out`, each with layers of its own (`--shard i/N`); the one
    that finishes last completes it.

    As a context manager it writes beside its caller: `write` returns at once while no more than two shards are under
    way, and an error is raised by the next `write`, by `finish`, or where the block ends.

    Args:
        out: `name.h5` becomes one HDF5 file, any other name a folder of them.
        header: What the whole capture holds; `header.layers` lists every machine's layers.
        layers: The block indices that this writer writes.
        batches: In how many batches of prompts each layer comes (see `prompts`).
        resume: Go on with `<out>.partial`, which must have been asked the same.
        overwrite: Discard `<out>.partial` (unless `resume`), and replace `out` when this capture is complete.

    Raises:
        UsageError: `out` exists, or is half captured and neither `resume` nor `overwrite` is given, or it was asked
            something else (the message says what), or `layers` are not the header's.
        SsmlensError: The folder cannot be written.
    """

    def __init__(
        self,
        out: Path | str,
        header: CaptureHeader,
        *,
        layers: Sequence[int],
        batches: int = 1,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self.out = Path(out)
        self.header = header
        self.layers = tuple(layers)
        self.batches = batches
        self._check_request()
        self.partial = disk.partial_path(self.out)
        self._lock = disk.partial_path(self.out.with_name(f"{self.out.name}.lock"))
        self._overwrite = overwrite
        self._shared = set(self.layers) != set(header.layers)
        self._header_digest = header.digest()
        self._shards = Shards(self.partial, self._header_digest, batches)
        self._overlap: Overlap | None = None
        self._complete = self._check_out(resume)
        if not self._complete:
            self._prepare(resume)

    def __enter__(self) -> "CaptureWriter":
        self._overlap = Overlap()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        overlap, self._overlap = self._overlap, None
        assert overlap is not None
        try:
            if kind is None:
                overlap.join_all()
        finally:
            overlap.close()

    @property
    def one_file(self) -> bool:
        """Whether the capture ends as one HDF5 file."""
        return self.out.suffix == ".h5"

    def prompts(self, batch: int) -> range:
        """The prompts of a batch, counted from 0."""
        return batch_of_prompts(self.header.prompts, self.batches, batch)

    def done(self, layer: int, batch: int) -> bool:
        """Whether this shard is on the disk and sound. A damaged one is removed, to be written again."""
        self._join(layer, batch)
        return self._complete or self._shards.done(layer, batch)

    def stored(self, layer: int, batch: int, name: str) -> np.ndarray | None:
        """An array of a shard that is `done`, or None where the shard lacks it."""
        self._join(layer, batch)
        return self._shards.stored(layer, batch, name)

    def write(
        self,
        layer: int,
        batch: int,
        arrays: Mapping[str, np.ndarray],
        attributes: Mapping[str, Attribute],
    ) -> None:
        """Write one layer for one batch of prompts; the arrays must not be changed afterwards.

        Args:
            layer: Block index, one of the writer's.
            batch: Number of the batch of prompts.
            arrays: Names of `store.schema.LAYER_ARRAYS` to arrays with the leading axes given there; the prompt axis is
                that of the batch. Those without prompts (weights, A, D) are kept from batch 0.
            attributes: `finite` (one of `schema.FINITE_STATES`), `kind` (Mamba where it is not said), `reason`,
                `mixer`, `adapter`, `block_tokens` (of reduced maps), ...

        Raises:
            ValueError: An array or attribute that the file does not take.
            SsmlensError: The disk is full or cannot be written: path, need and free space.
        """
        if layer not in self.layers or not 0 <= batch < self.batches:
            raise ValueError(f"layer {layer}, batch {batch} is not this writer's to write")
        told = checked_attributes(attributes)
        shape = len(self.prompts(batch)), self.header.tokens.shape[1]
        held = checked_arrays(arrays, told, *shape, first=batch == 0)
        shard = layer, batch, self.prompts(batch).start, held, told
        if self._overlap is None:
            self._shards.write(*shard)
        else:
            self._overlap.start(
                (layer, batch), partial(self._shards.write, *shard, self._overlap.threads)
            )

    def finish(self) -> Path | None:
        """Complete the capture: `out`, or None while shards of other machines are missing.

        Raises:
            SsmlensError: A shard of this writer is missing, or the disk is full.
        """
        if self._overlap is not None:
            self._overlap.join_all()
        if not self._complete and self.partial.exists():
            parts = {layer: self._shards.parts(layer) for layer in self.layers}
            if self._shared or not self.one_file:
                self._shards.merge(parts)
                parts = {layer: [self._shards.layer(layer)] for layer in self.header.layers}
            with self._alone() as here:
                if here:
                    if not all(path.exists() for paths in parts.values() for path in paths):
                        return None
                    self._publish(parts)
        if not self.out.exists():
            raise SsmlensError(f"{self.partial} was removed while it was being written")
        return self.out

    def _join(self, layer: int, batch: int) -> None:
        """Wait for a shard that is under way."""
        if self._overlap is not None:
            self._overlap.join((layer, batch))

    def _check_request(self) -> None:
        if self.out.name.endswith(disk.PARTIAL) or self.out.name in ("", ".."):
            raise UsageError(f"{self.out} cannot be the name of a capture; choose another `out`")
        if not 1 <= self.batches <= self.header.prompts:
            raise ValueError(f"{self.batches} batches of {self.header.prompts} prompts")
        foreign = sorted(set(self.layers) - set(self.header.layers))
        if foreign or not self.layers:
            raise UsageError(f"layers {foreign} are not among the capture's {self.header.layers}")

    def _check_out(self, resume: bool) -> bool:
        """Whether `out` is already this very capture, complete, as when a run was stopped in its last moment."""
        if not self.out.exists():
            if not self.out.absolute().parent.is_dir():
                raise UsageError(
                    f"cannot write {self.out}: its folder does not exist; make it first"
                )
            return False
        if self._overwrite:
            if self.out.is_dir():
                self._check_is_capture()
            return False
        if resume and self._stored_header_digest(self.out) == self._header_digest:
            shutil.rmtree(self.partial, ignore_errors=True)
            self._lock.unlink(missing_ok=True)
            return True
        raise UsageError(
            f"{self.out} exists; pass `overwrite` to replace it, or choose another `out`"
        )

    def _check_is_capture(self) -> None:
        try:
            read_manifest(self.out)
        except CaptureFileError as error:
            raise UsageError(
                f"{self.out} is a folder but not a capture, so it is not overwritten; choose another `out`"
            ) from error

    def _prepare(self, resume: bool) -> None:
        if self.partial.exists() and self._overwrite and not resume and not self._shared:
            with disk.told_in_one_line(self.partial, 0):
                shutil.rmtree(self.partial)
        if self.partial.exists():
            self._go_on(resume)
        self._shards.start(self.header)

    def _go_on(self, resume: bool) -> None:
        """Check that `<out>.partial` may be gone on with, by this writer and for this request."""
        ours = [path for layer in self.layers for path in self._shards.files(layer)]
        if self._overwrite and not resume:
            for path in ours:
                path.unlink()
        elif not resume and (ours or not self._shared):
            raise UsageError(
                f"{self.out} is half captured; pass `resume` to go on, or `overwrite` to start again"
            )
        asked = self._shards.stored_header()
        differing = asked.differences(self.header) if asked else []
        if differing:
            raise UsageError(
                f"cannot go on with {self.partial}: it was asked something else "
                f"({'; '.join(differing)}, there and here); ask the same, or remove it"
            )

    def _stored_header_digest(self, path: Path) -> str | None:
        with suppress(SsmlensError):
            header = path / read_manifest(path).header if path.is_dir() else path
            with open_guarded(header) as file:
                return str(hdf5.read_attributes(file)["header_digest"])
        return None

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the lock on completing `out`; False when another writer has completed it meanwhile."""
        with disk.told_in_one_line(self._lock, 0):
            lock = self._lock.open("wb")
        with lock:
            with suppress(OSError):  # without locks, the renames are atomic all the same
                fcntl.flock(lock, fcntl.LOCK_EX)
            here = self._shards.header.exists()
            yield here
            if not self.partial.exists():
                self._lock.unlink(missing_ok=True)

    def _publish(self, parts: Mapping[int, list[Path]]) -> None:
        if self.one_file:
            self._publish_file(parts)
        else:
            self._publish_folder({layer: path for layer, (path,) in parts.items()})

    def _publish_file(self, parts: Mapping[int, list[Path]]) -> None:
        assembled = self.partial / _ASSEMBLED
        assemble([Assembly(assembled, self._shards.header, self._header_digest, parts)])
        self._replace_out(assembled)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _publish_folder(self, layers: Mapping[int, Path]) -> None:
        digests = [self._shards.layer_digest(layer) for layer in layers]
        whole = digest.capture_digest(self._header_digest, digests)
        names = {layer: path.name for layer, path in layers.items()}
        manifest = Manifest(whole, HEADER_FILE, names).to_json()
        disk.write_file(self.partial / MANIFEST, manifest)
        self._shards.remove_strangers({MANIFEST, HEADER_FILE, *names.values()})
        self._replace_out(self.partial)

    def _replace_out(self, complete: Path) -> None:
        """Give `complete` the name `out`. A folder cannot take another's place in one step: it is put aside first."""
        aside = disk.partial_path(self.out.with_name(f"{self.out.name}.old"))
        with disk.told_in_one_line(self.out, 0):
            if self.out.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
                self.out.replace(aside)
            disk.rename(complete, self.out)
        shutil.rmtree(aside, ignore_errors=True)
