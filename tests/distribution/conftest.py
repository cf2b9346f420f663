"""What is published, built once, and bare environments that it is installed into as a user would: no constraints."""

import dataclasses
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The two files of `make dist`; the wheel is built from the sdist."""

    sdist: Path
    wheel: Path


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that knows nothing of this checkout."""

    folder: Path

    def run(self, *words, here, code=0):
        """A command of the environment in the folder `here`; fails unless it ends with `code`."""
        command = [self.folder / "bin" / words[0], *map(str, words[1:])]
        done = subprocess.run(
            command, cwd=here, env=bare(), capture_output=True, text=True, check=False, timeout=1800
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *words, here):
        """A command of the environment that goes on; its stdout is read line by line."""
        command = [self.folder / "bin" / words[0], *map(str, words[1:])]
        return subprocess.Popen(command, cwd=here, env=bare(), stdout=subprocess.PIPE, text=True)

    def packages(self):
        """Names of what is installed."""
        lines = self.run("python", "-m", "pip", "freeze", "--all", here=self.folder).stdout
        return {line.split(" @ ")[0].split("==")[0].replace("-", "_") for line in lines.split("\n")}


def bare():
    """The environment variables, without those through which this checkout or its pins would come in."""
    left_out = {"PYTHONPATH", "PYTHONHOME", "PIP_CONSTRAINT", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


@pytest.fixture(scope="session")
def distribution(tmp_path_factory):
    """What `make dist` builds."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", folder, ROOT]
    done = subprocess.run(command, env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Distribution(sdist, wheel)


@pytest.fixture(scope="module")
def install(distribution, tmp_path_factory):
    """install("all"): a fresh environment with the wheel and that extra; "" is the wheel alone.

    What no further requirement names comes at its newest version. With CUDA's torch an environment has six gigabytes,
    so it is removed after the module.
    """
    folders = []

    def make(extra, *further):
        folders.append(tmp_path_factory.mktemp("environment"))
        venv.create(folders[-1], with_pip=True)
        environment = Environment(folders[-1])
        wanted = f"ssmlens[{extra}]" if extra else "ssmlens"
        requirement = f"{wanted} @ {distribution.wheel.as_uri()}"
        pip = ("python", "-m", "pip", "install", "-q", "--no-compile")
        environment.run(*pip, requirement, *further, here=folders[-1])
        return environment

    yield make
    for folder in folders:
        shutil.rmtree(folder)
