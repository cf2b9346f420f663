"""Write a capture shard by shard, so that it can be stopped at any moment and resumed.

While it runs, all files are in the folder `<out>.partial/`:

    header.h5                             the request; a resumed capture must have the same
    layer-005.h5                          a finished layer
    layer-005.batch-0002-of-0008.h5       a shard: one layer, one batch of prompts
    assembled.h5.<random>.partial         the one file, while layers are written straight into it
    layer-005.written.json                where a finished layer is in it (see `journal`)

A shard is built in memory, written, synced and renamed. `finish` merges the batches of each layer and gives the
folder, or the one file assembled from it, its final name. If one machine writes the one file, with all prompts at
once, there are no shards: layers are written straight into it. A name without `.partial` is complete.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from ssmlens.errors import CaptureFileError, SsmlensError, UsageError
from ssmlens.files import place
from ssmlens.files.disk import one_line_errors
from ssmlens.files.new import ensure_folder, write_file
from ssmlens.store import digest, hdf5
from ssmlens.store.assemble import Assembly, assemble
from ssmlens.store.growing import GrowingFile
from ssmlens.store.guard import open_guarded, open_unguarded
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import check_arrays, check_attributes
from ssmlens.store.manifest import HEADER_FILE, MANIFEST, Manifest, read_manifest
from ssmlens.store.output_lock import OutputLock
from ssmlens.store.overlap import Job, Overlap
from ssmlens.store.schema import Attribute, batch_of_prompts
from ssmlens.store.shards import Shards

_ASSEMBLED = "assembled.h5"
# Marks a folder that a new capture replaces: such a folder is discarded, never resumed.
_REPLACED = "replaced"


class CaptureWriter:
    """Writes the capture of `header` to `out`, layer by layer and batch by batch.

    Several writers, on several machines, may share one `out`, each with layers of its own; the one that finishes last
    completes it. From here until `finish` or `close` nobody else may write these layers, nor begin `out` anew.

    As a context manager it writes in the background: `write` returns at once while at most two shards are being
    encoded. An error is raised by a later `write`, by `finish`, or at the end of the block.

    Args:
        out: `name.h5` becomes one HDF5 file, any other name a folder of them.
        header: The request of the complete capture; `header.layers` lists the layers of all machines.
        layers: The block indices that this writer writes.
        batches: Number of batches of prompts in each layer (see `prompts`).
        resume: Resume `<out>.partial`, which must have the same request.
        overwrite: Discard `<out>.partial` (unless `resume`), and replace `out` when this capture is complete.

    Raises:
        BusyError: Another process writes `out`, or these layers of it.
        UsageError: `out` exists, or is half captured and neither `resume` nor `overwrite` is set, or its request
            differs (the message says where), or `layers` are not the header's.
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
        self.partial = place.partial_path(self.out)
        self._overwrite = overwrite
        self._shared = set(self.layers) != set(header.layers)
        self._header_digest = header.digest()
        self._shards = Shards(self.partial, self._header_digest, batches)
        self._overlap: Overlap | None = None
        self._growing: GrowingFile | None = None
        self._lock = OutputLock(self.out, self.layers[0] if self._shared else None)
        try:
            with self._lock.exclusive():
                self._complete = self._check_out(resume)
                if not self._complete:
                    self._prepare(resume)
        except BaseException:
            self.close()
            raise
        if self._complete:
            self.close()

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
            self.close()

    def close(self) -> None:
        """Release `out`. An incomplete capture can be resumed."""
        self._leave_growing()
        self._lock.close()

    @property
    def one_file(self) -> bool:
        """Whether the capture ends as one HDF5 file."""
        return self.out.suffix == ".h5"

    def prompts(self, batch: int) -> range:
        """The prompts of a batch, counted from 0."""
        return batch_of_prompts(self.header.prompts, self.batches, batch)

    def done(self, layer: int, batch: int) -> bool:
        """Whether this shard is on the disk and intact. A damaged one is removed, to be written again."""
        self._join(layer, batch)
        if self._complete or self._has_grown(layer):
            return True
        self._shards.restore(layer)
        return self._shards.is_written(layer, batch)

    def stored(self, layer: int, batch: int, name: str) -> np.ndarray | None:
        """An array of a shard that is `done`; None if the shard lacks it."""
        self._join(layer, batch)
        if self._growing is not None and layer in self._growing:
            return self._growing.stored(layer, name)
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
            arrays: Names of `store.schema.LAYER_ARRAYS` to arrays with the leading axes given there; the prompt axis
                covers the batch. Arrays without prompts (weights, A, D) are taken from batch 0.
            attributes: `finite` (one of `schema.FINITE_STATES`), `kind` (default: Mamba), `reason`, `mixer`, `adapter`,
                `block_tokens` (of reduced maps), ...

        Raises:
            ValueError: An array or attribute that the file does not accept.
            SsmlensError: The disk is full or cannot be written: path, need and free space.
        """
        if layer not in self.layers or not 0 <= batch < self.batches:
            raise ValueError(f"layer {layer}, batch {batch} is not this writer's to write")
        attributes = check_attributes(attributes)
        shape = len(self.prompts(batch)), self.header.tokens.shape[1]
        stored = check_arrays(arrays, attributes, *shape, first=batch == 0)
        threads = None if self._overlap is None else self._overlap.threads
        if self.one_file and not self._shared and self.batches == 1:
            if self._growing is None:
                self._growing = GrowingFile(self.partial / _ASSEMBLED, self._header_digest)
            write: Job = partial(self._growing.write, layer, stored, attributes, threads)
        else:
            shard = layer, batch, self.prompts(batch).start, stored, attributes
            write = partial(self._shards.write, *shard, threads)
        if self._overlap is not None:
            self._overlap.start((layer, batch), write)
            return
        try:
            write()()
        except BaseException:
            self._leave_growing()
            raise

    def finish(self) -> Path | None:
        """Complete the capture. Return `out`, or None while shards of other machines are missing.

        Raises:
            SsmlensError: A shard of this writer is missing, or the disk is full.
        """
        if self._overlap is not None:
            self._overlap.join_all()
        if not self._complete and self.partial.exists():
            if self._growing is None:
                self._restore_layers()
            parts = {
                layer: [] if self._has_grown(layer) else self._shards.parts(layer)
                for layer in self.layers
            }
            if self._shared or not self.one_file:
                self._shards.merge(parts)
                parts = {layer: [self._shards.layer(layer)] for layer in self.header.layers}
                with one_line_errors(self.partial):
                    self._shards.sync_names()
            with self._lock.exclusive(completing=True):
                if self._shards.header.exists():
                    if not all(path.exists() for paths in parts.values() for path in paths):
                        self.close()
                        return None
                    self._publish(parts)
                    self._lock.tidy()
        self.close()
        if self._stored_header_digest(self.out, open_unguarded) != self._header_digest:
            raise SsmlensError(f"{self.partial} was removed while it was being written")
        return self.out

    def _has_grown(self, layer: int) -> bool:
        """Whether a layer is complete in the one file."""
        return self._growing is not None and layer in self._growing

    def _join(self, layer: int, batch: int) -> None:
        """Wait for a shard that is being written."""
        if self._overlap is not None:
            self._overlap.join((layer, batch))

    def _check_request(self) -> None:
        if self.out.name.endswith(place.PARTIAL) or self.out.name in ("", ".."):
            raise UsageError(f"{self.out} cannot be the name of a capture; choose another `out`")
        if not 1 <= self.batches <= self.header.prompts:
            raise ValueError(f"{self.batches} batches of {self.header.prompts} prompts")
        foreign = sorted(set(self.layers) - set(self.header.layers))
        if foreign or not self.layers:
            raise UsageError(f"layers {foreign} are not among the capture's {self.header.layers}")
        with one_line_errors(self.out):
            place.check_name(self.out)
        if not self.out.absolute().parent.is_dir():
            raise UsageError(f"cannot write {self.out}: its folder does not exist; make it first")

    def _check_out(self, resume: bool) -> bool:
        """Whether `out` is already this capture, complete, as when a run was stopped at its very end."""
        if self.out.is_symlink() and not self.one_file:
            raise UsageError(f"{self.out} is a link; choose another `out`, or remove the link")
        if not self.out.exists():
            return False
        if self._overwrite:
            if self.out.is_dir():
                self._check_is_capture()
            return False
        if resume and self._stored_header_digest(self.out) == self._header_digest:
            shutil.rmtree(self.partial, ignore_errors=True)
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
        anew = self._overwrite and not resume and not self._shared
        if anew or (self.partial / _REPLACED).exists():
            with one_line_errors(self.partial):
                place.remove(self.partial)
        if self.partial.exists():
            ensure_folder(self.partial)  # not a link
            self._check_partial(resume)
            self._restore_layers()
        self._shards.start(self.header)

    def _restore_layers(self) -> None:
        """Make shards of layers in a file that was left, by this run or a stopped one.

        Then remove it, unless other writers of this capture may have begun one.
        """
        for layer in self.layers:
            self._shards.restore(layer)
        for left in () if self._shared else place.own_names(self.partial / _ASSEMBLED):
            left.unlink(missing_ok=True)

    def _leave_growing(self) -> None:
        """Leave the one file as it is; nothing more can be written into it."""
        growing, self._growing = self._growing, None
        if growing is not None:
            growing.leave()

    def _check_partial(self, resume: bool) -> None:
        """Check that this writer may resume `<out>.partial` for this request."""
        ours = [path for layer in self.layers for path in self._shards.files(layer)]
        if self._overwrite and not resume:
            for path in ours:
                path.unlink()
        elif not resume and (ours or not self._shared):
            raise UsageError(
                f"{self.out} is half captured; pass `resume` to continue, or `overwrite` to restart"
            )
        request = self._shards.stored_header()
        differing = request.differences(self.header) if request else []
        if differing:
            raise UsageError(
                f"cannot resume {self.partial}: its request differs "
                f"({'; '.join(differing)}, there and here); repeat that request, or remove it"
            )

    def _stored_header_digest(
        self, path: Path, open_file: Callable[[Path], h5py.File] = open_guarded
    ) -> str | None:
        with suppress(SsmlensError):
            header = path / read_manifest(path).header if path.is_dir() else path
            with open_file(header) as file:
                return str(hdf5.read_attributes(file)["header_digest"])
        return None

    def _publish(self, parts: Mapping[int, list[Path]]) -> None:
        if self.one_file:
            self._publish_file(parts)
        else:
            self._publish_folder({layer: path for layer, (path,) in parts.items()})

    def _publish_file(self, parts: Mapping[int, list[Path]]) -> None:
        complete = self.partial / _ASSEMBLED
        job = Assembly(complete, self._shards.header, self._header_digest, parts)
        if self._growing is None:
            assemble([job])
        else:
            try:
                self._growing.finish(job)
            except BaseException:
                self._leave_growing()
                raise
            complete = self._growing.path
        self._replace_out(complete)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _publish_folder(self, layers: Mapping[int, Path]) -> None:
        digests = [self._shards.layer_digest(layer) for layer in layers]
        capture_digest = digest.capture_digest(self._header_digest, digests)
        names = {layer: path.name for layer, path in layers.items()}
        manifest = Manifest(capture_digest, HEADER_FILE, names).to_json()
        write_file(self.partial / MANIFEST, manifest)
        self._shards.remove_strangers({MANIFEST, HEADER_FILE, *names.values()})
        self._replace_out(self.partial)

    def _replace_out(self, complete: Path) -> None:
        """Give `complete` the name `out`. A folder that has it is marked first: it may outlive us, as `complete`."""
        with one_line_errors(self.out):
            if place.is_folder(self.out):
                with suppress(OSError):
                    (self.out / _REPLACED).touch()
                place.exchange(complete, self.out)
                place.sync_folder(self.out.parent)
                place.remove(complete)
            else:
                place.put(complete, self.out)
