"""`python -m analyses.ranking.report [FOLDER]`: table.md and a figure a teacher, from the results in a folder.

The folder is results/, beside this file, with a folder a teacher. The figure shows the three tested scores against what
students reach at the longest length, a dot a layer (with ssmlens[export]).
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from analyses.ranking import analysis
from analyses.ranking.analysis import Teacher
from analyses.ranking.descriptive import best_rows, course_rows, rows_without_best
from analyses.ranking.experiment import GATE, PRIMARY, SECONDARY
from analyses.ranking.exploratory import all_counted_rows, not_computed
from analyses.ranking.rerun import Rerun, read_rerun, rerun_rows
from ssmlens.runs.prediction_table import number, rows
from ssmlens.runs.students import panels, students
from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE
from ssmlens.runs.validation import LayerTable
from ssmlens.text_table import text_table

_SHOWN = (PRIMARY, *SECONDARY, "bc_effective", "ablation")

_OF_GATES = (
    *("teacher", "right at 64", "right at 128", "bits a byte", "gate", "students", "failed"),
    *("whole seeds", "ceiling", "default", "mimetic", "A alone"),
)


def main() -> None:
    """Write table and figures."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "results")
    parser.add_argument("--figures", nargs="+", default=[".png"], help="such as .svg .html")
    arguments = parser.parse_args()
    teachers = analysis.read_teachers(arguments.folder)
    if not teachers:
        raise SystemExit(f"{arguments.folder} holds no teacher's results.json yet")
    reruns = {teacher.name: read_rerun(teacher, arguments.folder) for teacher in teachers}
    page = tables(teachers, {name: rerun for name, rerun in reruns.items() if rerun is not None})
    (arguments.folder / "table.md").write_text(page, encoding="utf-8")
    for teacher in teachers:
        for form in arguments.figures:
            draw(teacher, arguments.folder / f"{teacher.name}{form}")


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


def tables(teachers: Sequence[Teacher], reruns: Mapping[str, Rerun] = MappingProxyType({})) -> str:
    """Everything that PREREGISTERED.md and README.md name, in one page.

    Args:
        teachers: The teachers.
        reruns: By teacher: its students that were trained again.
    """
    able = [teacher for teacher in teachers if teacher.passes]
    parts = [
        f"**Verdict**: {analysis.verdict(teachers)}.",
        f"In the help, README and the dashboard: {TRANSPLANT_EVIDENCE}",
        *_titled("Teachers", _gates(teachers)),
        *_titled("Letters right at 64, by step of the teacher's training", course_rows(teachers)),
    ]
    if able:
        parts += _predictions("Y1", [teacher.table for teacher in able])
        parts += _predictions("Y2", [teacher.in_training for teacher in able])
    for teacher in teachers:
        parts += _predictions(f"{teacher.name} alone, Y1", [teacher.table])
    combined = analysis.held_out(able)
    if combined is not None:
        found, weights = combined
        parts += [
            *_titled(found.score, rows([found], [found.p])),
            f"Weights of {PRIMARY}, {', '.join(SECONDARY)} {_weights(weights)}",
        ]
    if len(able) < 2 <= len(teachers):
        parts += [
            *("## Not computed", not_computed(teachers)),
            *_titled("Exploratory: every teacher counted, Y1", all_counted_rows(teachers)),
            "Not part of the rule, and nothing is concluded from it: teachers that failed the gate are counted too. "
            "Pooled: the mean of Fisher's z over teachers; its interval is a bootstrap over teachers and depth. "
            "The rule asks, among other things, for an interval wholly above 0.3.",
        ]
    better = "are" if analysis.some_layers_are_better(able) else "are not"
    parts += [
        *_titled("Best and median layer", best_rows(teachers)),
        f"Some layers {better} far better starts than the median layer, by the rule.",
        *_titled("ρ with Y1 without the best layer", rows_without_best(teachers)),
        *_titled("Share of the real layers' gain over the default", _gains(teachers)),
    ]
    if reruns:
        parts += _titled(
            "Students trained again: characters right at the longest length", rerun_rows(reruns)
        )
    parts += [part for teacher in teachers for part in _layers(teacher)]
    return "\n\n".join(parts) + "\n"


def _titled(title: str, lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"## {title}", text_table(lines, form="markdown")]


def _predictions(title: str, found_in: Sequence[LayerTable]) -> list[str]:
    found, adjusted = analysis.predictions(found_in)
    teachers = "1 teacher" if len(found_in) == 1 else f"{len(found_in)} teachers"
    return _titled(f"{title}: {found_in[0].outcome}, {teachers}", rows(found, adjusted))


def _weights(weights: Mapping[str, Sequence[float]]) -> str:
    return "; ".join(f"{how}: {', '.join(map(number, ws))}" for how, ws in weights.items())


def _gates(teachers: Sequence[Teacher]) -> list[list[str]]:
    lines = [list(_OF_GATES)]
    for teacher in teachers:
        measured = teacher.record["run"]["eval"]
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
                str(len(teacher.runs)),
                str(sum(run.status.state == "failed" for run in teacher.runs)),
                str(teacher.table.real.shape[1]),
                number(analysis.ceiling(teacher)),
                *(number(alone.get(arm, math.nan)) for arm in ("default", "mimetic", "mimetic A")),
            ]
        )
    return lines


def _gains(teachers: Sequence[Teacher]) -> list[list[str]]:
    lines = [["teacher", "control", "share", "least..most of its layers"]]
    for teacher in teachers:
        for control, shares in analysis.shares_of_gain(teacher).items():
            each = list(shares["layers"].values())
            span = f"{min(each):.2f}..{max(each):.2f}"
            lines.append([teacher.name, control, number(shares["share"]), span])
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
    return _titled(f"{teacher.name}, layer by layer: {table.outcome}", lines)


if __name__ == "__main__":
    main()
