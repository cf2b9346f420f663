"""Text tables: the one module that formats them."""

from collections.abc import Sequence
from typing import Literal

Form = Literal["plain", "markdown"]


def text_table(
    rows: Sequence[Sequence[str]], left: Sequence[int] = (0,), form: Form = "plain"
) -> str:
    """Format rows as an aligned table.

    Args:
        rows: The rows; the first is the header.
        left: Numbers of left-aligned columns, negative ones from the last; the others are right-aligned.
        form: "plain" for a terminal, "markdown" for a README.
    """
    from tabulate import tabulate  # lazily, since every command's help imports this module

    count = len(rows[0])
    lefts = {column % count for column in left}
    align = ["left" if column in lefts else "right" for column in range(count)]
    if form == "markdown":
        rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    header, *others = rows
    if not others:  # tabulate would align no column of an empty table
        others, align = [], None
    style = "pipe" if form == "markdown" else "plain"
    return tabulate(others, headers=header, tablefmt=style, colalign=align, disable_numparse=True)
