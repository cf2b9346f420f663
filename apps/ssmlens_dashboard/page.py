"""What a page is: a layout and the views in it, each a plain function of the scene.

A page is one file in `pages/` with `PAGE = Page(...)`; it is found by being there. Its functions take a `Scene` and
return components and figures, so they are tested without a browser or a server.

    PAGE = Page(name="signals", title="Signals", order=3, layout=layout)

    @PAGE.view(Output("signals-steps", "figure"))
    def steps(scene: Scene) -> go.Figure: ...

Views run when they come onto the page and at every change of the address; what they answer is sent as far as it is new
to the browser (`changes`), so a view may return all that it draws. What changes the address is a control
(`control_id`), a link (`scene.address.but(layer=3).href`) or JavaScript (`ssmlens.go({layer: 3})`).
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
    """A part of a page that is drawn anew when the address changes."""

    outputs: tuple[Output, ...]
    also: tuple[Input, ...]
    draw: Draw


@dataclasses.dataclass(frozen=True)
class Page:
    """One page of the dashboard.

    Attributes:
        name: Its path in the URL.
        title: Its name in the navigation.
        order: Its place there.
        layout: What it holds; its views fill it.
        rebuilt_by: Fields of the address whose change asks for a new layout rather than new views.
        needs_capture: Whether there must be a capture to look at.
        data: What the page shows, for download as CSV and netCDF.
        ahead: What its views may need next, each thing made and kept by a call.
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
        """Decorator: `draw(scene, *values of also)` gives the values of `outputs`.

        Args:
            outputs: What it fills; several are returned as a tuple.
            also: Other inputs that ask for it, such as an interval.
        """

        def enter(draw: Draw) -> Draw:
            self.views.append(View(outputs, tuple(also), draw))
            return draw

        return enter

    def clientside(self, function: str, *dependencies: Output | Input) -> None:
        """A callback in the browser: `function` of the namespace `ssmlens` in assets/."""
        self.scripts.append((function, dependencies))

    def scene(self, pathname: str | None, search: str | None, library: Library) -> Scene:
        """The scene of a URL, its capture open if the page needs one. Raises SsmlensError where it cannot be shown."""
        address, notes = parse(pathname, search, (self.name,))
        return (
            resolve(address, library, notes)
            if self.needs_capture
            else Scene(address, library, notes)
        )


def here_id(page: str | Wildcard) -> dict[str, str | Wildcard]:
    """The id of a page's own copy of the URL, which is there as long as the page is: its views read this one."""
    return {"type": "here", "page": page}


def told_id(page: str, view: int) -> dict[str, str | int]:
    """The id of the store of what a view has told the browser."""
    return {"type": "told", "page": page, "view": view}


def stores(page: Page, here: str) -> list[Component]:
    """What a page keeps in the browser: where the reader is, and what its views have told."""
    told = (dcc.Store(id=told_id(page.name, number)) for number in range(len(page.views)))
    return [dcc.Store(id=here_id(page.name), data=here), *told]


def control_id(field: str | Wildcard) -> dict[str, str | Wildcard]:
    """The id of a control whose `value` is a field of the address: changing one changes the other."""
    return {"type": "address", "field": field}


def bind(
    app: Dash, page: Page, library: Library, trouble: Callable[[SsmlensError], Component]
) -> None:
    """Make callbacks of a page's views.

    Args:
        app: The app.
        page: The page.
        library: What can be opened.
        trouble: What stands in the page's place where the capture cannot be shown.
    """

    def bound(view: View) -> Draw:
        def draw(here: str | None, told: object, *also: Any) -> list[Any]:
            pathname, _, search = (here or "").partition("?")
            try:
                scene = page.scene(pathname, search, library)
                drawn = view.draw(scene, *also)
                _AHEAD.make(page.ahead(scene))
            except SsmlensError as error:
                set_props(CONTENT, {"children": trouble(error)})
                return [no_update] * (len(view.outputs) + 1)
            values = [drawn] if len(view.outputs) == 1 else drawn
            sent, now = changes(values, told)
            return [*sent, now]

        return draw

    for number, view in enumerate(page.views):
        told = told_id(page.name, number)
        app.callback(
            [*view.outputs, Output(told, "data")],
            [Input(here_id(page.name), "data"), State(told, "data"), *view.also],
        )(bound(view))
