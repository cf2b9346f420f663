"""What an installation may lack: the extras of pyproject.toml, and the line that says which to install."""

import contextlib
from collections.abc import Iterator

from ssmlens.errors import MissingExtraError

EXTRAS = {
    "dashboard": ("dash", "dash_mantine_components", "dash_ag_grid"),
    "export": ("kaleido",),
    "plot": ("plotly", "jinja2", "markupsafe"),
    "ray": ("ray",),
    "transformers": ("transformers",),
}
"""Extra → the packages that code imports of it."""


@contextlib.contextmanager
def extra(name: str, user: str, otherwise: str = "") -> Iterator[None]:
    """Around imports of an extra's packages: where one is missing, the error says what to install.

    >>> with extra("dashboard", "ssmlens dashboard"):
    ...     import dash

    Args:
        name: The extra, of `EXTRAS`.
        user: What needs it: the first words of the message.
        otherwise: What else can be done.

    Raises:
        MissingExtraError: A package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS[name]:
            raise
        remedy = f"pip install 'ssmlens[{name}]'" + (f"; {otherwise}" if otherwise else "")
        raise MissingExtraError(f"{user} needs {package}: {remedy}") from None
