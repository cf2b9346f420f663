"""A page: a layout and its views, each a plain function of the scene.

A page is one file in `pages/` with `PAGE = Page(...)`; the app finds it there. Its functions take a `Scene` and return
components and figures, so they are tested without a browser or a server.

    PAGE = Page(name="signals", title="Signals", order=3, layout=layout)

    @PAGE.view(Output("signals-steps", "figure"))
    def steps(scene: Scene) -> go.Figure: ...

A view runs when its page is built and at every change of the address. It returns all that it draws; only the parts that
are new to the browser are sent (`changes`). A control (`control_id`), a link
(`scene.address.replace(layer=3).href`) or JavaScript (`ssmlens.go({layer: 3})`) changes the address.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import xarray as xr
from dash import Dash, Input, Output, State, dcc, no_update, set_props
from dash.dependencies import Wildcard
from dash.development.base_component import Component

from ssmlens.errors import SsmlensError
from ssmlens_dashboard.address import parse
from ssmlens_dashboard.changes import changes
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.scene import Scene, resolve
from ssmlens_dashboard.views.ahead import Ahead, Make

URL = "url"
CONTENT = "page"

Draw = Callable[..., Any]
_AHEAD = Ahead(pause=0.15)


@dataclasses.dataclass(frozen=True)
class View:
    """A part of a page that is redrawn when the address changes."""

    outputs: tuple[Output, ...]
    also: tuple[Input, ...]
    draw: Draw


@dataclasses.dataclass(frozen=True)
class Page:
    """One page of the dashboard.

    Attributes:
        name: Its path in the URL.
        title: Its name in the navigation.
        order: Its place in the navigation.
        layout: Builds its components; the views fill them.
        rebuilt_by: Address fields that rebuild the layout when they change.
        needs_capture: Whether the page needs a capture.
        data: Computes the page's numbers, for download as CSV and netCDF.
        ahead: Lists calls that compute and cache what the views may need next.
        views: Filled by `view`.
        scripts: Filled by `clientside`.
    """

    name: str
    title: str
    order: int
    layout: Callable[[Scene], Component]
    rebuilt_by: tuple[str, ...] = ("capture",)
    needs_capture: bool = True
    data: Callable[[Scene], xr.Dataset] | None = None
    ahead: Callable[[Scene], Sequence[Make]] = lambda _: ()
    views: list[View] = dataclasses.field(default_factory=list)
    scripts: list[tuple[str, tuple[Any, ...]]] = dataclasses.field(default_factory=list)

    def view(self, *outputs: Output, also: Sequence[Input] = ()) -> Callable[[Draw], Draw]:
        """Decorate a function: `draw(scene, *values of also)` returns the values of `outputs`.

        Args:
            outputs: The outputs it fills; several are returned as a tuple.
            also: Other inputs that trigger it, such as an interval.
        """

        def enter(draw: Draw) -> Draw:
            self.views.append(View(outputs, tuple(also), draw))
            return draw

        return enter

    def clientside(self, function: str, *dependencies: Output | Input) -> None:
        """Add a callback in the browser: `function` of the namespace `ssmlens` in assets/."""
        self.scripts.append((function, dependencies))

    def scene(self, pathname: str | None, search: str | None, library: Library) -> Scene:
        """Return the scene of a URL, with its capture open if needed. Raises SsmlensError if it cannot be shown."""
        address, notes = parse(pathname, search, (self.name,))
        return (
            resolve(address, library, notes)
            if self.needs_capture
            else Scene(address, library, notes)
        )


def page_url_id(page: str | Wildcard) -> dict[str, str | Wildcard]:
    """The id of a page's own copy of the URL. It lives as long as the page; the views read it."""
    return {"type": "here", "page": page}


def sent_id(page: str, view: int) -> dict[str, str | int]:
    """The id of the store of the digests that a view has sent to the browser."""
    return {"type": "digests", "page": page, "view": view}


def stores(page: Page, url: str) -> list[Component]:
    """Make the stores of a page: its URL, and the digests that each view has sent."""
    digests = (dcc.Store(id=sent_id(page.name, number)) for number in range(len(page.views)))
    return [dcc.Store(id=page_url_id(page.name), data=url), *digests]


def control_id(field: str | Wildcard) -> dict[str, str | Wildcard]:
    """The id of a control whose `value` is a field of the address: changing one changes the other."""
    return {"type": "address", "field": field}


def bind(
    app: Dash, page: Page, library: Library, trouble: Callable[[SsmlensError], Component]
) -> None:
    """Register the callbacks of a page's views.

    Args:
        app: The app.
        page: The page.
        library: The captures, runs and attributions.
        trouble: Builds the message that replaces a page whose capture cannot be shown.
    """

    def bound(view: View) -> Draw:
        def draw(url: str | None, before: object, *also: Any) -> list[Any]:
            pathname, _, search = (url or "").partition("?")
            try:
                scene = page.scene(pathname, search, library)
                drawn = view.draw(scene, *also)
                _AHEAD.make(page.ahead(scene))
            except SsmlensError as error:
                set_props(CONTENT, {"children": trouble(error)})
                return [no_update] * (len(view.outputs) + 1)
            values = [drawn] if len(view.outputs) == 1 else drawn
            sent, now = changes(values, before)
            return [*sent, now]

        return draw

    for number, view in enumerate(page.views):
        digests = sent_id(page.name, number)
        app.callback(
            [*view.outputs, Output(digests, "data")],
            [Input(page_url_id(page.name), "data"), State(digests, "data"), *view.also],
        )(bound(view))
