"""Write a figure of a layer, or its numbers, as the bytes of a file; the suffix chooses the form."""

from ssmlens.plot.catalogue import FIGURES, check
from ssmlens.plot.finish import Length
from ssmlens.plot.image import FIGURE_FILES, figure_file
from ssmlens.plot.number_files import as_csv, as_netcdf
from ssmlens.plot.of_layers import figure_of
from ssmlens.plot.selection import Selection

FORMS = (*FIGURE_FILES, ".csv", ".nc")


def as_file(
    name: str,
    selection: Selection,
    form: str,
    title: str | None,
    size: tuple[Length | None, Length | None],
    model: str = "",
) -> bytes:
    """Return the bytes of a figure, or of the numbers in it.

    Args:
        name: A name in `catalogue.FIGURES`.
        selection: The part of the layer to draw.
        form: One of `FORMS`.
        title: The title (`of_layers.figure_of`).
        size: Width and height; None for the figure's own.
        model: Name of the model, for the default title.

    Raises:
        UsageError: The layer lacks part of the selection, or the package that draws images is not installed.
        SsmlensError: The image could not be drawn.
    """
    check(name, selection)
    numbers = FIGURES[name].numbers
    if form == ".csv":
        return as_csv(numbers(selection)).encode()
    if form == ".nc":
        return as_netcdf(numbers(selection).assign_attrs(model=model))
    return figure_file(figure_of(name, selection, title, size, model), form)
