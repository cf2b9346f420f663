"""Configs: what one is made into, and what is refused, in one line that names the flag."""

import dataclasses
import json
import math
import re
from collections import Counter

import pytest
import torch

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.inits.init import inits
from ssmlens.inits.mimetic import Mimetic
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.task import tasks
from ssmlens.training.architecture import model_config
from ssmlens.training.build import build_model
from ssmlens.training.config import TrainConfig
from ssmlens.training.optimiser import rate_at
from ssmlens.training.plan import check
from ssmlens.training.trainee import Trainee

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"task": "cpoy"}, "`task`: unknown task 'cpoy'; did you mean 'copy'?"),
        ({"task": "sort", "length": 600}, "`letters` of at least 600"),
        ({"task": "sort", "letters": 30}, "`eval_lengths` 40: the sort task needs `letters`"),
        ({"length": 0}, "the copy task needs `length` of at least 1, not 0"),
        ({"min_length": 30}, "`min_length` in 1..20"),
        ({"eval_lengths": (20, 0)}, "`eval_lengths` 0: the copy task needs `length` of at least 1"),
        ({"cue": "prefix"}, "`cue` does not go with `task` copy"),
        ({"n": 3, "task": "recall"}, "`n` does not go with `task` recall"),
        ({"layout": "zoo"}, "`layout` among"),
        ({"packing": True, "context": 10}, "`context` of at least 42"),
        ({"headdim": 48}, "`mixer` Mamba2 `headdim`: Mamba2 needs"),
        ({"mixer": "Mamba1", "headdim": 32}, "`mixer` Mamba1 `headdim`:"),
        ({"mixer": "Mamba4"}, "`mixer` 'Mamba4' is unknown; choose from: Mamba1"),
        ({"ngroups": 3}, "`mixer` Mamba2 `ngroups`:"),
        ({"attention_layers": (0,), "attention_heads": 3}, "`attention_heads` 3 does not divide"),
        ({"attention_heads": 0}, "`attention_heads` 0 does not divide"),
        ({"attention_layers": (2,)}, "`attention_layers` 2 is out of range: there are 0..1"),
        (
            {"attention_layers": (1,), "linear_attention_layers": (1,)},
            "block 1 is in `attention_layers` and in `linear_attention_layers`",
        ),
        ({"linear_attention_layers": (1,), "linear_attention": "Linear"}, "'Linear'"),
        ({"init": "mimetc"}, "`init`: unknown init 'mimetc'; did you mean 'mimetic'?"),
        ({"c": 4.0}, "`c` does not go with `init` mamba-ssm"),
        ({"init": "mimetic", "components": ("A", "X")}, "`components` must be some of"),
        ({"init": "mimetic", "c": -1.0}, "`c` must be positive"),
        ({"init": "mimetic", "shuffled": True}, "`shuffled` does not go with `init` mimetic"),
        ({"init": "transplant", "teacher": "m"}, "`init` transplant needs `teacher_layer`"),
        ({"init": "mimetic", "init_from": "m"}, "`init_from` does not go with `init`"),
        ({"steps": 0}, "`steps` is at least 1, not 0"),
        ({"batch": 0}, "`batch` is at least 1"),
        ({"learning_rate": math.nan}, "`learning_rate` is positive, not nan"),
        ({"clip": math.nan}, "`clip` is at least 0, not nan"),
        ({"seed": -1}, "`seed` is at least 0"),
        ({"seed": 2**31}, "`seed` is below 2^31"),
        ({"headdim": 0}, "`headdim` is at least 1, not 0"),
        ({"d_conv": 0}, "`d_conv` is at least 1, not 0"),
        ({"d_model": 60}, "`mixer` Mamba2 `headdim` `ngroups`: Mamba2 needs"),
        ({"capture_at": (5000,)}, "`capture_at` 5000 is not a step of this run: 0..2000"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_flag(fields, told):
    with pytest.raises(UsageError) as refused:
        check(dataclasses.replace(TrainConfig(), **fields))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"steps": "5"}, "`steps` is int, not '5'"),
        ({"min_length": 2.5}, "`min_length` is int | None, not 2.5"),
        ({"eval_lengths": 0}, "`eval_lengths` is tuple[int, ...], not 0"),
        ({"capture_at": (1, "2")}, "`capture_at` is tuple[int, ...], not (1, '2')"),
        ({"schedule": "sudden"}, "`schedule` is linear or cosine, not 'sudden'"),
        ({"precision": "fp16"}, "`precision` is fp32 or bf16, not 'fp16'"),
        ({"learning_rate": "fast"}, "`learning_rate` is float | int, not 'fast'"),
        ({"bc_mix": (1, None)}, "`bc_mix` is tuple[float | int, float | int] | None"),
        ({"shuffled": None}, "`shuffled` is bool, not None"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_flag(fields, told):
    """From a file, and where a caller of Python has not looked: the tests' own type checks would."""
    with pytest.raises(UsageError, match=re.escape(told)):
        TrainConfig.from_dict(fields)
    config = TrainConfig()
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    with pytest.raises(UsageError, match=re.escape(told)):
        check(config)


def test_every_option_of_every_task_and_init_has_a_flag():
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    named = {"count": "batch", "layers": "init_layers", "student_layers": "init_layers"}
    named |= {"layer": "teacher_layer", "force": "init"}
    for registry in (tasks, inits):
        for name in registry:
            for field in dataclasses.fields(registry[name]):
                assert named.get(field.name, field.name) in fields, (name, field.name)


def test_options_reach_the_task_and_those_left_out_are_its_own():
    task = check(TrainConfig(task="ngram", length=30, n=2, cue="prefix", batch=5)).task
    own = tasks["ngram"](length=30, n=2, cue="prefix", count=5)
    assert task == own
    unpacked = check(TrainConfig(layout="jelassi", packing=False)).task
    assert not unpacked.packs


def test_a_config_is_its_dictionary():
    config = TrainConfig(init="mimetic", components=("A", "BC"), c=4, bc_mix=(0, 1), clip=1)
    told = config.to_dict()
    assert TrainConfig.from_dict(told).to_dict() == told
    assert TrainConfig.from_dict(told).digest() == config.digest()
    assert dataclasses.replace(config, c=4.0, clip=1.0).digest() == config.digest()
    assert dataclasses.replace(config, seed=1).digest() != config.digest()
    with pytest.raises(UsageError, match="has no lerning_rate; did you mean learning_rate"):
        TrainConfig.from_dict({"lerning_rate": 1})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "config.json cannot be read: there is no such file"),
        ("{", "config.json cannot be read: "),
        ("\xff", "config.json cannot be read: "),
        ("[1]", "config.json cannot be read: it is not a JSON object"),
        ('{"steps": "5"}', "`steps` is int, not '5'"),
        ('{"stpes": 5}', "a training config has no stpes; did you mean steps?"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_a_line(tmp_path, text, told):
    file = tmp_path / "config.json"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=re.escape(told).replace(r"\.\*", ".*")) as refused:
        TrainConfig.read(file)
    assert "\n" not in str(refused.value)


