"""What the package leans on without a promise has an upper bound, and is what the code takes it for."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
BOUND = ("dash", "dash-mantine-components", "dash-ag-grid", "plotly", "transformers", "tyro")
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIRED = [*PROJECT["project"]["dependencies"], *itertools.chain(*EXTRAS.values())]
SOURCES = [
    p for room in ("ssmlens", "apps") for p in Path(__file__).parents[1].glob(f"{room}/**/*.py")
]


@pytest.mark.parametrize("name", BOUND)
def test_what_is_used_beyond_its_promises_is_bounded(name):
    (line,) = [it for it in REQUIRED if re.match(rf"{name}[><=]", it)]
    assert "<" in line


def test_no_private_module_is_imported():
    private = re.compile(
        r"^\s*(from|import) (dash|plotly|tyro|transformers|h5py)\S*\._", re.MULTILINE
    )
    assert len(SOURCES) > 100
    assert [str(path) for path in SOURCES if private.search(path.read_text("utf-8"))] == []


def test_dash_is_final_before_anybody_asks(tmp_path, monkeypatch):
    """Its settings are read while none counts: what the environment says later changes nothing."""
    from ssmlens_dashboard.app import make_app
    from ssmlens_dashboard.guard import Access

    app = make_app([tmp_path], Access())
    server = app.server
    assert app._got_first_request["setup_server"]
    monkeypatch.setenv("DASH_DEBUG", "1")
    answer = server.test_client().get("/layers", headers={"Host": "127.0.0.1:8050"})
    assert answer.status_code == 200
    assert b"/dash_table/" not in answer.data
    assert not server.debug
