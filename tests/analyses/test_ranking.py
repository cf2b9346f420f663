"""The ranking experiment: its order, its parts, and its analysis on made-up teachers whose answers are known."""

import copy
import json

import numpy as np
import pytest
import torch
from pages import section

from analyses.ranking import analysis, corpora, experiment, parts, report
from analyses.ranking.scoring import ablation
from analyses.results_file import keep
from ssmlens.adapters.load import load_model
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.runs.run import find_runs, open_run
from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.repeat import Repeat
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path

RANKED = [17, 9, 15, *(n for n in range(24) if n not in (9, 15, 17))]


def configs(ranked=RANKED, rates=(1e-3, 3e-3), seeds=(0, 1)):
    return experiment.student_configs(experiment.STUDENT, "t", ranked, rates, seeds)


def test_all_students_in_the_order_that_was_fixed():
    found = configs()
    assert len({config.digest() for config in found}) == len(found) == 276
    arms = [config.arm_name for config in found]
    real = [f"transplant {n}" for n in range(24) for _ in range(2)]
    alone = [name for name in ("default", "mimetic", "mimetic A") for _ in range(2)]
    shuffled = [f"shuffled {n}" for n in range(24) for _ in range(2)]
    first = [*real, *alone, *shuffled]
    assert arms[:204] == first * 2
    six = sorted([RANKED[k - 1] for k in (1, 2, 12, 13, 23, 24)])
    last = [f"{c} {n}" for c in experiment.CONTROLS_OF_SIX for n in six for _ in range(2)]
    assert arms[204:] == last * 2
    assert [config.seed for config in found] == [0] * 102 + [1] * 102 + [0] * 36 + [1] * 36
    assert {config.learning_rate for config in found[:2]} == {1e-3, 3e-3}
    check(found[0])
    check(experiment.TEACHER.from_dict(experiment.TEACHER.to_dict() | {"text": "t"}))


def test_six_of_a_teacher_of_few_layers():
    assert experiment.six([2, 0, 1]) == [2, 0, 1]
    assert experiment.six(list(range(6))) == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def model():
    torch.manual_seed(0)
    shape = {"d_model": 16, "n_layer": 2, "vocab_size": 256}
    return MambaLM(MambaConfig(**shape, ssm_cfg={"layer": "Mamba1", "d_state": 4}))


def test_ablation_is_what_is_lost_without_the_layers_output(model, monkeypatch):
    """Against models whose out_proj is set to zero by hand, with the spread of the logits for accuracy."""

    def spread(made, batch):
        return {"char": float(made(batch.tokens).logits.detach().std())}

    monkeypatch.setattr("analyses.ranking.scoring.measure", spread)
    lost = ablation(model, count=3, letters=5)
    exam = Repeat(5, 3, vocab_size=127, first_token=32).build(batch_seed(1, 5, held_out=True))
    for layer in (0, 1):
        without = copy.deepcopy(model)
        torch.nn.init.zeros_(without.backbone.layers[layer].mixer.out_proj.weight)
        difference = spread(model, exam)["char"] - spread(without, exam)["char"]
        assert lost[layer] == pytest.approx(difference, abs=1e-6)
        assert difference != 0


