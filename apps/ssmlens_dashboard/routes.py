"""Routes besides Dash's own: thumbnails, values under the pointer, a page's numbers. GET only."""

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
"""Most tokens per side of a rectangle in `/values`, unless it is a single row."""

ROUTES = ("/thumbnail.png", "/values", "/data/<page>.<form>")
_MEDIA = {"csv": "text/csv; charset=utf-8", "nc": "application/x-netcdf"}


def add_routes(server: Flask, pages: Sequence[Page], library: Library) -> None:
    """Add the routes to the server."""
    by_name = {page.name: page for page in pages}

    def scene_of(name: str) -> Scene:
        with _http_errors():
            return by_name[name].scene(name, request.query_string.decode("latin-1"), library)

    @server.get("/thumbnail.png")
    def thumbnail() -> Response:
        """Send a small map or mask of a layer. The digest in the URL changes with the capture."""
        scene = scene_of("maps")
        with _http_errors():
            picture = thumbnails.thumbnail(scene.selection)
        headers = {"Cache-Control": _FOREVER} if "of" in request.args else {}
        return Response(picture, mimetype="image/png", headers=headers)

    @server.get("/values")
    def values() -> Response:
        """Send the values of a small rectangle or a single row (`zoom`) at full resolution: float32, row by row."""
        scene = scene_of("maps")
        zoom = scene.address.zoom
        if zoom is None or not _small(zoom):
            raise BadRequest(f"zoom must span at most {HOVERED} tokens per side, or a single query")
        with _http_errors():
            block = window(scene.selection, *zoom)
        headers = {"X-Shape": f"{block.shape[0]},{block.shape[1]}"}
        body = np.ascontiguousarray(block, dtype="<f4").tobytes()
        return Response(body, mimetype="application/octet-stream", headers=headers)

    @server.get("/data/<page>.<form>")
    def data(page: str, form: str) -> Response:
        """Send the numbers of a page as CSV or netCDF."""
        source = by_name.get(page)
        if source is None or source.data is None or form not in _MEDIA:
            raise NotFound("this data does not exist")
        with _http_errors():
            body = (
                as_csv(source.data(scene_of(page)))
                if form == "csv"
                else as_netcdf(source.data(scene_of(page)))
            )
        headers = {"Content-Disposition": f'attachment; filename="ssmlens-{page}.{form}"'}
        return Response(body, content_type=_MEDIA[form], headers=headers)


def _small(zoom: Region) -> bool:
    queries, keys = (end - first for first, end in (zoom.queries, zoom.keys))
    return queries == 1 or max(queries, keys) <= HOVERED


@contextmanager
def _http_errors() -> Iterator[None]:
    """Turn errors of the library into HTTP errors within the block."""
    try:
        yield
    except OpenFilesError as error:
        raise ServiceUnavailable(str(error)) from error
    except SsmlensError as error:
        raise NotFound(str(error)) from error
