"""The numbers of analyses/ranking: README.md has those of table.md, and table.md those of the results files."""

import json
import re

import numpy as np
import pytest
from pages import ROOT, read, section
from scipy.stats import spearmanr

from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE

FOLDER = ROOT / "analyses" / "ranking" / "results"
TABLE = read("analyses/ranking/results/table.md")
SECTIONS = dict(part.split("\n", 1) for part in re.split(r"^## ", TABLE, flags=re.MULTILINE)[1:])
# How a paragraph of the README's results begins → how the titles of the tables that hold its numbers begin.
SOURCES = {
    "Two teachers": ["Teachers"],
    "**The gate": ["Teachers", "Letters right"],
    "![Scores": [],
    "*A dot is": [],
    "Scores of C0's": ["Y1"],
    "| score": ["Y1"],
    "With one teacher": ["Y1", "Y2"],
    "**The best layer": ["Best and median", "Teachers", "ρ with Y1 without", "C0, layer by layer"],
    "**W_C like W_B": ["Y1"],
    "**P0 has no": ["Best and median", "P0 alone"],
    "**Any layer": ["Share of", "C0, layer by layer"],
    "**Memory alone": ["Share of"],
    "**The noise ceiling": ["Teachers"],
    "**By the rule": [],
    "**With both teachers": ["Exploratory"],
    "**Run again": ["Students trained again", "C0, layer by layer"],
    "**What we noticed": ["Letters right"],
    "**What is not known": [],
}


def paragraphs():
    """Paragraphs and list items of the README's results."""
    text = section(
        read("analyses/ranking/README.md"),
        "What came out (30 November 2026)",
    )
    return [part.removeprefix("- ") for part in re.split(r"\n\n|\n(?=- )", text.strip())]


