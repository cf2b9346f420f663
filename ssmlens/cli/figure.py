"""`ssmlens figure`."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from ssmlens.cli.command import Result
from ssmlens.errors import UsageError

View = Literal[
    "map",
    "mask",
    "channel",
    "softmax",
    "lags",
    "steps",
    "norms",
    "half-lives",
    "rates",
    "input-product",
    "state-product",
    "input-entries",
    "state-entries",
    "kernels",
    "taps",
]


@dataclasses.dataclass(frozen=True)
class FigureCommand:
    """Write one figure of the dashboard to a file, or the numbers in it."""

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    layer: int
    """Block index of the layer."""
    out: Path
    """The file to write: .svg, .png or .pdf (with ssmlens[export]), .html, or numbers as .csv or .nc (netCDF)."""
    view: View | None = None
    """What of the layer: maps (map, mask, channel, softmax, lags), signals (steps, norms, half-lives, rates) or
    weights (the others). Default: map, or channel with --channel."""
    channel: int | None = None
    """The head whose map is drawn, by --view channel or lags."""
    prompt: int = 0
    """Number of the prompt."""
    scale: Literal["linear", "symlog", "rank"] = "linear"
    """Colour scale."""
    zoom: str | None = None
    """The rectangle drawn, queries and keys, each first and one after the last: 0-64,16-80. Signals take the keys."""
    sort: Literal["index", "step", "half-life"] = "index"
    """What orders the heads of --view steps."""
    group: int = 0
    """The group of W_B and W_C."""
    theme: Literal["light", "dark"] = "light"
    """Colours."""
    width: int | None = None
    """Pixels. Default: the figure's own."""
    height: int | None = None
    """Pixels. Default: the figure's own."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens_dashboard.address import Address
        from ssmlens_dashboard.export import FORMS, as_file
        from ssmlens_dashboard.figures import still

        from ssmlens.store import disk, open_capture

        if self.out.suffix.lower() not in FORMS:
            raise UsageError(f"--out {self.out.name} ends in none of {', '.join(FORMS)}")
        if self.out.exists() and not self.overwrite:
            raise UsageError(f"{self.out} exists; pass --overwrite, or choose another --out")
        for side in (self.width, self.height):
            if side is not None and not 100 <= side <= 10_000:
                raise UsageError(f"a figure is 100 to 10000 pixels wide and high, not {side}")
        view = self.view or ("map" if self.channel is None else "channel")
        if self.channel is not None and view not in ("channel", "lags"):
            raise UsageError("--channel goes with --view channel or --view lags")
        address = Address(
            layer=self.layer,
            prompt=self.prompt,
            view="map" if self.channel is None else "channel",
            channel=self.channel or 0,
            scale=self.scale,
            zoom=_zoom(self.zoom),
            sort=self.sort,
            group=self.group,
            theme=self.theme,
        )
        with open_capture(self.capture) as capture:
            scene = still(capture, view, address)
            made = as_file(scene, view, self.out.suffix.lower(), (self.width, self.height))
        disk.write_file(self.out, made)
        return Result({"out": str(self.out), "view": view, "bytes": len(made)}, f"{self.out}")


def _zoom(text: str | None) -> Any:
    from ssmlens_dashboard.address import parse

    if text is None:
        return None
    address, notes = parse("maps", f"zoom={text}", ("maps",))
    if notes or address.zoom is None:
        raise UsageError(f"--zoom {text} is no rectangle of queries and keys such as 0-64,16-80")
    return address.zoom


COMMAND = FigureCommand
