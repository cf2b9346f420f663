import json
import os
import runpy
import time
from pathlib import Path

import numpy as np
import pytest
from ssmlens_dashboard.address import Address, parse
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import runs as page
from ssmlens_dashboard.scene import Scene
from ssmlens_dashboard.views import arms, runs

from ssmlens.runs.compare import compare
from ssmlens.runs.run import find_runs
from ssmlens.runs.students import scores_known

HERE = Path(__file__)
written = runpy.run_path(str(HERE.with_name("synthetic_runs.py")))
HOSTILE = runpy.run_path(str(HERE.with_name("hostile.py")))["HOSTILE"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return written["write_sweep"](tmp_path_factory.mktemp("runs") / "sweep")


@pytest.fixture(scope="module")
def transplants(tmp_path_factory):
    return written["write_transplants"](tmp_path_factory.mktemp("runs") / "transplants", layers=4)


def at(folder, search=""):
    address, notes = parse("runs", search, ("runs",))
    assert notes == ()
    return Scene(address, Library([folder]))


def answered(scene):
    """What the page's view answers, by output."""
    (view,) = (v for v in page.PAGE.views if v.draw is page.everything)
    names = [f"{o.component_id}.{o.component_property}" for o in view.outputs]
    return dict(zip(names, page.everything(scene), strict=True))


def finals(sweep, arm, measure, length=25):
    """Last evaluations by learning rate, straight from the lines of the files."""
    found = {}
    for folder in sorted(sweep.iterdir()):
        config = json.loads((folder / "config.json").read_text())
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        values = [it[measure] for it in lines if it["split"] == "eval" and it["length"] == length]
        if config["arm"] == arm:
            found.setdefault(config["learning_rate"], []).append(values[-1])
    return found


def test_the_window_of_learning_rates_is_mean_least_and_most_of_the_seeds(sweep):
    answer = answered(at(sweep, "measure=char"))
    lines = {
        trace.name: trace for trace in answer["runs-rates.figure"].data if trace.showlegend is None
    }
    for arm in ("default", "mimetic"):
        expected = finals(sweep, arm, "char")
        assert np.allclose(lines[arm].x, sorted(expected))
        for rate, mean, (low, high, count) in zip(
            sorted(expected), lines[arm].y, lines[arm].customdata, strict=True
        ):
            values = expected[rate]
            assert (mean, low, high, count) == pytest.approx(
                (np.mean(values), min(values), max(values), 3), rel=1e-5
            )
    assert answer["runs-rates-title.children"] == "Learning rates, at length 25"


def test_curves_are_of_the_best_learning_rate_unless_one_is_asked_for(sweep):
    def last(search):
        figure = answered(at(sweep, f"measure=char&{search}"))["runs-accuracy.figure"]
        return {t.name: t.y[-1] for t in figure.data if t.showlegend is None}

    default, mimetic = finals(sweep, "default", "char"), finals(sweep, "mimetic", "char")
    assert last("")["mimetic"] == pytest.approx(max(map(np.mean, mimetic.values())), rel=1e-5)
    asked = last("rate=0.003")
    assert asked["default"] == pytest.approx(np.mean(default[3e-3]), rel=1e-5)
    assert asked["mimetic"] == pytest.approx(np.mean(mimetic[3e-3]), rel=1e-5)
    longer = answered(at(sweep, "length=100&rate=0.003&measure=char"))
    assert longer["runs-accuracy-title.children"] == "Accuracy at length 100"


def test_accuracy_by_length(sweep):
    figure = answered(at(sweep, "measure=char&rate=0.001"))["runs-lengths.figure"]
    (line,) = (t for t in figure.data if t.showlegend is None and t.name == "mimetic")
    assert list(line.x) == [25, 50, 100]
    expected = [np.mean(finals(sweep, "mimetic", "char", n)[1e-3]) for n in (25, 50, 100)]
    assert np.allclose(line.y, expected, rtol=1e-5)


def test_transplants_are_set_against_their_layers_scores(transplants):
    answer = answered(at(transplants, "measure=char"))
    assert not answer["runs-transplanted.hidden"]
    figure = answer["runs-transplants.figure"]
    panels = {
        (trace.name, trace.yaxis, trace.xaxis): trace
        for trace in figure.data
        if trace.error_y.array is not None
    }
    assert [name for name, *_ in panels] == ["transplant", "shuffled"] * 4, (
        "two lengths, two scores"
    )
    for length, own_axis in ((25, "y"), (50, "y3")):
        for arm in ("transplant", "shuffled"):
            points = panels[arm, own_axis, "x" + own_axis[1:]]
            assert list(points.text) == ["0", "1", "2", "3"]
            for layer in range(4):
                names = [written["name_of"](f"{arm} {layer}", seed) for seed in range(2)]
                scores = json.loads((transplants / names[0] / "scores.json").read_text())["scores"]
                ends = [
                    runs.open_run(transplants / name).metrics.final("char", length)
                    for name in names
                ]
                assert points.x[layer] == scores["mask_ones"]
                assert points.y[layer] == pytest.approx(np.mean(ends))
                assert points.customdata[layer].tolist() == [min(ends), max(ends)]
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert len(lines) == 8, "default and mimetic in each panel"
    other = answered(at(transplants, "by=diagonal_sharpness"))["runs-transplants.figure"]
    assert other.layout.xaxis3.title.text == "diagonal_sharpness"
    assert other.layout.xaxis4.title.text == "mask_ones"


def test_transplants_are_their_mean_over_all_rates_as_the_command_has_it(tmp_path):
    """Learning rates, a run that failed, a rate that is best only at twice the length; and one rate alone."""
    ends = {("transplant 0", 1e-3): (0.6, 0.7), ("transplant 0", 1e-2): (0.9, None)}
    ends |= {("shuffled 0", 1e-3): (0.3, 0.2), ("shuffled 0", 1e-2): (0.1, 0.4)}
    ends |= {("default", 1e-3): (0.2, 0.1), ("default", 1e-2): (None, None)}
    reached = {}
    for (arm, rate), seeds in ends.items():
        for seed, learns in enumerate(seeds):
            more = {} if arm == "default" else {"teacher_layer": 0, "scores": {"mask_ones": 0.5}}
            if arm.startswith("shuffled"):
                more["shuffled"] = True
            state, learns = ("failed", 1.0) if learns is None else ("done", learns)
            name = written["name_of"](arm, seed, rate)
            folder = tmp_path / "x" / name
            written["write_run"](folder, arm, seed, rate, learns=learns, state=state, **more)
            lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            for line in lines:
                if line["split"] == "eval":
                    value = 0.0 if state == "failed" else line["char"]
                    reached[arm, line["length"], seed, rate] = value

    def drawn(search):
        figure = answered(at(tmp_path, search))["runs-transplants.figure"]
        points = [t for t in figure.data if t.error_y.array is not None]
        found = {}
        for length, pair in ((25, points[:2]), (50, points[2:])):
            for name, trace in zip(("transplant 0", "shuffled 0"), pair, strict=True):
                found[name, length] = [trace.y[0], *trace.customdata[0]]
        lines = [s.y0 for s in figure.layout.shapes if s.type == "line"]
        return found | {("default", length): lines[k] for k, length in enumerate((25, 50))}

    for search, rates in (("", (1e-3, 1e-2)), ("rate=0.01", (1e-2,))):
        found = drawn(f"measure=char&{search}")
        for name, length in found:
            seeds = [np.mean([reached[name, length, s, rate] for rate in rates]) for s in (0, 1)]
            expected = [np.mean(seeds), min(seeds), max(seeds)]
            if name == "default":
                expected = expected[0]
            assert found[name, length] == pytest.approx(expected), (name, length, search)


def test_the_page_and_compare_choose_the_same_rate_while_a_sweep_runs(tmp_path):
    """At 3e-3 one of two seeds is not measured yet: it is missing, which is not 0."""
    for rate, seeds in ((1e-3, (0.6, 0.6)), (3e-3, (0.9, None))):
        for seed, learns in enumerate(seeds):
            folder = tmp_path / "x" / written["name_of"]("mimetic", seed, rate)
            state = "running" if learns is None else "done"
            written["write_run"](folder, "mimetic", seed, rate, learns=learns or 0.5, state=state)
            if learns is None:
                lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
                kept = "".join(line for line in lines if '"eval"' not in line)
                (folder / "metrics.jsonl").write_text(kept)
    (arm,) = compare(find_runs(tmp_path)).arms
    assert arm.best_rate == 3e-3
    answer = answered(at(tmp_path))
    assert "at its best learning rate (mimetic 0.003)" in answer["runs-status.children"]
    assert f"mean over all rates: mimetic {arm.overall:.3f}" in answer["runs-status.children"]
    assert "edge of the grid: mimetic (0.001, 0.003)" in answer["runs-status.children"]


def test_a_measure_without_words_has_a_column_and_can_be_looked_at(tmp_path):
    folder = written["write_run"](tmp_path / "s" / "one")
    with (folder / "metrics.jsonl").open("a") as stream:
        line = {"step": 999, "split": "eval", "length": 25, "edit_distance": 3.5, "seed": 0.5}
        stream.write(json.dumps(line) + "\n")
    answer = answered(at(tmp_path, "measure=edit_distance&length=25"))
    (row,) = answer["runs-table.rowData"]
    headers = [
        column["headerName"] for column in answer["runs-table.columnDefs"] if "headerName" in column
    ]
    assert "edit_distance at 25" in headers
    assert row["seed"] == 0, "the run's own, not the measure of this name"
    (line,) = (t for t in answer["runs-accuracy.figure"].data if t.showlegend is None)
    assert line.y[-1] == 3.5
    offered = str(page.offered(at(tmp_path)))
    assert "edit_distance" in offered


def test_scores_that_no_layer_has_are_not_offered(transplants):
    held = runs.legible(runs.listed(at(transplants).library))
    assert scores_known(held, page._SCORES) == ["mask_ones", "diagonal_sharpness"]


def test_a_run_leads_to_the_captures_of_its_training(tmp_path, write_capture):
    for name, steps in (("none", ()), ("one", (5,)), ("three", (0, 20, 100))):
        folder = written["write_run"](tmp_path / "sweep" / name)
        (folder / "captures").mkdir()
        for step in steps:
            write_capture(folder / "captures" / f"step-{step:06}.h5", layers=1, tokens=5)
    scene = at(tmp_path, "theme=dark")
    ids = {e.name: e.id for e in scene.library.entries("capture")}
    rows = {row["run"]: row for row in answered(scene)["runs-table.rowData"]}
    assert "maps" not in rows["none"]
    assert (rows["one"]["captures"], "change" in rows["one"]) == (1, False)
    assert rows["three"]["captures"] == 3
    first, last = ids["three/step-000000.h5"], ids["three/step-000100.h5"]
    page_name, search = rows["three"]["maps"].split("?")
    address, notes = parse(page_name, search, ("maps",))
    assert (address.page, address.capture, address.theme, notes) == ("maps", first, "dark", ())
    page_name, search = rows["three"]["change"].split("?")
    address, notes = parse(page_name, search, ("compare",))
    assert (address.page, address.capture, notes) == ("compare", first, ())
    assert [place.capture for place in address.against] == [last]


def test_many_arms_are_the_controls_and_the_best(transplants):
    answer = answered(at(transplants, "measure=char"))
    names = {t.name for t in answer["runs-loss.figure"].data if t.showlegend is None}
    assert len(names) == arms.MOST_ARMS
    assert {"default", "mimetic", "transplant 3"} <= names
    assert "8 of 10 arms drawn" in answer["runs-status.children"]


def test_a_sweep_without_transplants_has_no_such_figure(sweep):
    answer = answered(at(sweep))
    assert answer["runs-transplanted.hidden"]
    assert not answer["runs-rated.hidden"]


def test_the_folder_last_written_to_is_shown(sweep, tmp_path):
    for name in ("old", "new"):
        written["write_run"](tmp_path / name / "run", arm=name)
    past = time.time() - 9999
    for file in (tmp_path / "old" / "run").iterdir():
        os.utime(file, (past, past))
    library = Library([tmp_path])
    assert [it.run.arm for it in runs.listed(library)] == ["new"]
    old = next(it for it in runs.everywhere(library) if it.run.arm == "old")
    assert [it.run.arm for it in runs.listed(library, (old.folder,))] == ["old"]
    assert [it.run.arm for it in runs.listed(library, (old.entry.id,))] == ["old"]


def test_without_runs_the_page_says_what_to_do(tmp_path):
    answer = answered(at(tmp_path))
    assert (answer["runs-none.hidden"], answer["runs-all.hidden"]) == (False, True)
    assert page.watch(at(tmp_path)) == (runs.fingerprint([]), 10_000, False), (
        "it goes on looking, seldom"
    )
    assert "none found" in str(page.layout(at(tmp_path)))


def test_the_page_looks_again_while_something_runs(tmp_path):
    folder = written["write_run"](tmp_path / "a" / "run", state="running")
    scene = at(tmp_path)
    seen, interval, disabled = page.watch(scene)
    assert (interval, disabled) == (2_000, False)
    assert page.watch(scene, 1, seen)[0] is page.no_update
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 210, "split": "train", "loss": 0.125}\n')
    later, *_ = page.watch(scene, 2, seen)
    assert later not in (seen, page.no_update)
    assert answered(scene)["runs-loss.figure"].data[-1].y[-1] == 0.125
    (folder / "status.json").write_text('{"state": "done"}')
    past = time.time() - 120
    for file in folder.iterdir():
        os.utime(file, (past, past))
    assert page.watch(scene, 3, later)[2], "all are done"
    (folder / "status.json").write_text('{"state": "running"}')
    past = time.time() - 3600
    for file in folder.iterdir():
        os.utime(file, (past, past))
    assert page.watch(scene, 4, later)[2], "it says that it runs, and is silent"
    assert answered(scene)["runs-table.rowData"][0]["state"] == "silent"


