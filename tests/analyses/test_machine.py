"""What results say about the machine that computed them."""

import pytest
import torch

from analyses.benchmarks.results import machine, versions


def test_versions_are_those_of_the_packages_that_are_installed():
    found = versions("pytest", "no-such-package")
    assert found["torch"] == machine()["torch"] == torch.__version__
    assert found["pytest"] == pytest.__version__
    assert "no-such-package" not in found
    assert "pytest" not in versions()
