"""`WHEEL[all]` in a bare environment: the demo runs to its end, and its dashboard has what the browser needs.

torch is of this checkout's version, so that a build for CPUs is taken where pip has one at hand: CUDA's has gigabytes.
All else is the newest. `test_wheel_alone` takes the newest torch.
"""

import json
import re
import urllib.request
from importlib.metadata import version

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(install):
    return install("all", f"torch=={version('torch').partition('+')[0]}")


@pytest.fixture(scope="module")
def demo(environment, tmp_path_factory):
    """What `ssmlens demo` says where nobody watches, and the folder it was run in."""
    here = tmp_path_factory.mktemp("here")
    return environment.run("ssmlens", "demo", here=here).stdout, here


def test_what_is_installed_fits_together(environment, tmp_path):
    wanted = {"dash", "plotly", "kaleido", "transformers"}
    assert wanted <= environment.packages()
    assert not environment.packages() & {"ray", "mamba_ssm", "pytest"}
    environment.run("python", "-m", "pip", "check", here=tmp_path)


def test_the_demo_runs_to_its_end(environment, demo):
    said, here = demo
    (first,) = re.findall(r"(?m)^ *1 +(\d+) ", said)
    assert first == "3", "layer 3 copies"
    files = {path.name: path.stat().st_size for path in (here / "demo").iterdir()}
    assert {*files} == {"copy-mamba1-mimetic.h5", "copy-mamba1-default.h5", "report.html"}
    assert files["report.html"] > 10_000
    info = environment.run("ssmlens", "info", "demo/copy-mamba1-mimetic.h5", "--json", here=here)
    assert json.loads(info.stdout)
    environment.run("ssmlens", "verify", "demo/copy-mamba1-mimetic.h5", here=here)


def test_the_dashboard_serves_its_pages_and_their_scripts(environment, demo):
    _, here = demo
    words = ["ssmlens", "dashboard", "demo", "--port", "0", "--no-browser"]
    with environment.start(*words, here=here) as process:
        try:
            address = process.stdout.readline().split()[0]
            page = read(address)
            scripts = re.findall(r'"(/assets/[^"]+\.js[^"]*)"', page)
            assert "/assets/maps.js" in {script.partition("?")[0] for script in scripts}
            assert all(read(address.rstrip("/") + script) for script in scripts)
        finally:
            process.terminate()


def read(address):
    """What a GET answers; an error of the server raises."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode()
