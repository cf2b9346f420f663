"""How many files this process may have open, and what to say where it may open no more."""

import errno
import resource

from ssmlens.errors import OpenFilesError

_NO_MORE = (errno.EMFILE, errno.ENFILE)
_UNLIMITED = 1 << 20


def most_open() -> int:
    """Files, sockets among them, that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else min(soft, _UNLIMITED)


def are_exhausted(error: BaseException) -> bool:
    """Whether an error says that this process, or the machine, may open no more files."""
    return isinstance(error, OSError) and error.errno in _NO_MORE


def exhausted() -> OpenFilesError:
    """The error to raise then."""
    return OpenFilesError(
        f"too many files are open here (this process may have {most_open()}): try again, or start it anew with a "
        "higher limit (ulimit -n)"
    )


def share() -> int:
    """Files that one use of them may have open: a quarter of what the process may, and 256 at most."""
    return max(1, min(256, most_open() // 4))
