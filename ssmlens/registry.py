"""One registry for everything that comes in kinds: adapters, scores, tasks, initialisations."""

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
Thing = TypeVar("Thing")

log = logging.getLogger(__name__)


class Registry(Generic[T]):
    """Names to things; the files of one package register themselves the first time anything is asked for.

    Installed distributions of others do so too: each module that one declares as an entry point, in the group named
    like the package ("ssmlens.scores"), is imported after the package's own. One that cannot be imported is left out,
    and a warning names it.

    Args:
        kind: What the things are, for messages ("score").
        package: The package whose modules register things when imported: a new thing is one new file there.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self._package = package
        self._things: dict[str, T] = {}
        self._loaded = False
        self._failure: str | None = None
        self._left_out: list[str] = []

    def register(self, name: str) -> Callable[[Thing], Thing]:
        """Decorator (or `register(name)(thing)`): enter `thing` under `name`, which must be new."""

        def enter(thing: Thing) -> Thing:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = cast(T, thing)
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        """The thing called `name`.

        Raises:
            UsageError: There is none; says the nearest names, and which distributions could not be imported.
            SsmlensError: A file of the package cannot be imported.
        """
        things = self._all()
        if name not in things:
            near = difflib.get_close_matches(name, things, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(things)}"
            raise UsageError("; ".join([f"unknown {self.kind} {name!r}", hint, *self._left_out]))
        return things[name]

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
            self._loaded = True  # before the imports: a module may ask while it is imported
            try:
                self._import_own()
                self._import_entry_points()
            except BaseException:
                self._loaded = False
                raise
        return self._things

    def _import_own(self) -> None:
        package = importlib.import_module(self._package)
        for found in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
            module = f"{self._package}.{found}"
            try:
                importlib.import_module(module)
            except SsmlensError:  # such as an extra that is not installed: says what to do
                raise
            except Exception as error:
                self._failure = f"{module} cannot be imported: {_reason(error)}"
                raise SsmlensError(self._failure) from error

    def _import_entry_points(self) -> None:
        for point in metadata.entry_points(group=self._package):
            try:
                point.load()
            except (Exception, SystemExit) as error:
                whose = "?" if point.dist is None else f"{point.dist.name} {point.dist.version}"
                line = f"{whose} is left out: its {self._package} entry {point.name!r} ({point.value}) cannot be "
                self._left_out.append(f"{line}imported: {_reason(error)}")
                log.warning("%s", self._left_out[-1])


def _reason(error: BaseException) -> str:
    """An error in one line, with the file and line that raised it."""
    said = " ".join(str(error).split())
    line = f"{type(error).__name__}: {said}" if said else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    inner = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    return f"{line} ({inner[-1].filename}, line {inner[-1].lineno})" if inner else line