def test_a_run_that_cannot_be_read_is_a_row_with_its_reason_and_no_path(sweep, tmp_path):
    written["write_run"](tmp_path / "s" / "good")
    bad = written["write_run"](tmp_path / "s" / "bad")
    with (bad / "metrics.jsonl").open("a") as stream:
        stream.write("nonsense\n")
    failed = written["write_run"](tmp_path / "s" / "failed", learns=0.0)
    (failed / "status.json").write_text('{"state": "failed", "error": "out of memory"}')
    answer = answered(at(tmp_path))
    rows = {row["run"]: row for row in answer["runs-table.rowData"]}
    assert rows["bad"]["state"] == "unreadable"
    assert "metrics.jsonl: line" in rows["bad"]["problem"]
    assert str(tmp_path) not in json.dumps(answer, default=str)
    assert rows["failed"]["problem"] == "out of memory"
    assert rows["failed"]["at char"] is not None, "what it had measured"
    assert "a failed run counts as 0" in answer["runs-status.children"]
    (line,) = (t for t in answer["runs-lengths.figure"].data if t.showlegend is None)
    good = runs.open_run(tmp_path / "s" / "good").metrics.final("char", 25)
    assert line.customdata[0].tolist() == pytest.approx([0, good, 2])
    assert line.y[0] == pytest.approx(good / 2)
    for name in ("loss", "accuracy"):
        (line,) = (t for t in answer[f"runs-{name}.figure"].data if t.showlegend is None)
        assert (line.customdata[:, 2] == 1).all(), "the curve of the failed one is not drawn"


