"""`ssmlens sweep` and `ssmlens compare`."""

import pytest

from ssmlens.cli.sweep import combinations
from ssmlens.errors import UsageError
from ssmlens.tasks.task import tasks
from ssmlens.training.config import TrainConfig

TINY = {
    "--length": 4,
    "--letters": 5,
    "--d-model": 16,
    "--n-layer": 1,
    "--d-state": 8,
    "--headdim": 8,
    "--steps": 4,
    "--batch": 8,
    "--eval-every": 2,
    "--eval-count": 16,
    "--device": "cpu",
}
SMALL = [word for option in TINY.items() for word in option]


def test_a_sweep_and_its_comparison(cli, here):
    axes = ["--axis", "init=mamba-ssm,mimetic", "learning-rate=1e-3", "seed=0,1"]
    said = cli("sweep", *SMALL, *axes, "--out", "sweep")
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == "sweep: 4 runs, 4 done"
    assert "ssmlens compare sweep" in said.out
    again = cli("sweep", *SMALL, *axes, "--out", "sweep", "--json")
    assert len(again.json["runs"]) == len(list((here / "sweep").iterdir())) == 4

    told = cli("compare", "sweep")
    assert told.code == 0, told.err
    title, header, *rows, verdict = told.out.splitlines()
    assert title == "characters right at length 4"
    assert header.split()[:3] == ["arm", "all", "rates"]
    assert sorted(row.split()[0] for row in rows) == ["default", "mimetic"]
    assert verdict.startswith("no winner")
    at_8 = cli("compare", "sweep", "--length", 8, "--measure", "string", "--json").json
    assert (at_8["length"], at_8["measure"], at_8["winner"]) == (8, "string", None)
    assert {arm["arm"]: arm["seeds"] for arm in at_8["arms"]} == {"default": 2, "mimetic": 2}


def test_a_sweep_with_runs_that_failed_says_each_and_ends_with_1(cli):
    wild = ["--clip", 0, "--warmup", 0, "--out", "sweep", "--steps", 10]
    rates = [f"learning-rate=1e-3,{','.join(f'1e3{k}' for k in range(6))}"]
    said = cli("sweep", *SMALL, *wild, "--axis", *rates)
    assert said.code == 1
    title, *failed, _ = said.out.splitlines()
    assert title == "sweep: 7 runs, 1 done, 6 failed"
    assert len(failed) == 6, "one line each"
    assert all("-seed0-" in line and ": the loss is nan at step" in line for line in failed)
    again = cli("sweep", *SMALL, *wild, "--axis", *rates, "--json")
    assert again.code == 1, "they stay so"
    assert sorted(run["state"] for run in again.json["runs"]) == ["done"] + ["failed"] * 6
    assert sum("the loss is nan" in run["error"] for run in again.json["runs"]) == 6


def test_a_task_that_the_file_of_configs_registers_is_trained_by_workers(cli, here):
    (here / "mine.py").write_text(
        """
import dataclasses
from ssmlens import TrainConfig
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.task import tasks

@tasks.register("mycopy")
@dataclasses.dataclass(frozen=True)
class MyCopy(Copy):
    pass

small = TrainConfig(task="mycopy", length=4, letters=5, d_model=16, n_layer=1, d_state=8)
configs = [dataclasses.replace(small, headdim=8, steps=2, batch=2, eval_count=2)]
"""
    )
    try:
        said = cli("sweep", "--configs", "mine.py", "--device", "cpu", "--out", "sweep")
    finally:
        tasks._entries.pop("mycopy", None)
    assert said.code == 0, said.out + said.err
    assert said.out.splitlines()[0] == "sweep: 1 runs, 1 done"