def test_weights_travel_in_parts(model, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    save_file(state, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text(json.dumps(model.config.to_dict()))
    (checkpoint / "vocabulary.json").write_text(json.dumps(["a"]))
    monkeypatch.setattr(parts, "_MOST", 4000)
    files = parts.save(checkpoint, tmp_path / "parts")
    assert len(files) > 2
    parts.join(tmp_path / "parts", tmp_path / "joined")
    joined = load_model(tmp_path / "joined", backend="torch").state_dict()
    assert joined.keys() == state.keys()
    for name, weight in state.items():
        assert torch.equal(joined[name], weight.to(torch.bfloat16).float()), name


def test_text_of_markup():
    page = b"<html><head><title>no</title></head><body><h1>A &amp; B</h1><p>one\n</p><script>x()</script></body>"
    assert corpora._text("a.html", page, "html").split() == b"A & B one".split()
    roff = b'.\\" licence\n.TH LS 1\nlists files\n'
    assert corpora._text("ls.1", roff, "roff") == b"lists files"
    assert corpora._text("a.txt", b"\x00\x01", "text") == b""
    source = corpora.Source("linux-doc", "1", ".*", "text", 2)
    assert corpora._work(source, "usr/share/net/a.rst") == "linux-doc-net"
    assert corpora._work(source, "usr/share/a.rst") == "linux-doc-pages"


def write_teacher(folder, name, skill, scores, char_at_64=0.9, layers=9):
    """A teacher whose students reach `skill(layer)`; shuffled .1, memory-only half way, the rest as real."""
    ranked = sorted(range(layers), key=lambda n: -scores["induction_score"](n))
    out, runs = folder / "runs" / name, folder / "results" / name
    runs.mkdir(parents=True)
    for config in configs(ranked, (1e-3,), (0, 1)):
        layer = config.teacher_layer
        real = 0.1 if layer is None else skill(layer) + config.seed * 0.01
        halves = {"memory-only": 0.1 + (real - 0.1) / 2, "gaussian": 0.1}
        char = 0.1 if config.shuffled else halves.get(config.control or "", real)
        with RunFolder(run_path(out, config), config) as run:
            for step in (0, 1):
                run.measure(step, "eval", 50, loss=2 - char, char=char)
                run.measure(step, "eval", 100, loss=2 - char, char=char)
            if layer is not None:
                run.write_scores(layer, {n: score(layer) for n, score in scores.items()})
            run.write_status("done", 1, 1, 1.0)
    keep([open_run(path) for path in find_runs(out)], runs / "results.json", {})
    curve = {"step": [1], "char": [char_at_64], "bits": [1.5]}
    told = {
        "name": name,
        "ranked": ranked,
        "gate": char_at_64 >= 0.5,
        "run": {"eval": {"64": curve}},
    }
    (runs / "teacher.json").write_text(json.dumps(told))


@pytest.fixture
def scores():
    """The order of skill, noise of its own, and what the covariates are."""
    noise = np.random.default_rng(1).normal(size=(3, 9))
    return {
        "induction_score": lambda n: float((n * 4) % 9),
        "mask_ones": lambda n: float(noise[0, n]),
        "memory_length": lambda n: float(noise[1, n]),
        "log_scale": lambda n: float(noise[2, n]),
    }


def skill(n):
    return 0.2 + ((n * 4) % 9) / 12


def test_a_score_that_orders_the_students_predicts(tmp_path, scores):
    for name in ("P0", "C0"):
        write_teacher(tmp_path, name, skill, scores)
    teachers = analysis.read_teachers(tmp_path / "results")
    assert [teacher.name for teacher in teachers] == ["C0", "P0"]
    assert teachers[0].table.real.shape == (9, 2)
    assert analysis.verdict(teachers).startswith(
        "induction_score ranks transplant candidates: ρ = 1.00"
    )
    assert analysis.some_layers_are_better(teachers)
    gains = analysis.shares_of_gain(teachers[0])
    assert gains["memory-only"]["share"] == pytest.approx(0.5, rel=1e-4)
    assert gains["memory-out"]["share"] == pytest.approx(1, rel=1e-4)
    assert gains["shuffled"]["share"] == pytest.approx(0, abs=1e-4)
    found, weights = analysis.held_out(teachers)
    assert min(found.by_teacher) > 0.9
    for fitted in weights.values():
        assert fitted[0] == pytest.approx(1, abs=0.05), "all weight on the score that orders them"
    page = report.tables(teachers)
    assert page.startswith("**Verdict**: induction_score ranks transplant candidates")
    assert "| C0" in page
    assert "layer by layer" in page
    assert "## Exploratory" not in page, "both teachers count by the rule"


def test_a_score_of_nothing_does_not(tmp_path, scores):
    other = np.random.default_rng(5).permutation(9) / 12
    for name in ("P0", "C0"):
        write_teacher(tmp_path, name, lambda n: 0.2 + float(other[n]), scores)
    said = analysis.verdict(analysis.read_teachers(tmp_path / "results"))
    assert said.startswith("finds attention-like layers; did not predict transplants")


def test_nothing_is_concluded_without_a_teacher():
    assert analysis.verdict([]).startswith("no teacher passes the gate")


def test_a_teacher_below_the_gate_does_not_count(tmp_path, scores):
    write_teacher(tmp_path, "P0", skill, scores, char_at_64=0.4)
    write_teacher(tmp_path, "C0", skill, scores)
    teachers = analysis.read_teachers(tmp_path / "results")
    assert analysis.verdict(teachers).startswith("1 teacher passes the gate")
    page = report.tables(teachers)
    assert "1 of 2 teachers passed the gate; failed: P0." in page
    exploratory = section(page, "Exploratory: every teacher counted, Y1")
    assert "Not part of the rule" in exploratory
    (row,) = [line for line in exploratory.splitlines() if line.startswith("| induction_score")]
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["1.00"] * 3
    assert "| combination, held out" in exploratory
