"""What can go wrong, by who can mend it. Every message is one line that says what to do."""


class SsmlensError(Exception):
    """A failure: the request was sound, but could not be carried out. The command line exits with 1."""

    exit_code = 1


class UsageError(SsmlensError, ValueError):
    """The request itself must change (an option, a path, a model). The command line exits with 2."""

    exit_code = 2


class BusyError(UsageError):
    """Another process is writing there; the message says where."""


class UnsupportedModelError(UsageError):
    """No adapter takes this model; the message names its class and what is supported."""


class MissingExtraError(UsageError, ImportError):
    """A package is not installed that only some of ssmlens needs; the message names the extra that brings it."""


class ClosureError(SsmlensError):
    """A layer's recomputed output is not what the layer computed: its maps must not be believed."""


class CaptureFileError(SsmlensError):
    """A capture on disk is damaged, unfinished, of another schema version, or holds what is refused."""


class OpenFilesError(SsmlensError):
    """This process, or the machine, may open no more files."""


class RunFileError(SsmlensError):
    """A file of a training run cannot be read as what it must be; the message names the file and says why."""