def test_axes_make_every_combination():
    base = TrainConfig(task="sort", letters=64)
    made = combinations(base, ("init=mamba-ssm,mimetic", "c=4,8", "components=A,A+BC", "n-layer=3"))
    assert len(made) == 8
    assert {(m.init, m.c, m.components, m.n_layer) for m in made} == {
        (init, c, components, 3)
        for init in ("mamba-ssm", "mimetic")
        for c in (4.0, 8.0)
        for components in (("A",), ("A", "BC"))
    }
    assert all((m.task, m.letters) == ("sort", 64) for m in made)
    with pytest.raises(UsageError, match="a name is repeated"):
        combinations(base, ("seed=1", "seed=2"))


def test_a_python_file_of_configs(cli, here):
    (here / "mine.py").write_text(
        "from ssmlens import TrainConfig\nconfigs = [TrainConfig(steps=0)]\n"
    )
    said = cli("sweep", "--configs", "mine.py")
    assert said.complaint == "config 0 (default): --steps is at least 1, not 0"
    head = "from ssmlens import TrainConfig\n"
    for text, told in {
        "configs = 3": "--configs other.py: it must define configs, a list of TrainConfig",
        "configs = []": "--configs other.py: it must define configs, a list of TrainConfig",
        "configs = [": "--configs other.py: SyntaxError: '[' was never closed",
        "configs = [TrainConfig(lerning_rate=1)]": "--configs other.py, line 2: TypeError: ",
        "configs = [TrainConfig(task='cpoy')]": "--task: unknown task 'cpoy'; did you mean 'copy'",
        "configs = [TrainConfig(task='sort', length=600)]": "--letters of at least 600",
        "configs = [TrainConfig(eval_lengths=(0,))]": "--eval-lengths 0: the copy task needs",
        "configs = [TrainConfig(headdim=48)]": "--mixer Mamba2 --headdim",
    }.items():
        (here / "other.py").write_text(head + text)
        refused = cli("sweep", "--configs", "other.py")
        assert (refused.code, told in refused.complaint) == (2, True), (text, refused.err)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "there is no axis: give --axis"),
        ("--axis seed", "--axis 'seed' is not name=value,value"),
        ("--axis sed=1", "--axis 'sed=1': there is no option --sed"),
        ("--axis learning-rate=fast", "--learning-rate"),
        ("--axis seed=0,1 --shard 3/2", "shard 3/2: i/N needs 1 ≤ i ≤ N"),
        ("--axis seed=0,1 --shard 3", "--shard is i/N"),
        ("--axis seed=0,1 --workers 0", "--workers is at least 1, not 0"),
        ("--axis headdim=64,48", "config 1 (default): --mixer Mamba2 --headdim"),
        ("--configs nowhere.py", "--configs nowhere.py: there is no such file"),
        ("--configs nowhere.py --axis seed=0", "--configs does not go with --axis"),
        ("--engine slurm --axis seed=0", "--engine"),
        ("--axis seed=0,1 --pack 0", "--pack is at least 1, not 0"),
        ("--axis seed=0,1 --hang-after nan", "--hang-after is above 0, not nan"),
        ("--axis seed=0,1 --gpus-per-worker 1", "--gpus-per-worker and --cpus-per-worker need"),
        ("--axis seed=0,1 --task cpoy", "--task: unknown task 'cpoy'; did you mean 'copy'?"),
        ("--axis task=sort length=20,600", "the sort task needs --letters of at least 600"),
        ("--axis eval-lengths=4,0", "--eval-lengths 0: the copy task needs --length of at least"),
        ("--axis attention-heads=1,3 --attention-layers 0", "--attention-heads 3 does not divide"),
        ("--axis schedule=sudden", "--schedule"),
        ("--axis seed=0,1 --lerning-rate 1", "--lerning-rate"),
    ],
)
def test_bad_use_of_sweep(cli, here, words, told):
    said = cli("sweep", *words.split())
    assert said.code == 2
    assert told in said.complaint
    assert list(here.iterdir()) == []


def test_bad_use_of_compare(cli, here):
    assert "there is no folder nowhere" in cli("compare", "nowhere").complaint
    (here / "empty").mkdir()
    assert "there is no run to compare" in cli("compare", "empty").complaint
