"""A figure as the bytes of a file."""

import plotly.graph_objects as go

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.extras import extra

FIGURE_FILES = (".svg", ".png", ".pdf", ".html")
"""What a figure can be written as."""


def figure_file(figure: go.Figure, form: str) -> bytes:
    """A figure as a page that needs no network, or as an image of the size that its layout has.

    Images are drawn by a browser that asks no network for anything; a PNG has two pixels to each of the figure's own.

    Args:
        figure: Its layout has a width and a height.
        form: One of `FIGURE_FILES`.

    Raises:
        UsageError: kaleido, or a browser for it, is not installed.
        SsmlensError: The browser did not draw it.
    """
    if form == ".html":
        page = figure.to_html(include_plotlyjs=True, div_id="figure", config={"displaylogo": False})
        return page.encode()
    with extra("export", form, otherwise=".html needs nothing"):
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    made = figure.to_dict()
    size = {name: made["layout"][name] for name in ("width", "height")}
    page = kaleido.PageGenerator(mathjax=False)
    try:
        return kaleido.calc_fig_sync(
            made,
            opts={"format": form[1:], **size, "scale": 2 if form == ".png" else 1},
            kopts={"page_generator": page},
        )
    except ChromeNotFoundError as error:
        raise UsageError(
            f"{form} needs Chrome or Chromium (apt-get install chromium); .html needs nothing"
        ) from error
    except Exception as error:
        raise SsmlensError(f"the browser did not draw the figure: {error}; try .html") from error
