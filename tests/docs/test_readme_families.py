"""README.md's table of families says what `python -m analyses.families.run` printed."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRINTED = {
    name.rpartition(".")[2]: (version, float(error))
    for name, version, error in re.findall(
        r"^\| `(transformers\.[\w.]+)` \| (\d+\.\d+)\.\d+ \| ([\d.e+-]+) \|",
        (ROOT / "analyses/families/README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}
ROWS = [
    (re.findall(r"`(\w+)`", classes), version, float(error))
    for classes, version, error in re.findall(
        r"^\| transformers ([^|]+) \| ([\d.]+) \| ([\d.e-]+) \|",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
]


def test_every_family_of_transformers_has_its_row():
    named = [name for classes, _, _ in ROWS for name in classes]
    assert sorted(named) == sorted(PRINTED)


def test_closures_are_those_that_were_printed():
    for classes, version, error in ROWS:
        assert {version} == {PRINTED[name][0] for name in classes}
        assert error == max(PRINTED[name][1] for name in classes), classes
