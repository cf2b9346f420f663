"""Tables for a README."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table, the first of them the header: the first column to the left, others to the right."""
    header, *others = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    line = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, line, *others))
