"""Transplants, checked on the parameters themselves and on what the blocks compute."""

import copy

import pytest
import torch
from layer_changes import changed, state_of

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.errors import UsageError
from ssmlens.inits.init import inits
from ssmlens.inits.transplant import Transplant
from ssmlens.models.mamba_lm import MambaConfig, MambaLM


@pytest.fixture
def trained(build):
    """A model whose every parameter is its own."""

    def make(family, **options):
        model = build(family, **options)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make


PAIRS = [
    ("ssmlens mamba", "ssmlens mamba"),
    ("ssmlens mamba2", "ssmlens mamba2"),
    ("transformers mamba", "ssmlens mamba"),
    ("ssmlens mamba2", "transformers mamba2"),
    ("mamba_ssm mamba", "ssmlens mamba"),
    ("ssmlens mamba2", "mamba_ssm mamba2"),
]


@pytest.mark.parametrize(("from_", "to"), PAIRS)
def test_every_student_block_computes_what_the_teachers_does(trained, build, from_, to):
    teacher = trained(from_, n_layer=3)
    student = build(to, n_layer=2)
    before = state_of(student)
    ssmlens.transplant_(student, teacher, layer=1)
    outside = {n for n in before if ".layers." not in n}
    assert not changed(before, student) & outside
    source = teacher.backbone.layers[1]
    for block in student.backbone.layers:
        for name, weight in source.named_parameters():
            assert torch.equal(block.get_parameter(name).cpu(), weight.cpu()), name
    if "mamba_ssm" not in from_ + to:
        hidden = torch.randn(2, 7, 32)
        a, b = (m.mixer(hidden) for m in (source, student.backbone.layers[0]))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_copies_are_independent_and_trainable(trained, build):
    teacher, student = trained("ssmlens mamba"), build("ssmlens mamba", n_layer=3)
    kept = state_of(teacher)
    ssmlens.transplant_(student, teacher, 0)
    storages = [p.data_ptr() for p in student.backbone.layers.parameters()]
    assert len(set(storages)) == len(storages)
    assert not set(storages) & {p.data_ptr() for p in teacher.parameters()}
    before = state_of(student)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    ids = torch.randint(0, 32, (2, 20))
    student(ids).logits.log_softmax(-1)[..., 3].sum().backward()
    optimiser.step()
    assert changed(before, student) == set(before)
    assert not changed(kept, teacher)
    first, last = student.backbone.layers[0], student.backbone.layers[2]
    assert not torch.equal(first.mixer.in_proj.weight, last.mixer.in_proj.weight)


SCOPES = {
    ("ssmlens mamba", "mixer"): None,
    ("ssmlens mamba", "ssm"): {
        "A_log",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "conv1d.weight",
        "conv1d.bias",
    },
    ("ssmlens mamba", "bc"): {"x_proj.weight"},
    ("ssmlens mamba2", "ssm"): {
        "A_log",
        "dt_bias",
        "in_proj.weight",
        "conv1d.weight",
        "conv1d.bias",
    },
    ("ssmlens mamba2", "bc"): {"in_proj.weight"},
}


@pytest.mark.parametrize(("family", "scope"), SCOPES)
def test_scopes_take_only_what_they_say(trained, build, family, scope):
    teacher, student = trained(family), build(family)
    before = state_of(student)
    ssmlens.transplant_(student, teacher, 1, scope, student_layers=(0,))
    own = SCOPES[family, scope] or {
        n for n, _ in student.backbone.layers[0].mixer.named_parameters()
    }
    assert changed(before, student) == {f"backbone.layers.0.mixer.{name}" for name in own}
    if scope == "mixer":
        return
    mixer, source = student.backbone.layers[0].mixer, teacher.backbone.layers[1].mixer
    if family == "ssmlens mamba":  # x_proj: 2 rows for dt, 16 for B, 16 for C
        first = 2 if scope == "bc" else 0
        was = before["backbone.layers.0.mixer.x_proj.weight"]
        assert torch.equal(mixer.x_proj.weight[:first], was[:first])
        assert torch.equal(mixer.x_proj.weight[first:], source.x_proj.weight[first:])
        return
    was = before["backbone.layers.0.mixer.in_proj.weight"]  # 128 of gate and x, 16 + 16, 8 for dt
    assert torch.equal(mixer.in_proj.weight[:128], was[:128])
    assert torch.equal(mixer.in_proj.weight[128:160], source.in_proj.weight[128:160])
    taken = source.in_proj.weight if scope == "ssm" else was
    assert torch.equal(mixer.in_proj.weight[160:], taken[160:])


def test_shuffled_keeps_the_values_and_no_place(trained, build):
    teacher, student = trained("ssmlens mamba2"), build("ssmlens mamba2", n_layer=3)
    ssmlens.transplant_(student, teacher, 1, shuffled=True, seed=4)
    for name, weight in teacher.backbone.layers[1].named_parameters():
        got = student.backbone.layers[0].get_parameter(name)
        assert torch.equal(got.flatten().sort().values, weight.flatten().sort().values), name
        if weight.numel() > 8:
            assert (got == weight).float().mean() < 0.2, name
        assert torch.equal(got, student.backbone.layers[2].get_parameter(name))
    again, other = (build("ssmlens mamba2", n_layer=3) for _ in range(2))
    ssmlens.transplant_(again, teacher, 1, shuffled=True, seed=4)
    ssmlens.transplant_(other, teacher, 1, shuffled=True, seed=5)
    assert not changed(state_of(student), again) - {"backbone.embedding.weight"}
    assert changed(state_of(student), other)


