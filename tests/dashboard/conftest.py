import runpy
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from ssmlens_dashboard.address import parse
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import Access
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.scene import resolve


class Browser(FlaskClient):
    """A client that names this computer in its Host header, as a browser does, unless a test says otherwise."""

    def open(self, *args, headers=None, **kwargs):
        named = {"Host": "127.0.0.1:8050"} | dict(headers or {})
        return super().open(*args, headers=named, buffered=True, **kwargs)


@pytest.fixture(scope="session")
def write_capture():
    """write_capture(path, layers, tokens, ...): a synthetic capture (synthetic.py)."""
    return runpy.run_path(str(Path(__file__).with_name("synthetic.py")))["write_capture"]


@pytest.fixture(scope="session")
def copying(copies):
    """The file of a model that copies strings of 17 letters with its layer 3."""
    return copies("copy-mamba1-mimetic", 17)


@pytest.fixture(scope="session")
def scene_at():
    """scene_at(path, search, page): what a page is given at that address of a library of one capture."""

    def at(path, search="", page="maps"):
        address, notes = parse(page, search, (page,))
        assert notes == ()
        return resolve(address, Library([path]))

    return at


@pytest.fixture(scope="session")
def client_of():
    """client_of(path): a client of the dashboard over that path, that asks as a browser on this computer does."""

    def client(path, access=None):
        server = make_app([path], access or Access()).server
        server.test_client_class = Browser
        return server.test_client()

    return client
