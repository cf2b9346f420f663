"""Runs: training as it goes. Loss and accuracy by step, by length and by learning rate; transplants against scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dash_mantine_components as dmc
import plotly.graph_objects as go
import xarray as xr
from dash import Input, Output, dcc, html, no_update
from dash.development.base_component import Component

from ssmlens.plot.training_curves import readable, training_curves
from ssmlens.plot.transplant_panels import transplant_panels
from ssmlens.runs.arms import Arm, by_arm, lengths, rates, training_length
from ssmlens.runs.compare import notes, summarise
from ssmlens.runs.curves import by_length, by_rate, by_step
from ssmlens.runs.measures import LOSS, SHARES, in_words
from ssmlens.runs.metrics import EVAL, TRAIN
from ssmlens.runs.run import Run
from ssmlens.runs.students import panels, scores_known, students
from ssmlens.runs.table import measures, tabulate
from ssmlens.scores.order import STRUCTURAL, TARGETED
from ssmlens_dashboard.address import Address, can_be_named
from ssmlens_dashboard.controls import choices, own_control_id, own_select, write_fields
from ssmlens_dashboard.elements import figure_card, none_found
from ssmlens_dashboard.page import Page
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.tables import height_of, table_card
from ssmlens_dashboard.views import arms, runs
from ssmlens_dashboard.views.runs import Listed
from ssmlens_dashboard.views.runs_table import table

_SOON = 2_000  # milliseconds between looks at runs
_LATER = 10_000  # where there are none yet
_BEST = "best"
_MOST_SCORES = 4  # panels beside each other
_TRANSPLANTS = 520  # pixels
_SCORES = (*TARGETED, *STRUCTURAL)  # that layers are ordered by stand first
_FIGURES = ("loss", "accuracy", "lengths", "rates", "transplants")
_TRAIN = "ssmlens train --preset copy-in-a-minute --out runs"
_OPEN = "ssmlens dashboard runs"


def layout(_: Scene) -> Component:
    """Controls, curves two by two, every run in a table; or what to do where there is none."""
    return html.Div(
        [
            dcc.Interval(id="runs-tick", interval=_SOON),
            dcc.Store(id="runs-seen"),
            none_found(
                "runs-none",
                "Training runs",
                "Two that show what an initialisation does, and where they are seen:",
                f"{_TRAIN}\n{_OPEN}",
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
    trained = training_length(held, lengths(held))
    length = length_shown(held, at.length)
    gathered = by_arm(held)
    styles = {arm: number for number, arm in enumerate(gathered)}
    asked = arms.with_rate(gathered, at.rate)
    drawn = {
        arm: arms.at_best_rate(asked[arm], at.measure, trained)
        for arm in arms.most_telling(asked, at.measure, length)
    }
    transplants = transplants_figure(
        scene, [run for runs in asked.values() for run in runs], length
    )
    columns, rows = table(found, length, runs.captures(scene.library), at)
    return (
        *curves(scene, drawn, {arm: gathered[arm] for arm in drawn}, styles, length),
        transplants or no_update,
        "Accuracy" if length is None else f"Accuracy at length {length}",
        "Learning rates" if length is None else f"Learning rates, at length {length}",
        len(rates(held)) < 2,
        transplants is None,
        columns,
        rows,
        height_of(rows),
        told(found, asked, drawn, at, trained, length),
        True,
        False,
    )


def curves(
    scene: Scene,
    drawn: Mapping[Arm, Sequence[Run]],
    at_all_rates: Mapping[Arm, Sequence[Run]],
    styles: Mapping[Arm, int],
    length: int | None,
) -> tuple[go.Figure, go.Figure, go.Figure, go.Figure]:
    """The figures of loss and measure by step, of the measure by length and by learning rate.

    Args:
        scene: What is looked at.
        drawn: The arms drawn, with the runs that are.
        at_all_rates: The same arms with their runs at every learning rate.
        styles: The number of each arm, so that it looks the same everywhere.
        length: The length evaluated at.
    """
    measure, theme = scene.address.measure, scene.theme
    what, share = readable(in_words(measure)), measure in SHARES
    losses = by_step(drawn, styles, LOSS, TRAIN, None)
    measured = by_step(drawn, styles, measure, EVAL, length)
    last, of_rates = (
        by_length(drawn, styles, measure),
        by_rate(at_all_rates, styles, measure, length),
    )
    places: dict[str, Any] = {"share": share, "marked": True, "theme": theme}
    return (
        training_curves(losses, "step", LOSS, theme=theme),
        training_curves(measured, "step", what, share=share, theme=theme),
        training_curves(last, "length", what, **places),
        training_curves(of_rates, "learning rate", what, logarithmic=True, **places),
    )


@PAGE.view(Output("runs-toolbar", "children"), also=(Input("runs-seen", "data"),))
def offered(scene: Scene, _seen: object = None) -> list[Component]:
    """The controls. Where they are the same as before, what a reader has open stays open."""
    held = runs.legible(runs.listed(scene.library, scene.address.runs))
    return toolbar(scene, held, length_shown(held, scene.address.length))


def transplants_figure(scene: Scene, held: Sequence[Run], length: int | None) -> go.Figure | None:
    """The figure of `ssmlens transplant --figure`, at the length shown and at twice it; None without transplants.

    The score that is chosen comes first.
    """
    at = scene.address
    names = scores_known(held, _SCORES)
    if not names or length is None:
        return None
    scores = sorted(names, key=lambda name: name != at.by)[:_MOST_SCORES]
    twice = min(lengths(held), key=lambda n: (abs(n - 2 * length), n))
    shown = sorted({length, twice})
    figure = transplant_panels(
        *panels(students(held, at.measure), scores, shown),
        scores,
        shown,
        in_words(at.measure) + ("" if len(rates(held)) < 2 else ", all rates"),
        theme=scene.theme,
    )
    return figure.update_layout(width=None, height=None, paper_bgcolor=None)


def toolbar(scene: Scene, held: Sequence[Run], length: int | None) -> list[Component]:
    """What can be chosen, as it stands."""
    at, there = scene.address, lengths(held)
    taken = [name for name in measures(held) if name != LOSS and can_be_named(name)]
    controls: list[Component] = [
        dmc.SegmentedControl(
            id=own_control_id(PAGE.name, "measure"),
            data=choices([(n, readable(in_words(n))) for n in dict.fromkeys([*taken, at.measure])]),
            value=at.measure,
            size="xs",
        )
    ]
    if there:
        options = [(str(n), f"length {n}") for n in there]
        controls.append(own_select(PAGE.name, "length", options, str(length), 110))
    grid = rates(held)
    if len(grid) > 1:
        options = [
            (_BEST, "best learning rate"),
            *((str(r), f"learning rate {r:g}") for r in grid),
        ]
        now = _BEST if at.rate not in grid else str(at.rate)
        controls.append(own_select(PAGE.name, "rate", options, now, 180))
    scores = scores_known(held, _SCORES)
    if scores:
        now = at.by if at.by in scores else scores[0]
        options = [(name, readable(name)) for name in scores]
        controls.append(own_select(PAGE.name, "by", options, now, 180))
    return controls + _folders(scene)


def told(
    found: Sequence[Listed],
    gathered: Mapping[Arm, Sequence[Run]],
    drawn: Mapping[Arm, Sequence[Run]],
    at: Address,
    trained: int | None,
    length: int | None,
) -> str:
    """How many runs there are in which state, what of them is drawn, and what the arms drawn give over all rates."""
    states = Counter(it.state for it in found)
    lines = [f"{len(found)} runs: " + ", ".join(f"{n} {state}" for state, n in states.items())]
    if any(it.state == "failed" for it in found):
        lines.append("one that failed counts as 0")
    if len(gathered) > arms.MOST_ARMS:
        lines.append(
            f"{arms.MOST_ARMS} of {len(gathered)} arms drawn: those without a teacher, then the best"
        )
    several = [arm for arm in drawn if len(rates(gathered[arm])) > 1]
    summaries = [summarise(a.name, gathered[a], at.measure, length, trained) for a in several]
    if summaries:
        shown = ", ".join(f"{readable(arm.arm)} {arm.best_rate:g}" for arm in summaries)
        lines.append(f"curves of each arm at its best learning rate ({shown})")
        reached = ", ".join(f"{readable(a.arm)} {a.overall:.3f}" for a in summaries if a.seeds)
        lines.append(f"mean over all rates: {reached}" if reached else "nothing is measured yet")
        lines += [readable(note, 400) for note in notes(summaries)]
    lines.append("bands span the seeds")
    return "; ".join(lines)


def length_shown(held: Sequence[Run], asked: int | None) -> int | None:
    """The length to compare at: the one asked for where it was measured, else the one that was trained on."""
    there = lengths(held)
    return asked if asked in there else training_length(held, there)


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


PAGE.clientside("open_captures", Input("runs-table", "cellClicked"))
write_fields(PAGE)
