"""Build the app: the frame, the pages found in `pages/`, routes of pictures and data, the guard before all."""

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
# In the page itself: browsers ask for an icon that is a file anew at every change of the address.
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
    """Dash without scripts that no page uses."""

    def interpolate_index(self, **parts: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The first HTML."""
        scripts = [line for line in parts["scripts"].splitlines() if _UNUSED not in line]
        return super().interpolate_index(**parts | {"scripts": "\n".join(scripts)})


def make_app(paths: Sequence[Path], access: Access, follow_links: bool = False) -> Dash:
    """The dashboard over captures and runs, as a Dash app whose `server` is a WSGI application.

    Args:
        paths: Captures (files or folders), run folders, or folders that hold them.
        access: From where it may be asked, and with what token.
        follow_links: Whether links below the paths are followed, which may lead out of them.

    Raises:
        UsageError: One of the paths does not exist.
    """
    library = Library(paths, follow_links)
    shown = pages()
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
        app.layout = frame(shown)
        connect(app, shown, library)
        # Dash takes up scripts, callbacks and settings before its first request: here, where no setting counts.
        with app.server.test_request_context("/"):
            app.server.preprocess_request()
        add_routes(app.server, shown, library)
        _begin_at_once(app.server, shown, library)
        protect(app, access, tuple(page.name for page in shown), ROUTES)
    return app


def _begin_at_once(server: Flask, pages: Sequence[Page], library: Library) -> None:
    """Open the capture of an address, and make what its page needs, while the browser still loads its scripts."""
    by_name, ahead = {page.name: page for page in pages}, Ahead(pause=0.0)

    def begin(page: Page, search: str) -> None:
        ahead.make(page.ahead(page.scene(page.name, search, library)))

    @server.before_request
    def page_asked_for() -> None:
        page = by_name.get(request.path.strip("/"))
        if page is not None and page.needs_capture:
            ahead.make([partial(begin, page, request.query_string.decode("latin-1"))])


@contextmanager
def _without_dash_settings() -> Iterator[None]:
    """Dash and Flask read settings from the environment, debug mode among them; here none of it counts."""
    outside = dict(os.environ)
    for name in outside:
        if name.upper().startswith(("DASH_", "FLASK_")):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(outside)
