"""Turn a capture in a folder into one file."""

from pathlib import Path

from ssmlens.errors import UsageError
from ssmlens.store import disk, hdf5
from ssmlens.store.assemble import Assembly, assemble
from ssmlens.store.guard import open_guarded
from ssmlens.store.manifest import read_manifest


def pack(folder: Path | str, out: Path | str, *, overwrite: bool = False) -> Path:
    """Write the capture in `folder` as the one HDF5 file `out`, with the same digest; the folder stays.

    Raises:
        UsageError: `folder` is not a folder, `out` does not end in .h5, or exists and is not to be overwritten.
        CaptureFileError: The folder is damaged or not complete.
        SsmlensError: The disk is full or cannot be written: path, need and free space.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: pack takes a capture of many files")
    if out.suffix != ".h5":
        raise UsageError(f"{out} must end in .h5: pack writes one HDF5 file")
    if out.is_dir() or (out.exists() and not overwrite):
        raise UsageError(f"{out} exists; pass `overwrite` to replace it, or choose another `out`")
    if disk.partial_path(out).is_dir():
        raise UsageError(f"{out} is half captured ({disk.partial_path(out)}); choose another `out`")
    manifest = read_manifest(folder)
    header = folder / manifest.header
    with open_guarded(header) as file:
        header_digest = str(hdf5.read_attributes(file)["header_digest"])
    layers = {index: [folder / name] for index, name in manifest.layers.items()}
    assemble([Assembly(out, header, header_digest, layers)])
    return out
