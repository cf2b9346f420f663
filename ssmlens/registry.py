"""One registry for everything that comes in kinds: adapters, scores, tasks, initialisations."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

from ssmlens.errors import UsageError

T = TypeVar("T")
Thing = TypeVar("Thing")


class Registry(Generic[T]):
    """Names to things; the files of one package register themselves the first time anything is asked for.

    Args:
        kind: What the things are, for messages ("score").
        package: The package whose modules register things when imported: a new thing is one new file there.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self._package = package
        self._things: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Thing], Thing]:
        """Decorator (or `register(name)(thing)`): enter `thing` under `name`, which must be new."""

        def enter(thing: Thing) -> Thing:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = cast(T, thing)
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        """The thing called `name`. Raises UsageError with the nearest names when there is none."""
        things = self._all()
        if name not in things:
            near = difflib.get_close_matches(name, things, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(things)}"
            raise UsageError(f"unknown {self.kind} {name!r}; {hint}")
        return things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, T]:
        if not self._loaded:
            self._loaded = True
            try:
                package = importlib.import_module(self._package)
                for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
                    importlib.import_module(f"{self._package}.{module}")
            except BaseException:
                self._loaded = False  # the next who asks is told the same
                raise
        return self._things
