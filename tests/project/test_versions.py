"""One version, one licence, one name in every file that says them; a citation that readers of CFF 1.2.0 take."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import ssmlens

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
# The keys of the schema of CFF 1.2.0, those that are required first.
REQUIRED = {"authors", "cff-version", "message", "title"}
OPTIONAL = {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "preferred-citation", "references", "repository"),
    *("repository-artifact", "repository-code", "type", "url", "version"),
}
WORK = {"authors", "title", "type"}  # required of a reference


def test_the_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.findall(r"(?m)^## (\S+)", changelog)[0]
    assert {ssmlens.__version__, CITATION["version"], newest} == {PROJECT["version"]}


def test_the_citation_says_what_pyproject_says():
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["keywords"] == PROJECT["keywords"]
    assert PROJECT["name"] in CITATION["title"]


def test_the_citation_has_the_keys_of_its_format():
    assert CITATION.keys() >= REQUIRED
    assert CITATION.keys() <= REQUIRED | OPTIONAL
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] in ("software", "dataset")
    texts = ("message", "title", "abstract", "version", "license")
    assert all(isinstance(CITATION[name], str) and CITATION[name].strip() for name in texts)
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"]) > 0


@pytest.mark.parametrize("work", [CITATION, *CITATION["references"]], ids=lambda it: it["title"])
def test_a_work_has_a_title_and_authors_who_are_persons_or_entities(work):
    assert work.keys() >= WORK
    assert work["authors"]
    for author in work["authors"]:
        assert author.keys() in ({"name"}, {"family-names", "given-names"})
        assert all(isinstance(value, str) and value for value in author.values())
    for identifier in work.get("identifiers", ()):
        assert identifier["type"] in ("doi", "url", "swh", "other")
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", identifier["value"])


def test_no_page_is_named_that_nobody_has_seen():
    """The project has no address yet; until it has one, none is guessed."""
    assert "urls" not in PROJECT
    assert not CITATION.keys() & {"repository", "repository-code", "url", "repository-artifact"}
