"""A figure of a layer, or the numbers in it, as the bytes of a file, by its suffix."""

from ssmlens.plot.catalogue import FIGURES, check
from ssmlens.plot.finish import Length
from ssmlens.plot.image import FIGURE_FILES, figure_file
from ssmlens.plot.number_files import as_csv, as_netcdf
from ssmlens.plot.of_layers import figure_of
from ssmlens.plot.selection import Selection

FORMS = (*FIGURE_FILES, ".csv", ".nc")


def as_file(
    name: str,
    what: Selection,
    form: str,
    title: str | None,
    size: tuple[Length | None, Length | None],
    model: str = "",
) -> bytes:
    """A figure, or the numbers in it.

    Args:
        name: A name in `catalogue.FIGURES`.
        what: What it shows.
        form: One of `FORMS`.
        title: What stands above (`of_layers.figure_of`).
        size: Width and height; None for the figure's own.
        model: What the default title ends with.

    Raises:
        UsageError: Something of it is not there; or what makes images is not installed.
        SsmlensError: The image was not made.
    """
    check(name, what)
    numbers = FIGURES[name].numbers
    if form == ".csv":
        return as_csv(numbers(what)).encode()
    if form == ".nc":
        return as_netcdf(numbers(what).assign_attrs(model=model))
    return figure_file(figure_of(name, what, title, size, model), form)
