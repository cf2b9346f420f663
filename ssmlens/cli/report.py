"""`ssmlens report`."""

import dataclasses
from pathlib import Path

import tyro

from ssmlens.cli.command import Result
from ssmlens.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Write one self-contained HTML page: every layer's map and mask, the scores, the closure."""

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    out: Path = Path("report.html")
    """The page to write."""
    overwrite: bool = False
    """Replace the page if it exists."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Write the page."""
        from ssmlens.files.new import write_file
        from ssmlens.plot.report_page import report
        from ssmlens.store import open_capture

        if self.out.exists() and not self.overwrite:
            raise UsageError(f"{self.out} exists; pass --overwrite, or choose another --out")
        with open_capture(self.capture) as capture:
            page = report(capture).html.encode()
        write_file(self.out, page)
        return Result({"out": str(self.out), "bytes": len(page)}, f"{self.out}")


COMMAND = ReportCommand
