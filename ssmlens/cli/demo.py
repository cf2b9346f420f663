"""`ssmlens demo`."""

import dataclasses
from pathlib import Path

from ssmlens.cli.capture import CaptureCommand
from ssmlens.cli.command import Result
from ssmlens.cli.rank_layers import RankLayersCommand
from ssmlens.cli.report import ReportCommand
from ssmlens.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DemoCommand:
    """Capture a shipped model copying strings, rank its layers, and write the page that shows them."""

    model: str = "copy-mamba1-mimetic"
    """A shipped model; see ssmlens models."""
    out: Path = Path("demo")
    """Folder for the capture and the page; what an earlier demo left there is replaced."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.store import disk

        if self.out.exists() and not self.out.is_dir():
            raise UsageError(
                f"{self.out} is a file; --out is a folder for the capture and the page"
            )
        with disk.told_in_one_line(self.out, 0):
            self.out.mkdir(parents=True, exist_ok=True)
        file, page = self.out / f"{Path(self.model).name}.h5", self.out / "report.html"
        captured = CaptureCommand(model=self.model, out=file, overwrite=True).run()
        ranked = RankLayersCommand(capture=file).run()
        ReportCommand(capture=file, out=page, overwrite=True).run()
        text = "\n\n".join([captured.text, ranked.text, f"open {page.resolve().as_uri()}"])
        data = {"capture": captured.data, "ranking": ranked.data, "page": str(page)}
        return Result(data, text)


COMMAND = DemoCommand
