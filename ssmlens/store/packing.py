"""Convert a capture in a folder into one file."""

import time
from pathlib import Path

from ssmlens.errors import CaptureFileError, UsageError
from ssmlens.files import place
from ssmlens.files.disk import one_line_errors
from ssmlens.store import hdf5
from ssmlens.store.assemble import Assembly, OtherDigestError, assemble
from ssmlens.store.guard import open_guarded
from ssmlens.store.manifest import Manifest, read_manifest
from ssmlens.store.output_lock import OutputLock

# Seconds of attempts, if new captures replace the folder during packing. A small one takes less time than packing it.
_PATIENCE = 60.0


def pack(folder: Path | str, out: Path | str, *, overwrite: bool = False) -> Path:
    """Write the capture in `folder` as the one HDF5 file `out`, with the same digest; the folder stays.

    Raises:
        UsageError: `folder` is not a folder, or `out` does not end in .h5, or exists and `overwrite` is not set.
        BusyError: Another process writes `out`.
        CaptureFileError: The folder is damaged or not complete.
        SsmlensError: The disk is full or cannot be written: path, need and free space.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: pack takes a capture of many files")
    if out.suffix != ".h5":
        raise UsageError(f"{out} must end in .h5: pack writes one HDF5 file")
    with one_line_errors(out):
        place.check_name(out)
    read_manifest(folder)  # refuse what is not a capture before anything else
    lock = OutputLock(out)
    try:
        if out.is_dir() or (out.exists() and not overwrite):
            raise UsageError(
                f"{out} exists; pass `overwrite` to replace it, or choose another `out`"
            )
        half = place.partial_path(out)
        if half.is_dir():
            raise UsageError(f"{out} is half captured ({half}); choose another `out`")
        end = time.monotonic() + _PATIENCE
        while True:
            before = place.identity(folder)
            try:
                _assemble(folder, read_manifest(folder), out)
                return out
            except (CaptureFileError, UsageError, OSError):
                if place.identity(folder) == before:
                    raise
            if time.monotonic() > end:
                raise CaptureFileError(
                    f"{folder} keeps being replaced by new captures; pack it later"
                )
    finally:
        lock.close()


def _assemble(folder: Path, manifest: Manifest, out: Path) -> None:
    header = folder / manifest.header
    with open_guarded(header) as file:
        header_digest = str(hdf5.read_attributes(file)["header_digest"])
    layers = {index: [folder / name] for index, name in manifest.layers.items()}
    try:
        assemble([Assembly(out, header, header_digest, layers, manifest.digest)])
    except OtherDigestError as error:
        raise CaptureFileError(f"{folder}: {error}; capture it again") from None
