"""Count a checkout's Python: size, public names, flags in messages, long functions, checks of kinds.

`python -m analyses.house_counts [CHECKOUT ...]` prints a column per checkout; the default is this checkout.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssmlens.text_table import text_table

ROOT = Path(__file__).parents[1]
LONG = 60  # lines of a function, with its docstring
ROOMS = ("scan", "adapters", "recorder", "store", "scores")
FLAG = re.compile(r"(^|[\s(`'\"])--[a-z]")
CHECKS = {
    "isinstance(": re.compile(r"\bisinstance\("),
    "is None, is not None": re.compile(r"\bis (not )?None\b"),
    "kinds (== ATTENTION, .kind ==, A is None, …)": re.compile(
        r"[!=]= ATTENTION\b|\.kind [!=]=|scalar_decay|log_decay is\b|\bA is (not )?None"
    ),
}


def sources(checkout: Path, *rooms: str) -> list[Path]:
    """List the Python files of some folders."""
    return sorted(path for room in rooms for path in (checkout / room).rglob("*.py"))


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def public_names(checkout: Path) -> int:
    """Count the names in `__all__` of the package and of `plot`."""
    count = 0
    for path in (checkout / "ssmlens" / "__init__.py", checkout / "ssmlens" / "plot/__init__.py"):
        for node in tree(path).body if path.exists() else []:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                count += len(ast.literal_eval(node.value))
    return count


def flags_in_messages(checkout: Path) -> Iterator[str]:
    """Yield strings of the library, docstrings excluded, that mention command-line options."""
    for path in sources(checkout, "ssmlens"):
        if "cli" in path.parts:
            continue
        nodes = list(ast.walk(tree(path)))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        strings = [
            node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings
        ]
        for node in strings:
            if isinstance(node.value, str) and FLAG.search(node.value):
                yield f"{path.relative_to(checkout)}:{node.lineno}"


def long_functions(checkout: Path) -> Iterator[str]:
    for path in sources(checkout, "ssmlens", "apps"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONG:
                    yield f"{path.relative_to(checkout)}:{node.lineno} {node.name} {length}"


def matches(pattern: re.Pattern[str], paths: Iterable[Path]) -> int:
    return sum(len(pattern.findall(path.read_text("utf-8"))) for path in paths)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def counts(checkout: Path) -> dict[str, int]:
    """Return the counts by their names in the table."""
    library, apps = sources(checkout, "ssmlens"), sources(checkout, "apps")
    lower = sources(checkout, *(f"ssmlens/{room}" for room in ROOMS))
    upper = [*apps, *sources(checkout, "ssmlens/plot", "ssmlens/plots")]
    table = {
        "files in ssmlens/": len(library),
        "lines in ssmlens/": lines(library),
        "files in apps/": len(apps),
        "lines in apps/": lines(apps),
        "public names": public_names(checkout),
        "flags in messages outside cli/": len(list(flags_in_messages(checkout))),
        f"functions over {LONG} lines": len(list(long_functions(checkout))),
    }
    for name, pattern in CHECKS.items():
        table[f"{name} in {', '.join(ROOMS)}"] = matches(pattern, lower)
        table[f"{name} in apps, plot"] = matches(pattern, upper)
    return table


def main(checkouts: list[Path]) -> None:
    columns = [counts(checkout) for checkout in checkouts]
    header = ["", *(checkout.resolve().name for checkout in checkouts)]
    rows = [[name, *(f"{column[name]:,}" for column in columns)] for name in columns[0]]
    print(text_table([header, *rows], form="markdown"))
    for checkout in checkouts:
        for title, places in (("flags", flags_in_messages), ("long functions", long_functions)):
            print(f"\n{checkout.resolve().name}, {title}: {'; '.join(places(checkout)) or 'none'}")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or [ROOT])
