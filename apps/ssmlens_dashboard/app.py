"""Build the app: the frame, the pages in `pages/`, the routes of pictures and data, and the guard in front."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from dash import Dash
from flask import Flask, request

from ssmlens.plot.theme import DARK, LIGHT
from ssmlens_dashboard.guard import Access, protect
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.pages import pages
from ssmlens_dashboard.routes import ROUTES, add_routes
from ssmlens_dashboard.shell import connect, frame
from ssmlens_dashboard.views.ahead import Ahead

_STYLE = f"""<style>
:root {{ {LIGHT.css_variables()} }}
:root[data-mantine-color-scheme="dark"] {{ {DARK.css_variables()} }}
</style>"""
# Inline: browsers request an icon file again at every change of the address.
_ICON = quote(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    f'<path d="M0 0 16 16H0z" fill="{LIGHT.accent}" opacity=".35"/>'
    '<path d="M0 6 10 16" stroke="#dd4c0c" stroke-width="2.5"/></svg>'
)
_UNUSED = "/dash_table/"  # scripts of Dash's own tables
_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title><link rel="icon" href="data:image/svg+xml,ICON">{%css%}STYLE</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>""".replace("STYLE", _STYLE).replace("ICON", _ICON)


class _Dash(Dash):
    """Dash without the scripts that no page uses."""

    def interpolate_index(self, **parts: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Build the first HTML."""
        scripts = [line for line in parts["scripts"].splitlines() if _UNUSED not in line]
        return super().interpolate_index(**parts | {"scripts": "\n".join(scripts)})


def make_app(paths: Sequence[Path], access: Access, follow_links: bool = False) -> Dash:
    """Build the dashboard of captures and runs: a Dash app with a WSGI application as its `server`.

    Args:
        paths: Captures (files or folders), run folders, or folders that contain them.
        access: Where requests may come from, and the token they need.
        follow_links: Whether to follow links below the paths, which may lead out of them.

    Raises:
        UsageError: One of the paths does not exist.
    """
    library = Library(paths, follow_links)
    page_list = pages()
    with _without_dash_settings():
        app = _Dash(
            __name__,
            title="ssmlens",
            update_title=None,  # pyright: ignore[reportArgumentType]
            index_string=_INDEX,
            serve_locally=True,
            suppress_callback_exceptions=True,
            enable_mcp=False,
            add_log_handler=False,
        )
        app.server.debug = False
        app.layout = frame(page_list)
        connect(app, page_list, library)
        # Dash reads scripts, callbacks and settings at its first request: trigger that here, free of the environment.
        with app.server.test_request_context("/"):
            app.server.preprocess_request()
        add_routes(app.server, page_list, library)
        _prepare_early(app.server, page_list, library)
        protect(app, access, tuple(page.name for page in page_list), ROUTES)
    return app


def _prepare_early(server: Flask, pages: Sequence[Page], library: Library) -> None:
    """Open the capture of a requested page and prepare its figures while the browser still loads scripts."""
    by_name, ahead = {page.name: page for page in pages}, Ahead(pause=0.0)

    def prepare(page: Page, search: str) -> None:
        ahead.make(page.ahead(page.scene(page.name, search, library)))

    @server.before_request
    def prepare_requested_page() -> None:
        page = by_name.get(request.path.strip("/"))
        if page is not None and page.needs_capture:
            ahead.make([partial(prepare, page, request.query_string.decode("latin-1"))])


@contextmanager
def _without_dash_settings() -> Iterator[None]:
    """Hide the environment settings of Dash and Flask, debug mode among them, within the block."""
    environment = dict(os.environ)
    for name in environment:
        if name.upper().startswith(("DASH_", "FLASK_")):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(environment)
