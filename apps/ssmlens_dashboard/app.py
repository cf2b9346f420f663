"""Build the app: the frame, the pages found in `pages/`, routes of pictures and data, the guard before all."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dash import Dash

from ssmlens.plots import DARK, LIGHT
from ssmlens_dashboard.guard import Access, protect
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import pages
from ssmlens_dashboard.routes import ROUTES, add_routes
from ssmlens_dashboard.shell import connect, frame

_STYLE = f"""<style>
:root {{ {LIGHT.css_variables()} }}
:root[data-mantine-color-scheme="dark"] {{ {DARK.css_variables()} }}
</style>"""
_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}STYLE</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>""".replace("STYLE", _STYLE)


def make_app(paths: Sequence[Path], access: Access) -> Dash:
    """The dashboard over captures and runs, as a Dash app whose `server` is a WSGI application.

    Args:
        paths: Captures (files or folders), run folders, or folders that hold them.
        access: From where it may be asked, and with what token.

    Raises:
        UsageError: One of the paths does not exist.
    """
    library = Library(paths)
    shown = pages()
    with _without_dash_settings():
        app = Dash(
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
        add_routes(app.server, shown, library)
        protect(app, access, tuple(page.name for page in shown), ROUTES)
        app._setup_server()  # scripts and callbacks are final, and Dash reads no setting later
    return app


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