def test_text_from_run_folders_is_only_text(tmp_path):
    for number, text in enumerate(HOSTILE):
        arm = text[:60].encode("utf-8", "replace").decode()
        folder = written["write_run"](
            tmp_path / "s" / f"r{number}", arm=arm, teacher_layer=number, scores={text[:60]: 0.5}
        )
        (folder / "status.json").write_text(
            json.dumps({"state": "failed" if number % 2 else "done", "error": text})
        )
    answer = answered(at(tmp_path))
    for name in ("loss", "accuracy", "lengths", "transplants"):
        text = answer[f"runs-{name}.figure"].to_json()
        for tag in (
            "<script",
            "<img",
            "<svg",
            "<a ",
            "<iframe",
            "<style",
            "<b ",
            "<object",
            "<sup",
        ):
            assert tag not in text.replace("\\u003c", "<")


def test_a_sweep_of_many_runs_is_small_on_the_wire(tmp_path):
    for arm in range(16):
        for seed in range(2):
            written["write_run"](
                tmp_path / "s" / f"{arm}-{seed}", arm=f"arm {arm}", seed=seed, steps=2000, every=1
            )
    answer = answered(at(tmp_path))
    figures = [
        value.to_json()
        for name, value in answer.items()
        if name.endswith("figure") and value is not page.no_update
    ]
    assert sum(map(len, figures)) + len(json.dumps(answer["runs-table.rowData"])) < 3_000_000


