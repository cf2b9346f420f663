"""Figures and their numbers as the bytes of a file, by its suffix."""

import plotly.graph_objects as go

from ssmlens.errors import SsmlensError, UsageError
from ssmlens_dashboard.figures import FIGURES, drawn
from ssmlens_dashboard.routes import as_csv, as_netcdf
from ssmlens_dashboard.scene import Scene

IMAGES = (".svg", ".png", ".pdf")
FORMS = (*IMAGES, ".html", ".csv", ".nc")


def as_file(scene: Scene, name: str, form: str, size: tuple[int | None, int | None]) -> bytes:
    """A figure, or the numbers in it.

    Args:
        scene: What is drawn (`figures.still`).
        name: A name in `FIGURES`.
        form: One of `FORMS`.
        size: Width and height in pixels; None for the figure's own.

    Raises:
        UsageError: What makes images is not installed.
    """
    if form == ".csv":
        return as_csv(FIGURES[name].data(scene)).encode()
    if form == ".nc":
        return as_netcdf(FIGURES[name].data(scene))
    figure = drawn(scene, name, size)
    if form == ".html":
        page = figure.to_html(include_plotlyjs=True, div_id="figure", config={"displaylogo": False})
        return page.encode()
    return image(figure, form.removeprefix("."))


def image(figure: go.Figure, form: str) -> bytes:
    """A figure as SVG, PNG (two pixels to each of its own) or PDF, by a browser that asks no network for anything.

    Raises:
        UsageError: kaleido, or a browser for it, is not installed.
        SsmlensError: The browser did not draw it.
    """
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    except ImportError as error:
        raise UsageError(
            f".{form} needs kaleido: pip install 'ssmlens[export]'; .html, .csv and .nc need nothing"
        ) from error
    made = figure.to_dict()
    size = {name: made["layout"][name] for name in ("width", "height")}
    page = kaleido.PageGenerator(mathjax=False)
    try:
        return kaleido.calc_fig_sync(
            made,
            opts={"format": form, **size, "scale": 2 if form == "png" else 1},
            kopts={"page_generator": page},
        )
    except ChromeNotFoundError as error:
        raise UsageError(
            f".{form} needs Chrome or Chromium (apt-get install chromium); .html, .csv and .nc need nothing"
        ) from error
    except Exception as error:
        raise SsmlensError(f"the browser did not draw the figure: {error}; try .html") from error
