"""Parts of a config: who declares an option, and that folders named by earlier configs are still found."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ssmlens.errors import UsageError
from ssmlens.inits.default import Transformers
from ssmlens.inits.init import inits
from ssmlens.options import option, option_of
from ssmlens.runs.run import FIRST_STARTS
from ssmlens.tasks.copy import Copy
from ssmlens.training import config as module
from ssmlens.training import run_folder
from ssmlens.training.config import PARTS, STARTS, TrainConfig, part_of
from ssmlens.training.gather import with_options
from ssmlens.training.init_options import InitOptions, arm_name
from ssmlens.training.run_folder import RunFolder
from ssmlens.training.sweep import run_path

ANALYSES = Path(__file__).parents[2] / "analyses"
# Folder names as the first version made them.
EARLIER = [
    ({}, "copy-default-lr0.001-seed0-b940fc0b39e4"),
    (
        {"init": "mimetic", "components": ("A", "BC"), "c": 4, "bc_mix": (0, 1), "seed": 2},
        "copy-mimetic-A+BC-c=4-lr0.001-seed2-089d122c325e",
    ),
    (
        {"task": "recall", "layout": "zoology", "letters": 512, "length": 16}
        | {"context": 64, "power": 1},
        "recall-default-lr0.001-seed0-3304ec003e28",
    ),
    (
        {"init": "transplant", "teacher": "copy-mamba1-mimetic", "teacher_layer": 3}
        | {"shuffled": True, "mixer": "Mamba1", "learning_rate": 3e-3},
        "copy-shuffled-3-lr0.003-seed0-34d143e60ee6",
    ),
    (
        {"init_from": "m", "embeddings": "redraw", "eval_lengths": (3, 5)}
        | {"free_running": True, "clip": 0},
        "copy-fine-tuned-lr0.001-seed0-9049e3fcbec1",
    ),
]
KEPT = {
    "components": "8ab81b40024d5c4bf8a01f2ef9eb2160f479a056279319750303455bb03be3d5",
    "transplant": "5d6ccd07e7fe15cfd381757692885a66fd44210db619c77166f4464535dbcca9",
}
"""sha256 of the names that the first version gave to the folders of the runs kept under analyses/."""


@pytest.mark.parametrize(("fields", "name"), EARLIER)
def test_folders_are_named_as_the_first_version_named_them(fields, name):
    assert run_path(Path(), TrainConfig(**fields)).name == name


@pytest.mark.parametrize("experiment", KEPT)
def test_runs_that_were_kept_are_found_under_their_names(experiment):
    kept = json.loads((ANALYSES / experiment / "results.json").read_text())
    configs = [TrainConfig.from_dict(kept["common"] | run["config"]) for run in kept["runs"]]
    names = "\n".join(run_path(Path(), config).name for config in configs)
    assert hashlib.sha256(names.encode()).hexdigest() == KEPT[experiment]


def grown(part, *fields):
    """The config with more fields in one of its parts, as it is when somebody has added an option there."""
    keywords = {"frozen": True, "kw_only": True}
    larger = dataclasses.make_dataclass(part, fields, bases=(PARTS[part],), **keywords)
    return dataclasses.make_dataclass("Grown", [], bases=(TrainConfig, larger), **keywords)


@pytest.mark.parametrize("part", PARTS)
def test_a_new_option_with_a_default_orphans_no_sweep(part):
    fields = [("momentum", float | None, None), ("depth_first", bool, False), ("order", int, 3)]
    larger = grown(part, *fields)
    for given, name in EARLIER:
        assert run_path(Path(), larger(**given)).name == name
        assert larger(**given).to_dict() == TrainConfig(**given).to_dict()
    other = larger(order=4)
    assert other.digest() != TrainConfig().digest()
    assert other.to_dict()["order"] == 4
    assert larger.from_dict(other.to_dict()).digest() == other.digest()


def renamed(part, old, new) -> Any:
    """The config with an option of a part called otherwise, as it is when somebody has renamed it there."""
    kept = [(f.name, f.type, f) for f in dataclasses.fields(TrainConfig) if f.name != old]
    (field,) = (f for f in dataclasses.fields(PARTS[part]) if f.name == old)
    kept.append((new, field.type, option(field.default, was=old)))
    names = ("arm_name", "name", "to_dict", "from_dict", "digest")
    methods = {name: vars(TrainConfig)[name] for name in names}
    return dataclasses.make_dataclass("Renamed", kept, namespace=methods, frozen=True, kw_only=True)


@pytest.mark.parametrize(
    ("part", "old", "value"),
    [("optimiser", "clip", 0), ("init", "embeddings", "redraw"), ("task", "power", 1)],
)
def test_a_renamed_option_orphans_no_sweep_and_old_files_are_read(part, old, value):
    later = renamed(part, old, "other_name")
    for given, name in EARLIER:
        called = {"other_name" if key == old else key: it for key, it in given.items()}
        config = later(**called)
        assert f"{config.name}-{config.digest()[:12]}" == name
    before = TrainConfig.from_dict({old: value})
    read = later.from_dict(before.to_dict())
    assert read.other_name == value
    assert read.digest() == before.digest()
    assert later.from_dict(read.to_dict()) == read
    assert old not in read.to_dict()


def test_an_option_that_an_init_renamed_says_so_in_the_config():
    @dataclasses.dataclass(frozen=True)
    class Wide(Transformers):
        """Wider."""

        breadth: int = option(2, was="width")

    fields = dataclasses.fields(with_options(InitOptions, {"wide": Wide}))
    assert {option_of(f).was for f in fields if f.name == "breadth"} == {"width"}


def test_a_run_that_sets_a_newer_option_is_another_run(tmp_path, monkeypatch):
    """Also where the folder was made before there was such an option."""
    with RunFolder(tmp_path / "run", TrainConfig()):
        pass
    larger = grown("optimiser", ("order", int, 3))
    monkeypatch.setattr(run_folder, "TrainConfig", larger)
    with RunFolder(tmp_path / "run", larger()):
        pass
    with pytest.raises(UsageError, match="has a run with order 3, not 4"):
        RunFolder(tmp_path / "run", larger(order=4))


def test_an_option_that_a_task_declares_is_one_of_the_config():
    @dataclasses.dataclass(frozen=True)
    class Backwards(Copy):
        """Copy backwards.

        Attributes:
            twice: Whether it is said twice.
            gap: Tokens between.
            marks: Which marks.
            hidden: Nothing that a config sets.
        """

        twice: bool = False
        gap: int = option(3, name="gap_tokens")
        marks: tuple[str, ...] | None = None
        hidden: int = option(0, offered=False)

    part = with_options(PARTS["task"], {"backwards": Backwards}, elsewhere=("batch",))
    new = {f.name: (f.type, f.default) for f in dataclasses.fields(part)}
    assert new["twice"] == (bool, False)
    assert new["gap_tokens"] == (int | None, None)
    assert new["marks"] == (tuple[str, ...], ())
    assert new["length"] == (int, 20), "as it was"
    assert not {"hidden", "gap", "batch", "count"} & new.keys()


def test_an_option_that_an_init_declares_is_in_the_name_of_its_arms(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Wide(Transformers):
        """Wider.

        Attributes:
            width: How wide.
            quiet: Something that arms are not told apart by.
        """

        width: int = 2
        quiet: int = option(1, in_arm=None)

    part = with_options(InitOptions, {"wide": Wide})
    monkeypatch.setitem(inits._entries, "wide", Wide)
    assert arm_name(part(init="wide", width=3, quiet=7)) == "wide width=3"
    assert arm_name(part(init="wide", std=0.5)) == "wide std=0.5"


def test_what_a_model_starts_as_is_said_in_its_folder(tmp_path):
    assert STARTS >= FIRST_STARTS, "options that came later are read from config.json"
    with RunFolder(tmp_path / "run", TrainConfig()) as folder:
        told = json.loads((folder.path / "config.json").read_text())
    assert told.pop("start") == sorted(STARTS)
    assert told == TrainConfig().to_dict()
    assert TrainConfig.read(tmp_path / "run" / "config.json") == TrainConfig(arm="default")


def test_every_field_is_of_one_part():
    counted = [name for part in PARTS.values() for name in part_of(part)]
    assert sorted(counted) == sorted(part_of(TrainConfig))
    assert part_of(TrainConfig) >= module._FIRST
