"""The number of files that this process may have open, and the error if it can open no more."""

import errno
import resource

from ssmlens.errors import OpenFilesError

_NO_MORE = (errno.EMFILE, errno.ENFILE)
_UNLIMITED = 1 << 20


def most_open() -> int:
    """Return the number of files, including sockets, that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else min(soft, _UNLIMITED)


def raise_if_exhausted(error: BaseException) -> None:
    """Raise OpenFilesError if the error means that this process, or the machine, can open no more files."""
    if isinstance(error, OSError) and error.errno in _NO_MORE:
        raise OpenFilesError(
            f"too many files are open (this process may have {most_open()}): try again, or restart it with a "
            "higher limit (ulimit -n)"
        ) from error


def share() -> int:
    """Return the number of files that one part of the program may keep open: a quarter of the limit, 256 at most."""
    return max(1, min(256, most_open() // 4))
