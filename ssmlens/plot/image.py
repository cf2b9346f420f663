"""Turn a figure into the bytes of a file."""

import plotly.graph_objects as go

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.extras import extra

FIGURE_FILES = (".svg", ".png", ".pdf", ".html")
"""Suffixes of the files that a figure can be written to."""


def figure_file(figure: go.Figure, form: str) -> bytes:
    """Return a figure as an HTML page that needs no network, or as an image of its layout's size.

    A browser draws the image without network access. A PNG has two pixels for each pixel of the layout.

    Args:
        figure: The figure; its layout must have a width and a height.
        form: One of `FIGURE_FILES`.

    Raises:
        UsageError: kaleido, or a browser for it, is not installed.
        SsmlensError: The browser could not draw the figure.
    """
    if form == ".html":
        page = figure.to_html(include_plotlyjs=True, div_id="figure", config={"displaylogo": False})
        return page.encode()
    with extra("export", form, otherwise=".html needs nothing"):
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    plain = figure.to_dict()
    size = {name: plain["layout"][name] for name in ("width", "height")}
    page = kaleido.PageGenerator(mathjax=False)
    try:
        return kaleido.calc_fig_sync(
            plain,
            opts={"format": form[1:], **size, "scale": 2 if form == ".png" else 1},
            kopts={"page_generator": page},
        )
    except ChromeNotFoundError as error:
        raise UsageError(
            f"{form} needs Chrome or Chromium (apt-get install chromium); .html needs nothing"
        ) from error
    except Exception as error:
        raise SsmlensError(f"the browser did not draw the figure: {error}; try .html") from error
