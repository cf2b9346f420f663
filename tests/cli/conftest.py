"""Every command is run in an empty folder of its own."""

import pytest


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