def test_shuffled_bc_loses_the_correlation(build):
    teacher = build("ssmlens mamba", d_model=128)
    ssmlens.mimetic_(teacher, bc_mix=(0.0, 1.0))
    student = build("ssmlens mamba", d_model=128)
    ssmlens.transplant_(student, teacher, 0, "bc", shuffled=True)
    B, C = student.backbone.layers[0].mixer.x_proj.weight.detach()[8:].double().split(16)
    assert abs(float((B * C).sum() / (B.norm() * C.norm()))) < 0.06


def test_a_teacher_by_name(build):
    config = MambaConfig(d_model=192, n_layer=2, vocab_size=64, ssm_cfg={"d_state": 32})
    student = MambaLM(config)
    inits["transplant"]("copy-mamba1-mimetic", 3, student_layers=(1,)).apply_(student, 0)
    teacher = ssmlens.load_model("copy-mamba1-mimetic")
    for name, weight in teacher.backbone.layers[3].named_parameters():
        assert torch.equal(student.backbone.layers[1].get_parameter(name), weight)
        assert name.endswith(("D", "A_log", "norm.weight")) or not torch.equal(
            student.backbone.layers[0].get_parameter(name), weight
        )
    with pytest.raises(UsageError):
        Transplant("no-such-model", 3).apply_(student)


def test_a_model_may_be_its_own_teacher(trained):
    model = trained("ssmlens mamba", n_layer=3)
    ssmlens.transplant_(model, model, 1)
    first, second, third = (list(block.parameters()) for block in model.backbone.layers)
    assert all(torch.equal(a, b) for a, b in zip(first + third, second * 2, strict=True))


@pytest.mark.parametrize(
    ("teacher", "student", "layer", "scope", "told"),
    [
        (
            ("ssmlens mamba", {}),
            ("ssmlens mamba2", {}),
            0,
            "block",
            r"\(ssmlens Mamba\) does not fit .* \(ssmlens Mamba2\): its A_log is \(64, 16\), "
            r"the student's \(8, 1\)",
        ),
        (
            ("ssmlens mamba", {"d_model": 48}),
            ("ssmlens mamba", {}),
            0,
            "block",
            r"\(96, 16\).*\(64, 16\)",
        ),
        (
            ("ssmlens mamba", {"d_state": 8}),
            ("ssmlens mamba", {}),
            0,
            "bc",
            r"W_B is \(1, 8, 64\), the student's \(1, 16, 64\)",
        ),
        (
            ("ssmlens mamba", {}),
            ("ssmlens mamba", {}),
            2,
            "block",
            r"teacher: layer 2 is out of range: .* 0\.\.1",
        ),
        (
            (
                "ssmlens mamba",
                {"attn_layer_idx": [1], "attn_cfg": {"num_heads": 1, "causal": True}},
            ),
            ("ssmlens mamba", {}),
            1,
            "block",
            "teacher: layer 1 is attention, not a Mamba mixer; those are in layers 0",
        ),
        (
            ("ssmlens mamba", {}),
            ("ssmlens mamba", {"ssm_cfg": {"conv_bias": False}}),
            0,
            "ssm",
            r"conv_bias is \(64,\), the student's missing",
        ),
        (
            ("ssmlens mamba", {"d_intermediate": 16}),
            ("ssmlens mamba", {}),
            0,
            "block",
            "norm2.weight is .* missing",
        ),
        (
            ("ssmlens mamba2", {"ssm_cfg": {"ngroups": 2, "d_state": 8}}),
            ("ssmlens mamba2", {}),
            0,
            "mixer",
            r"W_B is \(2, 8, 32\), the student's \(1, 16, 32\)",
        ),
        (
            ("ssmlens mamba2", {"ssm_cfg": {"norm_before_gate": True}}),
            ("ssmlens mamba2", {}),
            0,
            "block",
            "its norm_before_gate is True, the student's False",
        ),
        (
            ("ssmlens mamba2", {"ssm_cfg": {"dt_limit": (0.0, 1.0)}}),
            ("ssmlens mamba2", {}),
            0,
            "ssm",
            r"its dt_limit is \(0.0, 1.0\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(build, teacher, student, layer, scope, told):
    a, b = (build(family, **copy.deepcopy(options)) for family, options in (teacher, student))
    before = state_of(b)
    with pytest.raises(UsageError, match=told) as caught:
        ssmlens.transplant_(b, a, layer, scope)
    assert "\n" not in str(caught.value)
    assert not changed(before, b)


def test_a_students_layers_and_scopes_are_checked_too(build):
    model = build("ssmlens mamba")
    with pytest.raises(UsageError, match=r"^layer 5 is out of range"):
        ssmlens.transplant_(model, build("ssmlens mamba"), 0, student_layers=(5,))
    with pytest.raises(UsageError, match=r"scope must be one of .*'blocks'"):
        ssmlens.transplant_(model, model, 0, "blocks")


@pytest.mark.parametrize("family", ["transformers ZambaMambaMixer", "ssmlens Mamba3"])
def test_families_without_the_views_take_whole_mixers(family):
    (adapter, *_) = (adapters[path] for path in adapters if adapters[path].family == family)
    torch.manual_seed(0)
    teacher, student = adapter.tiny_model(), adapter.tiny_model()
    with pytest.raises(UsageError, match=f"{family}, which has no .* use 'mixer' or 'block'"):
        ssmlens.transplant_(student, teacher, 0, "ssm")
    ssmlens.transplant_(student, teacher, 0, "mixer")


def test_a_transplanted_model_is_not_fresh(build):
    model = build("ssmlens mamba")
    ssmlens.transplant_(model, build("ssmlens mamba"), 0, "bc")
    with pytest.raises(UsageError, match=r"already initialised .bc of a teacher's layer 0"):
        ssmlens.mimetic_(model)
