"""`ssmlens pack`."""

import dataclasses
from pathlib import Path

import tyro

from ssmlens.cli.command import Result


@dataclasses.dataclass(frozen=True)
class PackCommand:
    """Pack a capture folder into one HDF5 file; the folder stays."""

    folder: tyro.conf.Positional[Path]
    """The capture folder."""
    out: Path | None = None
    """The file to write. Default: the folder's name with .h5."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Write the file."""
        from ssmlens.store import open_capture, pack

        target = self.out or self.folder.with_name(f"{self.folder.name}.h5")
        out = pack(self.folder, target, overwrite=self.overwrite)
        with open_capture(out) as capture:
            digest = capture.digest
        return Result({"out": str(out), "digest": digest}, f"{out}")


COMMAND = PackCommand
