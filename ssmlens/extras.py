"""Optional dependencies: the extras of pyproject.toml, and the error that names the extra to install."""

import contextlib
from collections.abc import Iterator

from ssmlens.errors import MissingExtraError

_OURS = ("ssmlens", "ssmlens_dashboard")


@contextlib.contextmanager
def extra(name: str, user: str, otherwise: str = "") -> Iterator[None]:
    """Wrap imports of an extra's packages: if one is missing, the error says what to install.

    >>> with extra("dashboard", "ssmlens dashboard"):
    ...     import dash

    Args:
        name: The extra, as in pyproject.toml.
        user: The feature that needs it: the message begins with it.
        otherwise: An alternative to installing, for the end of the message.

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