def test_a_table_is_as_high_as_its_rows_until_it_scrolls(tmp_path, sweep):
    written["write_run"](tmp_path / "s" / "run")
    few, many, none = (answered(at(folder)) for folder in (tmp_path, sweep, tmp_path / "s" / "run"))
    assert few["runs-table.style"]["height"] < 100
    assert many["runs-table.style"] == {"height": 400}
    assert none["runs-table.style"] == few["runs-table.style"]


def test_the_download_is_the_table_of_runs(sweep):
    data = page.PAGE.data(at(sweep))
    assert data.sizes == {"run": 18, "length": 3}
    assert sorted(set(data["arm"].values)) == ["default", "mimetic"]


def test_a_run_with_nothing_yet(tmp_path):
    folder = tmp_path / "s" / "new"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    answer = answered(at(tmp_path))
    (row,) = answer["runs-table.rowData"]
    assert (row["state"], row["loss"], row["at char"]) == ("starting", None, None)
    assert not any(answer[f"runs-{name}.figure"].data for name in ("loss", "accuracy", "lengths"))


@pytest.mark.parametrize("rate", [1e-3, 3e-4, 1e-05, 0.00012345, 2.0, 12345.5])
def test_what_is_chosen_is_in_the_address(rate):
    asked = Address(
        "runs", runs=("0123456789",), measure="char", length=100, rate=rate, limits="own"
    )
    assert parse("runs", asked.search, ("runs",)) == (asked, ())


