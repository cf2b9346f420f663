"""`ssmlens demo`."""

import dataclasses
import sys
from pathlib import Path

from ssmlens.cli.capture import CaptureCommand
from ssmlens.cli.command import Result
from ssmlens.cli.dashboard import DashboardCommand, side_by_side
from ssmlens.cli.rank_layers import RankLayersCommand
from ssmlens.cli.report import ReportCommand
from ssmlens.cli.terminal import say
from ssmlens.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DemoCommand:
    """Capture a model that copies and one that never learned to; rank layers, write a report, open the dashboard."""

    model: str = "copy-mamba1-mimetic"
    """A shipped model (see ssmlens models). A mimetic model is shown beside the default one."""
    out: Path = Path("demo")
    """Folder for the captures and the page; replaces those of an earlier demo."""
    serve: bool = True
    """Serve the dashboard at the end, until Ctrl-C. With --no-serve, --json or no terminal the demo stops before."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Capture, rank, report, and serve the dashboard."""
        import ssmlens.plot  # noqa: F401  # reports a missing package before anything is captured
        from ssmlens.files import disk

        if self.out.exists() and not self.out.is_dir():
            raise UsageError(
                f"{self.out} is a file; --out is a folder for the captures and the page"
            )
        with disk.one_line_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        page = self.out / "report.html"
        captured = self._capture(self.model)
        file = Path(captured.data["out"])
        ranked = RankLayersCommand(capture=file).run()
        ReportCommand(capture=file, out=page, overwrite=True).run()
        other = self.model.replace("mimetic", "default")
        beside = None if other == self.model else Path(self._capture(other).data["out"])
        text = "\n\n".join([captured.text, ranked.text, f"open {page.resolve().as_uri()}"])
        data = {"capture": captured.data, "ranking": ranked.data, "page": str(page)}
        if beside is not None:
            data["beside"] = str(beside)
        if not self.serve or self.json or not sys.stdout.isatty():
            return Result(data, f"{text}\nor browse it: ssmlens dashboard {self.out}")
        say(
            f"{text}\nor browse it, the layer that copies beside the same layer of a model that does not:"
        )
        first = ranked.data["layers"][0]["layer"]
        view = f"maps?layer={first}" if beside is None else side_by_side(beside, file, first)
        return DashboardCommand(paths=(self.out,), port=0).serve(view)

    def _capture(self, model: str) -> Result:
        out = self.out / f"{Path(model).name}.h5"
        return CaptureCommand(model=model, out=out, overwrite=True).run()


COMMAND = DemoCommand
