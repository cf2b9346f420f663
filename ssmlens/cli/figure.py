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
    "erase",
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
    "beta",
]


@dataclasses.dataclass(frozen=True)
class FigureCommand:
    """Write one figure of a layer, or its numbers, to a file."""

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    layer: int
    """The layer, by block index."""
    out: Path
    """The file to write: .svg, .png or .pdf (with ssmlens[export]), .html, or numbers as .csv or .nc (netCDF)."""
    view: View | None = None
    """A map (map, mask, erase, channel, softmax, lags), a signal (steps, norms, half-lives, rates) or weights (others).
    Default: map, or channel with --channel."""
    channel: int | None = None
    """The head whose map is drawn (--view channel or lags)."""
    prompt: int = 0
    """Number of the prompt."""
    scale: Literal["linear", "symlog", "rank"] = "linear"
    """Colour scale."""
    limit: float | None = None
    """Largest value of the colour scale; give the same to figures that are compared. Default: from the figure."""
    zoom: str | None = None
    """Region as Q0-Q1,K0-K1 (ends excluded), such as 0-64,16-80; signal figures use only the keys."""
    sort: Literal["index", "step", "half-life"] = "index"
    """Order of the heads in --view steps."""
    group: int = 0
    """The group of W_B and W_C."""
    theme: Literal["light", "dark"] = "light"
    """Colour theme."""
    title: str | None = None
    """Title above the figure; "" omits it. Default: layer, view, prompt and model."""
    width: str | None = None
    """Width in pixels, or with a unit: 9cm, 90mm, 3.5in. Default: from the figure."""
    height: str | None = None
    """Height, as --width."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Draw the figure and write the file."""
        from ssmlens.files.new import write_file
        from ssmlens.plot.file_forms import FORMS, as_file
        from ssmlens.plot.finish import DEFAULT, pixels
        from ssmlens.plot.selection import Selection
        from ssmlens.plot.theme import DARK, LIGHT
        from ssmlens.store import open_capture

        if self.out.suffix.lower() not in FORMS:
            raise UsageError(f"--out {self.out.name} ends in none of {', '.join(FORMS)}")
        if self.out.exists() and not self.overwrite:
            raise UsageError(f"{self.out} exists; pass --overwrite, or choose another --out")
        sides = [None if side is None else pixels(side) for side in (self.width, self.height)]
        view = self.view or ("map" if self.channel is None else "channel")
        if self.channel is not None and view not in ("channel", "lags"):
            raise UsageError("--channel goes with --view channel or --view lags")
        of_a_matrix = view in ("map", "mask", "erase", "channel", "softmax")
        with open_capture(self.capture) as capture:
            selection = Selection(
                layer=capture.layer(self.layer),
                prompt=self.prompt,
                kind=view if of_a_matrix else "map" if self.channel is None else "channel",
                channel=self.channel or 0,
                region=_region(self.zoom),
                scale=self.scale,
                limit=self.limit,
                sort=self.sort,
                group=self.group,
                theme=DARK if self.theme == "dark" else LIGHT,
            )
            title = DEFAULT if self.title is None else self.title or None
            model = str(capture.attributes.get("model", ""))
            file = as_file(
                view, selection, self.out.suffix.lower(), title, (sides[0], sides[1]), model
            )
        write_file(self.out, file)
        return Result({"out": str(self.out), "view": view, "bytes": len(file)}, f"{self.out}")


def _region(text: str | None) -> Any:
    from ssmlens.plot.selection import Region

    try:
        return None if text is None else Region.parse(text)
    except ValueError as error:
        raise UsageError(
            f"--zoom {text} is not a rectangle of queries and keys such as 0-64,16-80"
        ) from error


COMMAND = FigureCommand
