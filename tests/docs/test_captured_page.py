"""docs/captured.md says what `python -m analyses.families.run` printed, and README.md's table is its summary."""

import re

from pages import read, section, table

PRINTED = {
    name.rpartition(".")[2]: (version, float(error))
    for name, version, error in re.findall(
        r"^\| `(transformers\.[\w.]+)` \| (\d+\.\d+)\.\d+ \| ([\d.e+-]+) \|",
        read("analyses/families/README.md"),
        re.MULTILINE,
    )
}
ROWS = [
    (re.findall(r"`(\w+)`", classes), version, float(error))
    for classes, version, error in re.findall(
        r"^\| transformers ([^|]+) \| ([\d.]+) \| ([\d.e-]+) \|",
        read("docs/captured.md"),
        re.MULTILINE,
    )
]
# The summary's rows that name models of transformers: the first words of their mixers' names, and their closure.
SUMMARY = [
    (re.findall(r"`(\w+)`", cells[2]), float(re.match(r"[\d.e-]+", cells[3])[0]))
    for cells in (
        [cell.strip() for cell in line.split("|")]
        for line in table(section(read("README.md"), "What can be captured")).splitlines()[2:]
    )
    if "transformers:" in cells[2]
]


def test_every_family_of_transformers_has_its_row():
    named = [name for classes, _, _ in ROWS for name in classes]
    assert sorted(named) == sorted(PRINTED)


def test_closures_are_those_that_were_printed():
    for classes, version, error in ROWS:
        assert {version} == {PRINTED[name][0] for name in classes}
        assert error == max(PRINTED[name][1] for name in classes), classes


def test_the_summary_has_every_family_once_and_the_largest_closure_of_each_row():
    prefixes = [name for names, _ in SUMMARY for name in names]
    assert len(prefixes) == len(set(prefixes))
    of = {mixer: max((p for p in prefixes if mixer.startswith(p)), key=len) for mixer in PRINTED}
    assert set(of.values()) == set(prefixes)
    for names, closure in SUMMARY:
        assert closure == max(PRINTED[mixer][1] for mixer in PRINTED if of[mixer] in names), names