@pytest.mark.parametrize("bad", ["nan", "inf", "-1", "1e999", "1_0", "", "0x1", "1" * 50])
def test_a_bad_learning_rate_falls_back_with_a_note(bad):
    address, notes = parse("runs", f"rate={bad}&measure=loss&limits=none", ("runs",))
    assert address == Address("runs")
    assert len(notes) == (3 if bad else 2)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (3.05, "3 s"), (59.6, "1 min 0 s"), (130, "2 min 10 s"), (3900, "1 h 5 min")],
)
def test_how_long_a_run_took_is_in_words(tmp_path, seconds, told):
    folder = written["write_run"](tmp_path / "s" / "run")
    status = {"state": "done", "step": 9, "steps": 9, "seconds": seconds}
    (folder / "status.json").write_text(json.dumps(status))
    (row,) = answered(at(tmp_path))["runs-table.rowData"]
    assert (row["seconds"], row["time"]) == (seconds, told)


def test_only_what_some_run_has_measured_is_offered(tmp_path):
    folder = tmp_path / "s" / "run"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(
        '{"step": 0, "split": "eval", "length": 5, "char": 0.5}\n'
    )
    for search, expected in (("measure=char", ["char"]), ("measure=string", ["char", "string"])):
        measures, *_ = page.offered(at(tmp_path, search))
        assert [option["value"] for option in measures.data] == expected
