"""`make release-notes VERSION=…` cuts a version's section out of CHANGELOG.md."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "release_notes.py"
release_notes = runpy.run_path(str(SCRIPT))["release_notes"]
CHANGELOG = """# Changelog

## 1.0.0 (unreleased)

## 0.10.0 (2030-01-02)

### New

- One. See ## 0.1.0 in a line.

## 0.1.0

- First.
"""


@pytest.mark.parametrize(
    ("version", "notes"),
    [("0.10.0", "### New\n\n- One. See ## 0.1.0 in a line.\n"), ("0.1.0", "- First.\n")],
)
def test_a_section_ends_where_the_next_begins(version, notes):
    assert release_notes(CHANGELOG, version) == notes


@pytest.mark.parametrize(
    ("changelog", "version", "said"),
    [
        (CHANGELOG, "0.1", "no version '0.1'; there is 1.0.0, 0.10.0, 0.1.0"),
        (CHANGELOG, ".*", "no version '.*'; there is 1.0.0, 0.10.0, 0.1.0"),
        (CHANGELOG, "1.0.0", "nothing is written under 1.0.0"),
        ("", "1.0.0", "no version '1.0.0'; there is none"),
    ],
)
def test_a_version_without_notes_is_refused(changelog, version, said):
    with pytest.raises(LookupError) as caught:
        release_notes(changelog, version)
    assert caught.value.args == (said,)


def make(*words):
    command = ["make", "--silent", "-C", ROOT, "release-notes", f"PYTHON={sys.executable}", *words]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=plain)


def test_make_prints_the_notes_of_a_version_and_nothing_else():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version = text.partition("\n## ")[2].split()[0]
    done = make(f"VERSION={version}")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 100
    assert done.stdout.strip() in text
    assert not done.stdout.startswith("## ")


def test_make_says_what_is_missing():
    assert "say which version" in make().stderr
    refused = make("VERSION=99.0")
    assert refused.returncode != 0
    assert "CHANGELOG.md: no version '99.0'" in refused.stderr