def test_a_config_is_what_its_file_says(tmp_path):
    config = TrainConfig(init="mimetic", bc_mix=(0, 1), eval_lengths=(3, 5))
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert TrainConfig.read(tmp_path / "config.json").digest() == config.digest()


@pytest.mark.parametrize(
    ("fields", "arm"),
    [
        ({}, "default"),
        ({"init": "transformers"}, "transformers"),
        ({"init": "mimetic", "components": ("A", "BC"), "c": 4.0}, "mimetic A+BC c=4"),
        ({"init": "mimetic", "init_layers": (0, 2)}, "mimetic layers 0,2"),
        ({"init": "transplant", "teacher": "m", "teacher_layer": 0}, "transplant 0"),
        ({"init": "transplant", "teacher_layer": 3, "shuffled": True}, "shuffled 3"),
        ({"init_from": "m"}, "fine-tuned"),
        ({"init": "mimetic", "arm": "mine"}, "mine"),
    ],
)
def test_arms_have_names(fields, arm):
    assert TrainConfig(**fields).arm_name == arm


def test_a_config_starts_from_fresh_models_alone():
    """`force`, which lets the mimetic init change a trained model, is for Python."""
    with pytest.raises(TypeError, match="force"):
        TrainConfig(init="mimetic", force=True)


def test_models_start_as_the_init_says_and_the_seed_decides_the_draw():
    def model(**fields):
        config = TrainConfig(d_model=32, d_state=16, headdim=16, **fields)
        return build_model(check(config), CPU)

    default, mimetic, other = model(), model(init="mimetic"), model(seed=1)
    state = torch.get_rng_state()
    again = model()
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in default.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert not torch.equal(default.lm_head.weight, other.lm_head.weight)
    first, second = (m.backbone.layers[0].mixer for m in (default, mimetic))
    torch.testing.assert_close(second.A_log, -8 * first.A_log)
    assert (second.dt_bias == math.log(math.e - 1)).all()


