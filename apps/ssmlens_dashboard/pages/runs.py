"""Runs: live training. Loss and accuracy by step, length and learning rate; transplants against scores."""

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

_SOON = 2_000  # milliseconds between two reads of the runs
_LATER = 10_000  # the same while there are none
_BEST = "best"
_MOST_SCORES = 4  # panels side by side
_TRANSPLANTS = 520  # pixels
_SCORES = (*TARGETED, *STRUCTURAL)  # scores that layers are ranked by come first
_FIGURES = ("loss", "accuracy", "lengths", "rates", "transplants")
_TRAIN = "ssmlens train --preset copy-in-a-minute --out runs"
_OPEN = "ssmlens dashboard runs"


def layout(_: Scene) -> Component:
    """Build the controls, four figures of curves and the table of runs, or the message of an empty page."""
    return html.Div(
        [
            dcc.Interval(id="runs-tick", interval=_SOON),
            dcc.Store(id="runs-seen"),
            none_found(
                "runs-none",
                "Training runs",
                "To train two that show the effect of an initialisation, and see them:",
                f"{_TRAIN}\n{_OPEN}",
            ),
            html.Div(
                [
                    html.Div(id="runs-toolbar", className="toolbar"),
                    html.P(id="runs-status", className="muted", role="status"),
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
    """Check for changes; return when to look again, and whether to stop."""
    listed = runs.listed(scene.library, scene.address.runs)
    now = runs.fingerprint(listed)
    disabled = bool(listed) and not runs.live(listed)
    return (no_update if seen == now else now), _SOON if listed else _LATER, disabled


@PAGE.view(
    *(Output(f"runs-{name}", "figure") for name in _FIGURES),
    Output("runs-accuracy-title", "children"),
    Output("runs-rates-title", "children"),
    Output("runs-rated", "hidden"),
    Output("runs-transplanted", "hidden"),
    Output("runs-table", "columnDefs"),
    Output("runs-table", "rowData"),
    Output("runs-table", "style"),
    Output("runs-status", "children"),
    Output("runs-none", "hidden"),
    Output("runs-all", "hidden"),
    also=(Input("runs-seen", "data"),),
)
def everything(scene: Scene, _seen: object = None) -> tuple[Any, ...]:
    """Draw the whole page from the address and what the runs have written so far."""
    at = scene.address
    listed = runs.listed(scene.library, at.runs)
    if not listed and not runs.everywhere(scene.library):
        return (*[no_update] * 13, False, True)
    readable_runs = runs.legible(listed)
    trained = training_length(readable_runs, lengths(readable_runs))
    length = length_shown(readable_runs, at.length)
    gathered = by_arm(readable_runs)
    styles = {arm: number for number, arm in enumerate(gathered)}
    at_rate = arms.with_rate(gathered, at.rate)
    drawn = {
        arm: arms.at_best_rate(at_rate[arm], at.measure, trained)
        for arm in arms.arms_to_draw(at_rate, at.measure, length)
    }
    transplants = transplants_figure(
        scene, [run for runs in at_rate.values() for run in runs], length
    )
    columns, rows = table(listed, length, runs.captures(scene.library), at)
    return (
        *curves(scene, drawn, {arm: gathered[arm] for arm in drawn}, styles, length),
        transplants or no_update,
        "Accuracy" if length is None else f"Accuracy at length {length}",
        "Learning rates" if length is None else f"Learning rates, at length {length}",
        len(rates(readable_runs)) < 2,
        transplants is None,
        columns,
        rows,
        height_of(rows),
        summary_line(listed, at_rate, drawn, at, trained, length),
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
    """Draw loss and measure by step, and the measure by length and by learning rate.

    Args:
        scene: The scene.
        drawn: The arms drawn, with their runs drawn.
        at_all_rates: The same arms with their runs at every learning rate.
        styles: The number of each arm; it fixes the arm's look in every figure.
        length: The evaluation length.
    """
    measure, theme = scene.address.measure, scene.theme
    title, share = readable(in_words(measure)), measure in SHARES
    losses = by_step(drawn, styles, LOSS, TRAIN, None)
    measured = by_step(drawn, styles, measure, EVAL, length)
    last, of_rates = (
        by_length(drawn, styles, measure),
        by_rate(at_all_rates, styles, measure, length),
    )
    places: dict[str, Any] = {"share": share, "marked": True, "theme": theme}
    return (
        training_curves(losses, "step", LOSS, theme=theme),
        training_curves(measured, "step", title, share=share, theme=theme),
        training_curves(last, "length", title, **places),
        training_curves(of_rates, "learning rate", title, logarithmic=True, **places),
    )


@PAGE.view(Output("runs-toolbar", "children"), also=(Input("runs-seen", "data"),))
def offered(scene: Scene, _seen: object = None) -> list[Component]:
    """Build the controls. While they stay the same, an open list stays open."""
    readable_runs = runs.legible(runs.listed(scene.library, scene.address.runs))
    return toolbar(scene, readable_runs, length_shown(readable_runs, scene.address.length))


def transplants_figure(
    scene: Scene, trained_runs: Sequence[Run], length: int | None
) -> go.Figure | None:
    """Draw the figure of `ssmlens transplant --figure` at the length shown and twice that; None without transplants.

    The selected score comes first.
    """
    at = scene.address
    names = scores_known(trained_runs, _SCORES)
    if not names or length is None:
        return None
    scores = sorted(names, key=lambda name: name != at.by)[:_MOST_SCORES]
    twice = min(lengths(trained_runs), key=lambda n: (abs(n - 2 * length), n))
    shown_lengths = sorted({length, twice})
    figure = transplant_panels(
        *panels(students(trained_runs, at.measure), scores, shown_lengths),
        scores,
        shown_lengths,
        in_words(at.measure) + ("" if len(rates(trained_runs)) < 2 else ", all rates"),
        theme=scene.theme,
    )
    return figure.update_layout(width=None, height=None, paper_bgcolor=None)


def toolbar(scene: Scene, trained_runs: Sequence[Run], length: int | None) -> list[Component]:
    """Build the controls with their current values."""
    at, known_lengths = scene.address, lengths(trained_runs)
    names = [name for name in measures(trained_runs) if name != LOSS and can_be_named(name)]
    controls: list[Component] = [
        dmc.SegmentedControl(
            id=own_control_id(PAGE.name, "measure"),
            data=choices([(n, readable(in_words(n))) for n in dict.fromkeys([*names, at.measure])]),
            value=at.measure,
            size="xs",
        )
    ]
    if known_lengths:
        options = [(str(n), f"length {n}") for n in known_lengths]
        controls.append(own_select(PAGE.name, "length", options, str(length), 110))
    grid = rates(trained_runs)
    if len(grid) > 1:
        options = [
            (_BEST, "best learning rate"),
            *((str(r), f"learning rate {r:g}") for r in grid),
        ]
        now = _BEST if at.rate not in grid else str(at.rate)
        controls.append(own_select(PAGE.name, "rate", options, now, 180))
    scores = scores_known(trained_runs, _SCORES)
    if scores:
        now = at.by if at.by in scores else scores[0]
        options = [(name, readable(name)) for name in scores]
        controls.append(own_select(PAGE.name, "by", options, now, 180))
    return controls + _folders(scene)


def summary_line(
    listed: Sequence[Listed],
    gathered: Mapping[Arm, Sequence[Run]],
    drawn: Mapping[Arm, Sequence[Run]],
    at: Address,
    trained: int | None,
    length: int | None,
) -> str:
    """Summarise the runs in a line: states, what is drawn, and the means over all rates."""
    states = Counter(item.state for item in listed)
    lines = [f"{len(listed)} runs: " + ", ".join(f"{n} {state}" for state, n in states.items())]
    if any(item.state == "failed" for item in listed):
        lines.append("a failed run counts as 0")
    if len(gathered) > arms.MOST_ARMS:
        lines.append(
            f"{arms.MOST_ARMS} of {len(gathered)} arms drawn: those without a teacher, then the best"
        )
    several = [arm for arm in drawn if len(rates(gathered[arm])) > 1]
    summaries = [summarise(a.name, gathered[a], at.measure, length, trained) for a in several]
    if summaries:
        best_rates = ", ".join(f"{readable(arm.arm)} {arm.best_rate:g}" for arm in summaries)
        lines.append(f"curves of each arm at its best learning rate ({best_rates})")
        reached = ", ".join(f"{readable(a.arm)} {a.overall:.3f}" for a in summaries if a.seeds)
        lines.append(f"mean over all rates: {reached}" if reached else "nothing is measured yet")
        lines += [readable(note, 400) for note in notes(summaries)]
    lines.append("bands span the seeds")
    return "; ".join(lines)


def length_shown(trained_runs: Sequence[Run], requested: int | None) -> int | None:
    """Return the length to compare at: the requested one if measured, else the training length."""
    known = lengths(trained_runs)
    return requested if requested in known else training_length(trained_runs, known)


def data(scene: Scene) -> xr.Dataset:
    """Tabulate every run with its last measures, for download."""
    listed = runs.listed(scene.library, scene.address.runs)
    return tabulate([item.run for item in listed if item.run is not None])


def _folders(scene: Scene) -> list[Component]:
    """Link to the runs of each folder, if there are several."""
    at, folders = scene.address, runs.folders(runs.everywhere(scene.library))
    if len(folders) < 2:
        return []
    current = {item.folder for item in runs.listed(scene.library, at.runs)}
    return [
        dcc.Link(
            readable(name, 32),
            href=at.replace(runs=(folder,), length=None, rate=None).href,
            className="quiet here" if folder in current else "quiet",
        )
        for folder, name in folders.items()
    ]


PAGE.clientside("open_captures", Input("runs-table", "cellClicked"))
write_fields(PAGE)
