"""The registry of adapters, scores, tasks, inits and other plug-ins."""

import difflib
import importlib
import logging
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Generic, TypeVar, cast

from ssmlens.errors import SsmlensError, UsageError

T = TypeVar("T")
Entry = TypeVar("Entry")

log = logging.getLogger(__name__)


class Registry(Generic[T]):
    """A mapping from names to entries. The modules of one package register their entries at the first look-up.

    Other installed distributions can register entries too: each module that one declares as an entry point, in the
    group named like the package ("ssmlens.scores"), is imported after the package's modules. A module that cannot be
    imported is left out, and a warning names it.

    Args:
        kind: The kind of the entries, for messages ("score").
        package: The package whose modules register entries when imported: a new entry is one new file there.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._loaded = False
        self._failure: str | None = None
        self._left_out: list[str] = []

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Register an entry under `name`, which must be new: a decorator, or `register(name)(entry)`."""

        def enter(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = cast(T, entry)
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UsageError: There is none; the message names the nearest one, and distributions that were left out.
            SsmlensError: A file of the package cannot be imported.
        """
        entries = self._all()
        if name not in entries:
            near = difflib.get_close_matches(name, entries, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(entries)}"
            raise UsageError("; ".join([f"unknown {self.kind} {name!r}", hint, *self._left_out]))
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, T]:
        if self._failure is not None:
            raise SsmlensError(self._failure)
        if not self._loaded:
            self._loaded = (
                True  # before the imports: a module may look up entries during its import
            )
            try:
                self._import_package()
                self._import_entry_points()
            except BaseException:
                self._loaded = False
                raise
        return self._entries

    def _import_package(self) -> None:
        package = importlib.import_module(self._package)
        for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
            module = f"{self._package}.{name}"
            try:
                importlib.import_module(module)
            except SsmlensError:  # such as a missing extra: the message says what to do
                raise
            except Exception as error:
                self._failure = f"{module} cannot be imported: {_reason(error)}"
                raise SsmlensError(self._failure) from error

    def _import_entry_points(self) -> None:
        for point in metadata.entry_points(group=self._package):
            try:
                point.load()
            except (Exception, SystemExit) as error:
                owner = "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"
                line = f"{owner} is left out: its {self._package} entry {point.name!r} ({point.value}) cannot be "
                self._left_out.append(f"{line}imported: {_reason(error)}")
                log.warning("%s", self._left_out[-1])


def _reason(error: BaseException) -> str:
    """Format an error in one line, with the file and line that raised it."""
    message = " ".join(str(error).split())
    line = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    inner = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    return f"{line} ({inner[-1].filename}, line {inner[-1].lineno})" if inner else line