def test_a_teachers_layer_and_a_checkpoint():
    teacher = ssmlens.load_model("copy-mamba1-mimetic")
    shape = {"mixer": "Mamba1", "d_model": 192, "d_state": 32}
    config = TrainConfig(
        init="transplant", teacher="copy-mamba1-mimetic", teacher_layer=3, letters=40, **shape
    )
    student = build_model(check(config), CPU)
    taken = teacher.backbone.layers[3].state_dict()
    for block in student.backbone.layers:
        assert all(torch.equal(w, taken[name]) for name, w in block.state_dict().items())

    kept = TrainConfig(init_from="copy-mamba1-mimetic")
    tuned = build_model(check(kept), CPU)
    assert torch.equal(tuned.lm_head.weight, teacher.lm_head.weight)
    assert tuned.training
    many = TrainConfig(init_from="copy-mamba1-mimetic", letters=40)
    with pytest.raises(UsageError, match=r"has 32 tokens, the copy task has 43; .*redraw"):
        build_model(check(many), CPU)
    redrawn = dataclasses.replace(many, embeddings="redraw")
    model = build_model(check(redrawn), CPU)
    assert model.lm_head.weight.shape == (48, 192)
    assert abs(model.lm_head.weight.std() - 0.02) < 0.001
    assert model.lm_head.weight is model.backbone.embedding.weight
    assert torch.equal(model.backbone.layers[0].norm.weight, teacher.backbone.layers[0].norm.weight)


def test_attention_is_causal():
    config = TrainConfig(attention_layers=(0,), linear_attention_layers=(1,), attention_heads=4)
    model = build_model(check(config), CPU)
    tokens = check(config).task.build(0).tokens[:2]
    changed = tokens.clone()
    changed[:, 20:] = 3
    seen, other = model(tokens).logits, model(changed).logits
    assert torch.equal(seen[:, :20], other[:, :20])
    assert not torch.equal(seen[:, 20:], other[:, 20:])
    assert model_config(config, 29).vocab_size == 29


def test_the_learning_rate_rises_and_falls():
    linear = TrainConfig(steps=110, warmup=10, learning_rate=1.0)
    rates = [rate_at(step, 110, linear) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([1 - i / 100 for i in range(100)])
    cosine = dataclasses.replace(linear, schedule="cosine")
    assert rate_at(60, 110, cosine) == pytest.approx(0.5)
    floored = dataclasses.replace(cosine, final_rate=0.1)
    assert rate_at(60, 110, floored) == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate_at(9, 110, floored) == rate_at(9, 110, cosine), "warming up"
    assert rate_at(35, 110, cosine) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    all_warmup = TrainConfig(steps=5, warmup=10, learning_rate=1.0)
    assert rate_at(4, 5, all_warmup) == 0.5
    assert rate_at(0, 5, TrainConfig(steps=5, warmup=0, learning_rate=1.0)) == 1.0


def test_what_is_checked_is_what_is_trained_and_nothing_is_built_twice(tiny, monkeypatch):
    """Of a config with its own init: the task, an exam a length, the init, and one model, on the device itself."""
    built = Counter()

    def count(owner, name):
        whole = getattr(owner, name)

        def counted(self, *args, **kwargs):
            built[owner.__name__] += 1
            whole(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(Copy, "__post_init__")
    count(Mimetic, "__post_init__")
    count(MambaConfig, "__post_init__")
    count(MambaLM, "__init__")
    plan = check(tiny(init="mimetic"))
    assert built == {"Copy": 3, "Mimetic": 1, "MambaConfig": 1}
    trainee = Trainee(plan, CPU)
    assert built == {"Copy": 3, "Mimetic": 1, "MambaConfig": 1, "MambaLM": 1}
    assert trainee.task is plan.task
    assert trainee.model.config is plan.architecture
    assert set(plan.exams) == {4, 8}


def test_attention_in_every_block_does_not_hide_an_impossible_mixer():
    with pytest.raises(UsageError, match="`mixer` Mamba2 `headdim`"):
        check(TrainConfig(attention_layers=(0, 1), headdim=48))
