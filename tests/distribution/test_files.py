"""The sdist is the checkout, so that its tests can be run; the wheel, built from it, is the packages and their data."""

import email
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MIB = 1 << 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(distribution):
    with zipfile.ZipFile(distribution.wheel) as file:
        yield file


def files_below(folder):
    """Names of the files in a folder of the checkout, relative to it."""
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


def test_the_wheel_holds_both_packages_and_the_data(wheel):
    there = {name for name in wheel.namelist() if ".dist-info/" not in name}
    places = {"ssmlens": "ssmlens", "ssmlens_dashboard": "apps/ssmlens_dashboard"}
    places["ssmlens/_data"] = "data"
    wanted = {f"{to}/{name}" for to, at in places.items() for name in files_below(ROOT / at)}
    assert there == wanted
    assert "ssmlens/_data/models/copy-mamba1-mimetic/model.safetensors" in there
    assert any(name.endswith(".js") for name in there)


def test_the_wheel_says_what_pyproject_says(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(wheel.read(name))
    assert (said["Name"], said["Version"]) == ("ssmlens", PROJECT["version"])
    assert said["License-Expression"] == PROJECT["license"]
    assert set(said.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert said.get_all("Project-URL") is None, "a page that nobody has seen"
    assert said.get_payload().startswith("# ssmlens")
    assert name.replace("METADATA", "licenses/LICENSE") in wheel.namelist()


def test_the_wheel_fits_an_index(distribution):
    """PyPI takes 100 MB a file; the shipped models are nearly all of it."""
    assert 15 * MIB < distribution.wheel.stat().st_size < 20 * MIB


def test_the_sdist_is_the_checkout(distribution):
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("no git checkout")
    with tarfile.open(distribution.sdist) as file:
        there = {str(PurePosixPath(*PurePosixPath(n).parts[1:])) for n in file.getnames()}
    missing = {name for name in tracked.stdout.split("\0") if name} - there
    assert {name for name in missing if (ROOT / name).exists()} == set()
    assert {"tests/conftest.py", "Makefile", "constraints.txt", "PKG-INFO"} <= there
    assert not any(name.startswith((".git/", ".venv")) for name in there)
    assert distribution.sdist.stat().st_size < 40 * MIB
