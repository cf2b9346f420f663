"""Print a version's section of CHANGELOG.md, without its heading: `make release-notes VERSION=0.1.0`."""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def release_notes(changelog: str, version: str) -> str:
    """The section below `## VERSION` or `## VERSION (date)`, up to the next version.

    Raises:
        LookupError: There is no such section, or it is empty; the message names the versions that there are.
    """
    _, *parts = re.split(r"(?m)^## +(\S+).*$\n?", changelog)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if version not in sections:
        raise LookupError(f"no version {version!r}; there is {', '.join(sections) or 'none'}")
    if not (notes := sections[version].strip()):
        raise LookupError(f"nothing is written under {version}")
    return notes + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("say which version: make release-notes VERSION=0.1.0")
    try:
        print(release_notes(CHANGELOG.read_text("utf-8"), sys.argv[1]), end="")
    except LookupError as error:
        sys.exit(f"{CHANGELOG.name}: {error.args[0]}")
