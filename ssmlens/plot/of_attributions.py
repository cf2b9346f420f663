"""The figure of a logit's terms.

>>> ssmlens.plot.attribution(ssmlens.attribute(model, "abcd|abc"))
"""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ssmlens.errors import UsageError
from ssmlens.names import MIXER, SOURCE, TERM
from ssmlens.plot.finish import DEFAULT, Length, finished
from ssmlens.plot.labels import visible
from ssmlens.plot.of_layers import ThemeName, theme_of
from ssmlens.plot.scales import Scale
from ssmlens.plot.term_panels import term_panels

_WIDTH = 1000


def attribution(
    of: xr.Dataset,
    *,
    scale: Scale = "linear",
    limit: float | None = None,
    title: str | None = DEFAULT,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw a logit's terms by source token: bars over the text, terms × tokens, and each term's total.

    A term without a source token (embedding, MLP) is drawn at the position itself; a bias at no token.

    Args:
        of: The result of `ssmlens.attribute`.
        scale: Colour scale of the cells.
        limit: The value at the end of the colours; by default the largest cell.
        title: The title; None for none.
        size: Width and height.
        theme: "light" or "dark".

    Raises:
        UsageError: No term is split by source.
    """
    if "by_source" not in of:
        raise UsageError("no term of this logit is split by source: no mixer of the model was read")
    cells = np.full((of.sizes[TERM], of.sizes[SOURCE]), np.nan)
    split = {label: row for row, label in enumerate(of[MIXER].values.tolist())}
    labels = of[TERM].values.tolist()
    for row, (label, kind) in enumerate(zip(labels, of["kind"].values.tolist(), strict=True)):
        if label in split:
            cells[row] = of["by_source"].values[split[label]]
        elif kind != "bias":
            cells[row, of.attrs["position"]] = of["value"].values[row]
    figure = term_panels(
        cells,
        of["value"].values,
        labels,
        _tokens(of),
        scale=scale,
        limit=limit,
        theme=theme_of(theme),
    )
    heading = attribution_title(of) if title == DEFAULT else title
    height = figure.to_dict()["layout"]["height"]
    return finished(figure, heading, size, (_WIDTH, height), theme_of(theme))


def _tokens(of: xr.Dataset) -> list[str]:
    if "token_string" in of.coords:
        return of["token_string"].values.tolist()
    return [""] * of.sizes[SOURCE]


def attribution_title(of: xr.Dataset) -> str:
    """Name the logit and its value."""
    names = [_name(of, which) for which in ("token", "against") if of.attrs[which] >= 0]
    logit = " less ".join(names)
    return f"Logit of {logit} after token {of.attrs['position']}: {of.attrs['logit']:.4g}"


def _name(of: xr.Dataset, which: str) -> str:
    text = of.attrs.get(f"{which}_text")
    return str(of.attrs[which]) if text is None else repr(visible(text))
