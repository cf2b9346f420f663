"""Find the mutants with cosmic-ray, and draw some at random."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Written `a | b`, mostly in annotations; `==` and `is`, which are the same for None and small numbers.
_SPARED = ("BitOr", "_Eq_Is", "_NotEq_IsNot", "_Is_Eq", "_IsNot_NotEq")


def draw(checkout: Path, rooms: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Draw `count` mutants, from the rooms in turn: a random place in the room, then a random mutant of that place."""
    dice = random.Random(seed)
    queues = [_places_at_random(checkout, room, dice) for room in rooms]
    drawn = []
    while queues and len(drawn) < count:
        queues = [queue for queue in queues if queue]
        drawn += [dice.choice(queue.pop()) for queue in queues]
    return drawn[:count]


def mutated(mutant: dict[str, Any], source: str) -> str | None:
    """The module's source with the mutant. None if the operator does not change it."""
    from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
    from cosmic_ray.plugins import get_operator  # pyright: ignore[reportMissingImports]

    return mutate_code(source, get_operator(f"core/{mutant['operator']}")(), mutant["occurrence"])


def _places_at_random(checkout: Path, room: str, dice: random.Random) -> list[list[dict[str, Any]]]:
    places = defaultdict(list)
    for path in sorted((checkout / "ssmlens" / room).rglob("*.py")):
        for place, mutant in _mutants(path):
            module = str(path.relative_to(checkout))
            places[(module, place)].append({"module": module, **mutant})
    queue = list(places.values())
    dice.shuffle(queue)
    return queue


def _mutants(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    from cosmic_ray.ast import get_ast  # pyright: ignore[reportMissingImports]
    from cosmic_ray.plugins import get_operator, operator_names  # pyright: ignore[reportMissingImports]

    nodes = list(_walk(get_ast(path.read_text(encoding="utf-8"))))
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments() or any(spared in name for spared in _SPARED):
            continue
        operator = kind()
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, place in enumerate(places):
            yield place, {"operator": name.removeprefix("core/"), "occurrence": occurrence}


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for child in getattr(node, "children", ()):
        yield from _walk(child)
