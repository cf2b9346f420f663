"""`python -m analyses.ranking.report [FOLDER]`: table.md and a figure a teacher, from the results in a folder.

The folder is results/, beside this file, with a folder a teacher. The figure shows the three tested scores against what
students reach at the longest length, a dot a layer (with ssmlens[export]).
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analyses.ranking import analysis
from analyses.ranking.analysis import Teacher
from analyses.ranking.experiment import GATE, PRIMARY, SECONDARY
from ssmlens.runs.prediction_table import number, rows
from ssmlens.runs.students import panels, students
from ssmlens.runs.validation import LayerTable
from ssmlens.text_table import text_table

_SHOWN = (PRIMARY, *SECONDARY, "bc_effective", "ablation")

_OF_GATES = (
    *("teacher", "right at 64", "right at 128", "bits a byte", "gate", "whole seeds", "ceiling"),
    *("default", "mimetic", "A alone"),
)


def main() -> None:
    """Write table and figures."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "results")
    parser.add_argument("--figures", nargs="+", default=[".png"], help="such as .svg .html")
    asked = parser.parse_args()
    teachers = analysis.read_teachers(asked.folder)
    if not teachers:
        raise SystemExit(f"{asked.folder} holds no teacher's results.json yet")
    (asked.folder / "table.md").write_text(tables(teachers), encoding="utf-8")
    for teacher in teachers:
        for form in asked.figures:
            draw(teacher, asked.folder / f"{teacher.name}{form}")


def draw(teacher: Teacher, file: Path) -> None:
    """A teacher's figure: what students reach at the longest length, against the three tested scores."""
    from ssmlens.plot.image import figure_file
    from ssmlens.plot.transplant_panels import transplant_panels

    wanted = {"", "shuffled"}
    found = students([r for r in teacher.runs if r.teacher_layer is None or r.control in wanted])
    scores, longest = [PRIMARY, *SECONDARY], [max(found[0].at)]
    figure = transplant_panels(
        *panels(found, scores, longest), scores, longest, "characters right, all rates"
    )
    file.write_bytes(figure_file(figure, file.suffix))


def tables(teachers: Sequence[Teacher]) -> str:
    """Everything that PREREGISTERED.md names, in one page."""
    able = [teacher for teacher in teachers if teacher.passes]
    parts = [
        f"**Verdict**: {analysis.verdict(teachers)}.",
        text_table(_gates(teachers), form="markdown"),
    ]
    if able:
        parts += _predictions("Y1", [teacher.table for teacher in able])
        parts += _predictions("Y2", [teacher.in_training for teacher in able])
    for teacher in teachers:
        parts += _predictions(f"{teacher.name} alone, Y1", [teacher.table])
    combined = analysis.held_out(able)
    if combined is not None:
        found, weights = combined
        told = "; ".join(
            f"{how}: {', '.join(f'{w:.2f}' for w in ws)}" for how, ws in weights.items()
        )
        parts += [
            f"**{found.score}**; weights of {PRIMARY}, {', '.join(SECONDARY)} {told}",
            text_table(rows([found], [found.p]), form="markdown"),
        ]
    better = "are" if analysis.some_layers_are_better(able) else "are not"
    parts.append(f"Some layers {better} far better starts than the median layer, by the rule.")
    parts += [
        "**Share of the real layers' gain over the default**",
        text_table(_gains(teachers), form="markdown"),
    ]
    parts += [part for teacher in teachers for part in _layers(teacher)]
    return "\n\n".join(parts) + "\n"


def _predictions(title: str, found_in: Sequence[LayerTable]) -> list[str]:
    found, adjusted = analysis.predictions(found_in)
    told = f"**{title}: {found_in[0].outcome}**, {len(found_in)} teacher{'s' * (len(found_in) > 1)}"
    return [told, text_table(rows(found, adjusted), form="markdown")]


def _gates(teachers: Sequence[Teacher]) -> list[list[str]]:
    lines = [list(_OF_GATES)]
    for teacher in teachers:
        measured = teacher.told["run"]["eval"]
        ends = {n: curves["char"][-1] for n, curves in measured.items()}
        bits = next(
            (curves["bits"][-1] for curves in measured.values() if "bits" in curves), math.nan
        )
        alone = {it.arm: it.at[max(it.at)].overall for it in students(teacher.runs)}
        lines.append(
            [
                teacher.name,
                number(ends.get("64", math.nan)),
                number(ends.get("128", math.nan)),
                number(bits),
                f"{'passed' if teacher.passes else 'failed'} (≥ {GATE})",
                str(teacher.table.real.shape[1]),
                number(analysis.ceiling(teacher)),
                *(number(alone.get(arm, math.nan)) for arm in ("default", "mimetic", "mimetic A")),
            ]
        )
    return lines


def _gains(teachers: Sequence[Teacher]) -> list[list[str]]:
    lines = [["teacher", "control", "share", "least..most of its layers"]]
    for teacher in teachers:
        for control, told in analysis.shares_of_gain(teacher).items():
            each = list(told["layers"].values())
            span = f"{min(each):.2f}..{max(each):.2f}"
            lines.append([teacher.name, control, number(told["share"]), span])
    return lines


def _layers(teacher: Teacher) -> list[str]:
    """A row a layer, the best first: its scores, and what its students and their controls reached."""
    table, reached = teacher.table, teacher.table.real.mean(1)
    shuffled = table.shuffled.mean(1) if table.shuffled.shape[1] else np.full(len(reached), np.nan)
    names = [name for name in _SHOWN if name in table.scores]
    lines = [["layer", *names, "real", "by seed", "shuffled"]]
    for place in np.argsort(-reached):
        lines.append(
            [
                str(table.layer[place]),
                *(number(float(table.scores[name][place]), 3) for name in names),
                number(float(reached[place]), 3),
                ", ".join(f"{value:.2f}" for value in table.real[place]),
                number(float(shuffled[place]), 3),
            ]
        )
    return [
        f"**{teacher.name}, layer by layer: {table.outcome}**",
        text_table(lines, form="markdown"),
    ]


if __name__ == "__main__":
    main()
