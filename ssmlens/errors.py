"""The errors that ssmlens raises. Every message is one line that says what to do."""


class SsmlensError(Exception):
    """A failure: the request was valid but could not be carried out. The command line exits with 1."""

    exit_code = 1


class UsageError(SsmlensError, ValueError):
    """The request is invalid and must change (an option, a path, a model). The command line exits with 2."""

    exit_code = 2


class BusyError(UsageError):
    """Another process is writing to the output; the message names it."""


class UnsupportedModelError(UsageError):
    """No adapter supports this model; the message names its class and the supported ones."""


class MissingExtraError(UsageError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class ClosureError(SsmlensError):
    """Closure failed: what ssmlens recomputed differs from what the model computed."""


class CaptureFileError(SsmlensError):
    """A capture on disk is damaged, unfinished, of another schema version, or unsafe."""


class OpenFilesError(SsmlensError):
    """This process, or the machine, cannot open more files."""


class RunFileError(SsmlensError):
    """A file of a training run is invalid; the message names the file and says why."""
