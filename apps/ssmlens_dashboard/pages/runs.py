"""Runs: training as it goes. Loss and accuracy by step, by length and by learning rate; transplants against scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
import xarray as xr
from dash import Input, Output, dcc, html, no_update
from dash.dependencies import ALL
from dash.development.base_component import Component

from ssmlens.plot.training_curves import readable, training_curves
from ssmlens.plot.transplant_panels import transplant_panels
from ssmlens.store.run_metrics import EVAL, SHARES, TRAIN
from ssmlens.store.runs import Run, tabulate
from ssmlens_dashboard.address import RUN_MEASURES, Address, RunMeasure
from ssmlens_dashboard.controls import choices
from ssmlens_dashboard.elements import figure_card, more
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.tables import height_of, table_card
from ssmlens_dashboard.views import arms, runs
from ssmlens_dashboard.views.arms import Arm
from ssmlens_dashboard.views.runs import Listed
from ssmlens_dashboard.views.runs_table import table

_SOON = 2_000  # milliseconds between looks at runs
_LATER = 10_000  # where there are none yet
_BEST = "best"
_MOST_SCORES = 4  # panels beside each other
_TRANSPLANTS = 520  # pixels
_FIGURES = ("loss", "accuracy", "lengths", "rates", "transplants")
_TRAIN = "ssmlens train --preset copy-in-a-minute --out runs"
_OPEN = "ssmlens dashboard runs"


def layout(_: Scene) -> Component:
    """Controls, curves two by two, every run in a table; or what to do where there is none."""
    return html.Div(
        [
            dcc.Interval(id="runs-tick", interval=_SOON),
            dcc.Store(id="runs-seen"),
            html.Div(
                [
                    html.P(
                        "Training runs: none found in what this dashboard was opened on.",
                        className="what",
                    ),
                    html.P("Two that show what an initialisation does, and where they are seen:"),
                    html.Pre(f"{_TRAIN}\n{_OPEN}"),
                ],
                id="runs-none",
                className="trouble",
                hidden=True,
            ),
            html.Div(
                [
                    html.Div(id="runs-toolbar", className="toolbar"),
                    html.P(id="runs-told", className="muted", role="status"),
                    html.Div(
                        [
                            html.Div(figure_card("runs-loss", "Loss in training", height=330)),
                            html.Div(figure_card("runs-accuracy", "Accuracy", height=330)),
                            html.Div(figure_card("runs-lengths", "Accuracy by length", height=330)),
                            html.Div(
                                figure_card("runs-rates", "Learning rates", height=330),
                                id="runs-rated",
                            ),
                        ],
                        className="halves",
                    ),
                    html.Div(
                        figure_card("runs-transplants", "Transplants", height=_TRANSPLANTS),
                        id="runs-transplanted",
                    ),
                    table_card("runs-table", "Runs"),
                ],
                id="runs-all",
                className="runs",
            ),
        ]
    )


PAGE = Page(
    name="runs",
    title="Runs",
    order=6,
    layout=layout,
    rebuilt_by=(),
    needs_capture=False,
    data=lambda scene: data(scene),
)


@PAGE.view(
    Output("runs-seen", "data"),
    Output("runs-tick", "interval"),
    Output("runs-tick", "disabled"),
    also=(Input("runs-tick", "n_intervals"), Input("runs-seen", "data")),
)
def watch(scene: Scene, _ticks: int | None = None, seen: object = None) -> tuple[Any, Any, Any]:
    """Whether there is something new; how soon to look again, if ever."""
    found = runs.listed(scene.library, scene.address.runs)
    now = runs.fingerprint(found)
    disabled = bool(found) and not runs.live(found)
    return (no_update if seen == now else now), _SOON if found else _LATER, disabled


@PAGE.view(
    *(Output(f"runs-{name}", "figure") for name in _FIGURES),
    Output("runs-accuracy-title", "children"),
    Output("runs-rates-title", "children"),
    Output("runs-rated", "hidden"),
    Output("runs-transplanted", "hidden"),
    Output("runs-table", "columnDefs"),
    Output("runs-table", "rowData"),
    Output("runs-table", "style"),
    Output("runs-told", "children"),
    Output("runs-none", "hidden"),
    Output("runs-all", "hidden"),
    also=(Input("runs-seen", "data"),),
)
def everything(scene: Scene, _seen: object = None) -> tuple[Any, ...]:
    """All that follows from the address and from what the runs have written so far."""
    at = scene.address
    found = runs.listed(scene.library, at.runs)
    if not found and not runs.everywhere(scene.library):
        return (*[no_update] * 13, False, True)
    held = runs.legible(found)
    length, trained = (arms.length_shown(held, asked) for asked in (at.length, None))
    gathered = arms.by_arm(held)
    styles = {arm: number for number, arm in enumerate(gathered)}
    best = {
        arm: there
        for arm, all_of_it in gathered.items()
        if (there := arms.at_rate(all_of_it, at.rate, at.measure, trained))
    }
    drawn = arms.most_telling(best, at.measure, length)
    what = SHARES[at.measure]
    transplants = transplants_figure(scene, best, length)
    columns, rows = table(found, length, runs.captures(scene.library), at)
    return (
        training_curves(
            arms.curves(drawn, styles, "loss", TRAIN, None), "step", "loss", theme=scene.theme
        ),
        training_curves(
            arms.curves(drawn, styles, at.measure, EVAL, length),
            "step",
            what,
            share=True,
            theme=scene.theme,
        ),
        training_curves(
            arms.by_length(drawn, styles, at.measure),
            "length",
            what,
            share=True,
            marked=True,
            theme=scene.theme,
        ),
        training_curves(
            arms.by_rate({arm: gathered[arm] for arm in drawn}, styles, at.measure, length),
            "learning rate",
            what,
            share=True,
            marked=True,
            logarithmic=True,
            theme=scene.theme,
        ),
        transplants or no_update,
        "Accuracy" if length is None else f"Accuracy at length {length}",
        "Learning rates" if length is None else f"Learning rates, at length {length}",
        len(arms.rates(held)) < 2,
        transplants is None,
        columns,
        rows,
        height_of(rows),
        told(found, gathered, drawn, at),
        True,
        False,
    )


@PAGE.view(Output("runs-toolbar", "children"), also=(Input("runs-seen", "data"),))
def offered(scene: Scene, _seen: object = None) -> list[Component]:
    """The controls. Where they are the same as before, what a reader has open stays open."""
    held = runs.legible(runs.listed(scene.library, scene.address.runs))
    return toolbar(scene, held, arms.length_shown(held, scene.address.length))


def transplants_figure(
    scene: Scene, best: Mapping[Arm, Sequence[Run]], length: int | None
) -> go.Figure | None:
    """The figure of `ssmlens transplant --figure`, at the length shown and at twice it; None without transplants.

    The score that is chosen comes first.
    """
    at = scene.address
    held = [run for group in best.values() for run in group]
    names = arms.scores_known(held)
    if not names or length is None:
        return None
    scores = sorted(names, key=lambda name: name != at.by)[:_MOST_SCORES]
    twice = min(arms.lengths(held), key=lambda n: (abs(n - 2 * length), n))
    shown = sorted({length, twice})
    figure = transplant_panels(
        arms.layer_students(best, scores, at.measure, shown),
        arms.references(best, at.measure, shown),
        scores,
        shown,
        SHARES[at.measure],
        theme=scene.theme,
    )
    return figure.update_layout(width=None, height=None, paper_bgcolor=None)


def toolbar(scene: Scene, held: Sequence[Run], length: int | None) -> list[Component]:
    """What can be chosen, as it stands."""
    at, there = scene.address, arms.lengths(held)
    measures: list[RunMeasure] = [
        name for name in RUN_MEASURES if name == at.measure or arms.evaluated(held, name)
    ]
    controls: list[Component] = [
        dmc.SegmentedControl(
            id=_control("measure"),
            data=choices([(name, SHARES[name]) for name in measures]),
            value=at.measure,
            size="xs",
        )
    ]
    if there:
        options = [(str(n), f"length {n}") for n in there]
        controls.append(_select("length", options, str(length), 110))
    rates = arms.rates(held)
    if len(rates) > 1:
        options = [
            (_BEST, "best learning rate"),
            *((str(r), f"learning rate {r:g}") for r in rates),
        ]
        now = _BEST if at.rate not in rates else str(at.rate)
        controls.append(_select("rate", options, now, 180))
    scores = arms.scores_known(held)
    if scores:
        now = at.by if at.by in scores else scores[0]
        options = [(name, readable(name)) for name in scores]
        controls.append(_select("by", options, now, 180))
    return controls + _folders(scene)


def told(
    found: Sequence[Listed],
    gathered: Mapping[Arm, Sequence[Run]],
    drawn: Mapping[Arm, Sequence[Run]],
    at: Address,
) -> str:
    """How many runs there are in which state, and what of them is drawn."""
    states = Counter(it.state for it in found)
    lines = [f"{len(found)} runs: " + ", ".join(f"{n} {state}" for state, n in states.items())]
    if any(it.state == "failed" for it in found):
        lines.append("one that failed counts as 0")
    if len(gathered) > arms.MOST_ARMS:
        lines.append(
            f"{arms.MOST_ARMS} of {len(gathered)} arms drawn: those without a teacher, then the best"
        )
    chosen = {
        arm.name: rate
        for arm, group in drawn.items()
        if len(arms.rates(gathered[arm])) > 1
        for rate in arms.rates(group)
    }
    if chosen and at.rate is None:
        shown = ", ".join(f"{readable(arm)} {rate:g}" for arm, rate in chosen.items())
        lines.append(f"each arm at its best learning rate ({shown})")
    lines.append("bands span the seeds")
    return "; ".join(lines)


def data(scene: Scene) -> xr.Dataset:
    """Every run with its last measures, for download."""
    found = runs.listed(scene.library, scene.address.runs)
    return tabulate([it.run for it in found if it.run is not None])


def _folders(scene: Scene) -> list[Component]:
    """Links to the runs of one folder, where there are several."""
    at, there = scene.address, runs.folders(runs.everywhere(scene.library))
    if len(there) < 2:
        return []
    here = {it.folder for it in runs.listed(scene.library, at.runs)}
    return [
        dcc.Link(
            readable(name, 32),
            href=at.but(runs=(folder,), length=None, rate=None).href,
            className="quiet here" if folder in here else "quiet",
        )
        for folder, name in there.items()
    ]


def _control(field: str) -> dict[str, str]:
    return {"type": "runs-control", "field": field}


def _select(field: str, options: list[tuple[str, str]], value: str, width: int) -> Component:
    return dmc.Select(
        id=_control(field),
        data=choices(options),
        value=value,
        allowDeselect=False,
        size="xs",
        w=width,
        **more(aria_label=field.capitalize()),
    )


PAGE.clientside("open_captures", Input("runs-table", "cellClicked"))
PAGE.clientside("runs_control", Input({"type": "runs-control", "field": ALL}, "value"))
