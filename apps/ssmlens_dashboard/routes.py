"""What the browser fetches beside Dash: thumbnails, values under the pointer, a page's numbers. GET only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from flask import Flask, Response, request
from werkzeug.exceptions import BadRequest, NotFound, ServiceUnavailable

from ssmlens.errors import OpenFilesError, SsmlensError
from ssmlens.plot.matrix import window
from ssmlens.plot.number_files import as_csv, as_netcdf
from ssmlens.plot.selection import Region
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.views import thumbnails

_FOREVER = "private, max-age=31536000, immutable"
HOVERED = 64
"""Tokens a side of what the pointer asks for at once, unless it is a single row."""

ROUTES = ("/thumbnail.png", "/values", "/data/<page>.<form>")
_MEDIA = {"csv": "text/csv; charset=utf-8", "nc": "application/x-netcdf"}


def add_routes(server: Flask, pages: Sequence[Page], library: Library) -> None:
    """Add them to the server."""
    by_name = {page.name: page for page in pages}

    def scene_of(name: str) -> Scene:
        with _told():
            return by_name[name].scene(name, request.query_string.decode("latin-1"), library)

    @server.get("/thumbnail.png")
    def thumbnail() -> Response:
        """Map or mask of a layer, small. The digest in the URL makes it another URL when the capture changes."""
        scene = scene_of("maps")
        with _told():
            picture = thumbnails.thumbnail(scene.selection)
        headers = {"Cache-Control": _FOREVER} if "of" in request.args else {}
        return Response(picture, mimetype="image/png", headers=headers)

    @server.get("/values")
    def values() -> Response:
        """Full-resolution values of the rectangle `zoom`, float32, row after row: a small one, or a single row."""
        scene = scene_of("maps")
        zoom = scene.address.zoom
        if zoom is None or not _small(zoom):
            raise BadRequest(f"name a zoom of at most {HOVERED} tokens a side, or one query")
        with _told():
            block = window(scene.selection, *zoom)
        told = {"X-Shape": f"{block.shape[0]},{block.shape[1]}"}
        body = np.ascontiguousarray(block, dtype="<f4").tobytes()
        return Response(body, mimetype="application/octet-stream", headers=told)

    @server.get("/data/<page>.<form>")
    def data(page: str, form: str) -> Response:
        """The numbers of a page as CSV or netCDF."""
        shown = by_name.get(page)
        if shown is None or shown.data is None or form not in _MEDIA:
            raise NotFound("there is no such data")
        with _told():
            body = (
                as_csv(shown.data(scene_of(page)))
                if form == "csv"
                else as_netcdf(shown.data(scene_of(page)))
            )
        told = {"Content-Disposition": f'attachment; filename="ssmlens-{page}.{form}"'}
        return Response(body, content_type=_MEDIA[form], headers=told)


def _small(zoom: Region) -> bool:
    queries, keys = (end - first for first, end in (zoom.queries, zoom.keys))
    return queries == 1 or max(queries, keys) <= HOVERED


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be read is an answer, not a failure."""
    try:
        yield
    except OpenFilesError as error:
        raise ServiceUnavailable(str(error)) from error
    except SsmlensError as error:
        raise NotFound(str(error)) from error
