"""docs/families.md shows the package that tests/test_registry.py installs, file by file."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "families.md").read_text(encoding="utf-8")
PACKAGE = TESTS / "third_party" / "leaky"


def test_the_page_shows_the_files_as_they_are():
    shown = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml")]
    there = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in files}
    assert there.keys() - shown.keys() == {"ssmlens_leaky/__init__.py"}
    assert shown == {name: there[name] for name in shown}


def test_every_group_that_the_page_names_is_a_registrys():
    import ssmlens.adapters.adapter as a
    import ssmlens.edits.edit as e
    import ssmlens.effect.measure as m
    import ssmlens.effect.probe as p
    import ssmlens.inits.init as i
    import ssmlens.scan.operator as o
    import ssmlens.scores.score as s
    import ssmlens.tasks.task as t

    registries = (
        a.adapters,
        s.SCORES,
        t.tasks,
        i.inits,
        o.operators,
        e.edits,
        m.MEASURES,
        p.PROBES,
    )
    groups = re.findall(
        r"`(ssmlens\.[\w.]+)`", PAGE.partition("## The door")[2].partition("An entry")[0]
    )
    assert sorted(groups) == sorted(registry._package for registry in registries)
