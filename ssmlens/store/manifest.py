"""`manifest.json` marks a folder of HDF5 files as a complete capture. It is written last."""

import dataclasses
import json
import re
import stat
from pathlib import Path

from ssmlens.errors import CaptureFileError
from ssmlens.files import descriptors
from ssmlens.store.schema import FORMAT, SCHEMA_VERSION, version_problem

MANIFEST = "manifest.json"
HEADER_FILE = "header.h5"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The files of a capture in a folder.

    Attributes:
        digest: The digest of the capture.
        header: Name of the file with the header.
        layers: Name of the file of each block, by block index, ascending.
    """

    digest: str
    header: str
    layers: dict[int, str]

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`."""
        layers = {str(index): name for index, name in self.layers.items()}
        page = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "needs": "",  # each layer's file lists its own
            "digest": self.digest,
            "header": self.header,
            "layers": layers,
        }
        return (json.dumps(page, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a capture in `folder`. All its files must be plain files inside the folder.

    Raises:
        CaptureFileError: It is absent, damaged, of another schema version, or names a file that is missing, is a
            link, or lies outside the folder.
        OpenFilesError: No more files can be opened.
    """
    path = folder / MANIFEST
    _check_plain_file(folder, MANIFEST)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too long")
        page = json.loads(path.read_bytes())
        if page["format"] != FORMAT:
            raise ValueError("it is not the manifest of a capture")
        if problem := version_problem(page["schema_version"], page.get("needs", "")):
            raise CaptureFileError(f"{folder} {problem}")
        layers = {int(index): str(name) for index, name in page["layers"].items()}
        manifest = Manifest(str(page["digest"]), str(page["header"]), dict(sorted(layers.items())))
    except OSError as error:
        descriptors.raise_if_exhausted(error)
        raise CaptureFileError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CaptureFileError(f"{path} is damaged ({error}); capture it again") from error
    for name in (manifest.header, *manifest.layers.values()):
        _check_plain_file(folder, name)
    return manifest


def _check_plain_file(folder: Path, name: str) -> None:
    if not _PLAIN.fullmatch(name):
        raise CaptureFileError(
            f"{folder} is refused: its manifest names {name!r}, not a plain file name"
        )
    try:
        mode = (folder / name).lstat().st_mode
    except OSError as error:
        hint = "it is not a capture" if name == MANIFEST else "it is not complete"
        raise CaptureFileError(f"{folder} has no {name}: {hint}") from error
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise CaptureFileError(f"{folder} is refused: {name} is {kind}")
