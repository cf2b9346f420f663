import runpy
from pathlib import Path

import pytest
from ssmlens_dashboard.address import parse
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import Access
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.scene import resolve

HOST = {"Host": "127.0.0.1:8050"}


@pytest.fixture(scope="session")
def write_capture():
    """write_capture(path, layers, tokens, ...): a synthetic capture (synthetic.py)."""
    return runpy.run_path(str(Path(__file__).with_name("synthetic.py")))["write_capture"]


@pytest.fixture(scope="session")
def copying(copies):
    """The file of a model that copies strings of 17 letters with its layer 3."""
    return copies("copy-mamba1-mimetic", 17)


@pytest.fixture
def scene_at():
    """scene_at(path, search): what a page is given at that address of a library of one capture."""

    def at(path, search="", page="maps"):
        return resolve(*_parsed(page, search), notes=())

    def _parsed(page, search):
        address, notes = parse(page, search, (page,))
        assert notes == ()
        return address, at.library

    def opened(path, search="", page="maps"):
        at.library = Library([path])
        return at(path, search, page)

    return opened


@pytest.fixture(scope="session")
def client_of():
    """client_of(path): a client of the dashboard over that path, that asks as a browser on this computer does."""

    def client(path, access=None):
        made = make_app([path], access or Access()).server.test_client()
        made.environ_base["HTTP_HOST"] = HOST["Host"]
        return made

    return client
