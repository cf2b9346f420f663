"""What an installation may lack: the extras of pyproject.toml, and the line that says which to install."""

import contextlib
from collections.abc import Iterator

from ssmlens.errors import MissingExtraError

_OURS = ("ssmlens", "ssmlens_dashboard")


@contextlib.contextmanager
def extra(name: str, user: str, otherwise: str = "") -> Iterator[None]:
    """Around imports of what an extra brings: where a package is missing, the error says what to install.

    >>> with extra("dashboard", "ssmlens dashboard"):
    ...     import dash

    Args:
        name: The extra, as in pyproject.toml.
        user: What needs it: the first words of the message.
        otherwise: What else can be done.

    Raises:
        MissingExtraError: A package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        remedy = f"pip install 'ssmlens[{name}]'" + (f"; {otherwise}" if otherwise else "")
        raise MissingExtraError(f"{user} needs {package}: {remedy}") from None
