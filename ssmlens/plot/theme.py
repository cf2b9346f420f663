"""The look of every figure and of the report: two themes, three colour scales, the fonts.

The scales of maps are transparent at zero. One figure or thumbnail therefore serves both themes, and an empty cell
shows the page. Their ends contrast about equally with both surfaces. Blue and vermilion, and the colours of lines,
stay distinct under every common colour blindness (tests/plot/test_theme.py measures both).
"""

import dataclasses
from typing import Any

import plotly.graph_objects as go

FONT = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', 'Cascadia Code', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
LABEL = {"family": MONO, "size": 11}
"""Font of ticks that are tokens, heads or cells; plot/labels.py relies on its width."""


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of one theme, as CSS hex strings; the page's CSS variables have the fields' names.

    Attributes:
        lines: Colours of several lines in one figure, in order.
    """

    name: str
    page: str
    surface: str
    ink: str
    muted: str
    line: str
    accent: str
    ok: str
    failed: str
    lines: tuple[str, ...]

    def css_variables(self) -> str:
        """Write the colours and the ends of the scales as CSS custom properties, for the body of a rule."""
        colours = {k: v for k, v in vars(self).items() if k not in ("name", "lines")}
        ends = {"plus": SIGNED[-1], "minus": SIGNED[0], "unit": UNIT[-1]}
        colours |= {key: "rgb({}, {}, {})".format(*colour) for key, (_, colour) in ends.items()}
        return " ".join(f"--{key}: {value};" for key, value in colours.items())


LIGHT = Theme(
    name="light",
    page="#f4f5f7",
    surface="#ffffff",
    ink="#14181f",
    muted="#586171",
    line="#dfe3e9",
    accent="#1f5fc4",
    ok="#0b7a55",
    failed="#b3261e",
    lines=("#1f5fc4", "#dd4c0c", "#0f8a6d", "#c479b7", "#3b2a55"),
)
DARK = Theme(
    name="dark",
    page="#0e1116",
    surface="#171b22",
    ink="#e8ebf0",
    muted="#9aa5b4",
    line="#2b323d",
    accent="#7fb0ff",
    ok="#4cc38a",
    failed="#ff8a80",
    lines=("#7fb0ff", "#cf4e14", "#8cf0cf", "#8f66c4", "#f0a83c"),
)

Spec = dict[str, Any]
"""A figure as plain values, {"data": [...], "layout": {...}}: `go.Figure` checks it in some 20 ms."""

Stop = tuple[float, tuple[int, int, int, float]]
"""A position in [0, 1] and the colour there: red, green, blue (0-255), opacity (0-1)."""

# -1 … 0 … 1, for maps: channels write and erase.
SIGNED: tuple[Stop, ...] = (
    (0.0, (40, 120, 235, 1.0)),
    (0.5, (40, 120, 235, 0.0)),
    (0.5, (221, 76, 12, 0.0)),
    (1.0, (221, 76, 12, 1.0)),
)
# 0 … 1, for masks.
UNIT: tuple[Stop, ...] = ((0.0, (11, 138, 128, 0.0)), (1.0, (11, 138, 128, 1.0)))
# Least … most within one score, for the table of scores; the least is visible, unlike a missing score.
ORDER: tuple[Stop, ...] = ((0.0, (40, 120, 235, 0.07)), (1.0, (40, 120, 235, 0.66)))


def colorscale(stops: tuple[Stop, ...]) -> list[list[float | str]]:
    """Convert a scale to plotly's form: [[position, "rgba(…)"], …]."""
    return [[position, "rgba({},{},{},{})".format(*colour)] for position, colour in stops]


def template(theme: Theme = LIGHT) -> go.layout.Template:
    """Return a theme as plotly's template: `figure.update_layout(template=template(DARK))` switches."""
    return go.layout.Template(plain_template(theme))


def plain_template(theme: Theme = LIGHT) -> dict[str, Any]:
    """Return the template as plain values, for figures that plotly does not check (`Spec`)."""
    axis = {
        "gridcolor": theme.line,
        "linecolor": theme.line,
        "tickcolor": theme.line,
        "zerolinecolor": theme.line,
        "tickfont": {"color": theme.muted, "size": 12},
        "title": {"font": {"color": theme.muted, "size": 13}, "standoff": 8},
        "ticks": "outside",
        "ticklen": 4,
        "ticklabeloverflow": "allow",  # otherwise plotly measures every label at every redraw
    }
    return {
        "layout": {
            "font": {"family": FONT, "color": theme.ink, "size": 13},
            "title": {"font": {"size": 15}, "x": 0, "xref": "paper", "xanchor": "left"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(theme.lines),
            "margin": {"l": 68, "r": 24, "t": 28, "b": 56},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": theme.surface,
                "bordercolor": theme.line,
                "font": {"family": MONO, "size": 12, "color": theme.ink},
                "align": "left",
            },
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": theme.muted,
                "activecolor": theme.accent,
            },
            "legend": {"orientation": "h", "y": 1.08, "x": 0, "font": {"size": 12}},
        }
    }
