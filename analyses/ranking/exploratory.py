"""What the rule of PREREGISTERED.md leaves out if a teacher fails its gate, and what it would be with that teacher."""

from collections.abc import Sequence

from analyses.ranking import analysis
from analyses.ranking.analysis import Teacher
from ssmlens.runs.prediction_table import number, span


def not_computed(teachers: Sequence[Teacher]) -> str:
    """Name the teachers that failed, and the numbers that the rule needs a second teacher for."""
    failed = [teacher.name for teacher in teachers if not teacher.passes]
    return f"""\
{len(teachers) - len(failed)} of {len(teachers)} teachers passed the gate; failed: {", ".join(failed)}. The rule \
counts only teachers that passed and asks for two of them. These numbers cannot be computed by it:

- ρ pooled over two teachers, with its interval and p: the tables Y1 and Y2 are of one teacher;
- the combination of three scores, fitted on one corpus and tested on the other;
- of Figure 11: whether the good layers are those with masks near one and W_C like W_B."""


def all_counted_rows(teachers: Sequence[Teacher]) -> list[list[str]]:
    """A header, then each score's ρ with Y1: of each teacher, pooled over them all, and the interval of that."""
    found, _ = analysis.predictions([teacher.table for teacher in teachers])
    combined = analysis.held_out(teachers)
    found += [combined[0]] if combined else []
    return [
        ["score", *(f"ρ, {teacher.name}" for teacher in teachers), "pooled ρ", "95 %"],
        *(
            [it.score, *map(number, it.by_teacher), number(it.rho), span(it.interval)]
            for it in found
        ),
    ]
