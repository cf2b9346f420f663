"""Figures and their numbers as the bytes of a file, by its suffix."""

from ssmlens.plots.image import FIGURE_FILES, figure_file
from ssmlens_dashboard.figures import FIGURES, drawn
from ssmlens_dashboard.routes import as_csv, as_netcdf
from ssmlens_dashboard.scene import Scene

FORMS = (*FIGURE_FILES, ".csv", ".nc")


def as_file(scene: Scene, name: str, form: str, size: tuple[int | None, int | None]) -> bytes:
    """A figure, or the numbers in it.

    Args:
        scene: What is drawn (`figures.still`).
        name: A name in `FIGURES`.
        form: One of `FORMS`.
        size: Width and height in pixels; None for the figure's own.

    Raises:
        UsageError: What makes images is not installed.
        SsmlensError: The image was not made.
    """
    if form == ".csv":
        return as_csv(FIGURES[name].data(scene)).encode()
    if form == ".nc":
        return as_netcdf(FIGURES[name].data(scene))
    return figure_file(drawn(scene, name, size), form)