def stated(text):
    """Numbers of a paragraph as (value, decimals); code, links, names and the number of a figure are left out."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|Figure \d+", "", text).replace("−", "-")
    found = re.findall(r"(?<![\w.])-?(?:\d+(?:\.\d+)?|\.\d+)", text)
    return [(float(n), len(n.partition(".")[2])) for n in found]


def has(text, value, decimals):
    """Whether a number of a table, of at least as many decimals, rounds to a value."""
    numbers = re.findall(r"(?<![A-Za-z_\d])-?\d+(?:\.\d+)?", text)
    precise = [n for n in numbers if len(n.partition(".")[2]) >= decimals]
    half = 0.5 * 10.0**-decimals if decimals else 0
    return any(abs(float(n) - value) <= half + 1e-9 for n in precise)


@pytest.mark.parametrize("text", paragraphs(), ids=lambda text: text[:20])
def test_every_number_of_the_readme_is_in_its_table(text):
    (sources,) = [titles for start, titles in SOURCES.items() if text.startswith(start)]
    bodies = [
        f"{title}\n{body}"
        for start in sources
        for title, body in SECTIONS.items()
        if title.startswith(start)
    ]
    assert len(bodies) >= len(sources)
    missing = [n for n, decimals in stated(text) if not has("\n".join(bodies), n, decimals)]
    assert missing == []


def test_the_readers_find_numbers_and_miss_others():
    assert stated("ρ = −.55 [.07, 1.2], p = .042. `9` [P0](7.md) Figure 11, C0 at 100.") == [
        *((-0.55, 2), (0.07, 2), (1.2, 1)),
        *((0.042, 3), (100, 0)),
    ]
    assert has("| C0 | -0.82..-0.01 | 0.0417 |", 0.042, 3)
    assert not has("| C0 | -0.82..-0.01 | 0.0417 |", 0.01, 2)
    assert not has("| C0 | 0.8 |", 0.80, 2), "0.8 does not say that it is 0.80"


def cells(title, first):
    """The cells of a row of a table, by column; of columns with the same name the first."""
    (body,) = [body for name, body in SECTIONS.items() if name.startswith(title)]
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in body.splitlines()]
    (row,) = [row for row in rows if row[0] == first]
    head = next(row for row in rows if len(row) > 1)
    return dict(reversed([*zip(head, row, strict=True)]))


def runs(name):
    """{(layer or start, control, rate, seed): characters right at 100} as a results file holds them."""
    saved = json.loads((FOLDER / name).read_text())
    found = {}
    for run in saved["runs"]:
        config = saved["common"] | run["config"]
        control = "shuffled" if config["shuffled"] else config.get("control")
        arm = config["teacher_layer"]
        start = (config["init"], *config["components"]) if arm is None else arm
        key = (start, control, config["learning_rate"], config["seed"])
        found[key] = run["eval"]["100"]["char"][-1]
    return found


def by_layer(points, control=None):
    """[layer seed], mean over rates."""
    return np.array(
        [
            [np.mean([points[n, control, rate, seed] for rate in (1e-3, 3e-3)]) for seed in (0, 1)]
            for n in range(24)
        ]
    )


@pytest.mark.parametrize("name", ["C0", "P0"])
def test_the_table_has_what_the_results_give(name):
    points = runs(f"{name}/results.json")
    real, shuffled = by_layer(points), by_layer(points, "shuffled")
    scores = json.loads((FOLDER / name / "teacher.json").read_text())["scores"]
    reached = real.mean(1)
    best = int(reached.argmax())

    row = cells("Best and median", name)
    assert int(row["best layer"]) == best
    assert float(row["its students"]) == pytest.approx(reached.max(), abs=0.005)
    assert float(row["median layer's"]) == pytest.approx(np.median(reached), abs=0.005)
    spread = np.sqrt(np.mean((real[:, 0] - real[:, 1]) ** 2 / 2))
    assert float(row["SD between seeds"]) == pytest.approx(spread, abs=0.005)

    row = cells("ρ with Y1 without", name)
    others = [n for n in range(24) if n != best]
    for score in ("induction_score", "mask_ones", "memory_length"):
        rho = spearmanr([scores[str(n)][score] for n in others], reached[others])[0]
        assert float(row[score]) == pytest.approx(rho, abs=0.005)

    default = np.mean([value for key, value in points.items() if key[0] == ("mamba-ssm",)])
    share = (shuffled.mean() - default) / (real.mean() - default)
    (line,) = re.findall(rf"\| {name} +\| +shuffled \| +(\S+)", TABLE)
    assert float(line) == pytest.approx(share, abs=0.005)

    again = runs(f"again-{name}.json")
    row = cells("Students trained again", name)
    assert int(row["students"]) == len(again) == 30
    differences = {key: abs(points[key] - value) for key, value in again.items()}
    assert float(row["mean difference"]) == pytest.approx(
        np.mean([*differences.values()]), abs=0.0005
    )
    seeds = [abs(points[key] - points[*key[:3], 1]) for key in again]
    assert float(row["mean difference of two seeds"]) == pytest.approx(np.mean(seeds), abs=0.0005)
    most = max(differences, key=differences.get)
    assert (most[0], row["largest difference"]) == (("mimetic",), "mimetic")
    assert float(row["again"]) == pytest.approx(again[most], abs=0.005)


def test_the_sentence_on_transplants_has_the_numbers_of_the_table():
    """The verdict, and the one teacher's induction_score with its interval and p."""
    assert TABLE.startswith("**Verdict**: 1 teacher passes the gate: two are needed")
    assert TRANSPLANT_EVIDENCE in TABLE
    row = cells("C0 alone", "induction_score")
    numbers = [float(row[name]) for name in ("ρ", "p")]
    low, high = map(float, row["95 %"].split(".."))
    expected = f"ρ = {numbers[0]:.2f} [{low:.2f}, {high:.2f}], p = {numbers[1]:.3f}."
    assert TRANSPLANT_EVIDENCE.endswith(expected.replace("0.", "."))
