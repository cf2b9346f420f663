"""Effects against plain module hooks and explicit matrices; measures against their definitions."""

import math

import numpy as np
import pytest
import torch
from reference_scan import reference_channel_maps

import ssmlens
from ssmlens.edits import Ablate, KnockOut, Scale, Swap
from ssmlens.errors import UsageError
from ssmlens.recorder.prompts import Prompts

LAYER = 1
SHIPPED = [
    f"copy-{kind}-{start}" for kind in ("mamba1", "mamba2") for start in ("default", "mimetic")
]


@pytest.fixture(scope="module")
def model():
    return ssmlens.load_model("copy-mamba2-default")


@pytest.fixture(scope="module")
def prompts(model):
    drawn = Prompts.of_task("copy", model, length=7, count=2)
    return drawn + Prompts.of_task("copy", model, length=4, count=1)


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request):
    return ssmlens.load_model(request.param)


def log_probabilities(model, prompts, row, **hooks):
    """Of the right token at every target, in the model as it is, with plain hooks on its mixers."""
    handles = [
        model.backbone.layers[int(name[1:])].mixer.register_forward_hook(hook)
        for name, hook in hooks.items()
    ]
    with torch.no_grad():
        said = model(torch.tensor([prompts.tokens[row]])).logits[0].double().log_softmax(1)
    for handle in handles:
        handle.remove()
    target = prompts.target[row]
    return [float(said[q, prompts.tokens[row][j]]) for q, j in enumerate(target) if j >= 0]


def zero(module, args, output):
    return torch.zeros_like(output)


def test_ablations_are_what_plain_hooks_do(shipped, prompts):
    found = ssmlens.effects(shipped, prompts, [Ablate(layer=layer) for layer in range(4)])
    assert found.sizes == {"edit": 4, "prompt": 3}
    for row in range(3):
        before = np.mean(log_probabilities(shipped, prompts, row))
        np.testing.assert_allclose(found["before"][row], before, rtol=1e-5, atol=1e-5)
        for layer in range(4):
            after = np.mean(log_probabilities(shipped, prompts, row, **{f"l{layer}": zero}))
            np.testing.assert_allclose(found["after"][layer, row], after, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["effect"], found["after"] - found["before"])
    assert found["layer"].values.tolist() == [0, 1, 2, 3]


def test_knock_outs_are_what_an_explicit_matrix_gives(shipped, prompts):
    edit = KnockOut(layer=LAYER, lags="1:")
    found = ssmlens.effects(shipped, prompts, [edit])
    for row in range(3):
        ids = torch.tensor([prompts.tokens[row]])
        with torch.no_grad(), ssmlens.recording(shipped, LAYER) as rec:
            shipped(ids)
        o, site = rec[LAYER].operands, rec[LAYER].call.site
        diagonal = reference_channel_maps(o).diagonal(dim1=2, dim2=3).transpose(1, 2)[..., None]
        y = (diagonal * o.x + o.D * o.x).float()
        with torch.no_grad():
            alone = site.adapter.finish(site.module, y, o)
        after = np.mean(log_probabilities(shipped, prompts, row, l1=lambda *_, alone=alone: alone))
        np.testing.assert_allclose(found["after"][0, row], after, rtol=1e-5, atol=1e-5)


def test_edits_in_a_list_are_made_together(model, prompts):
    both = [Ablate(layer=0), Scale(layer=2, what="delta", factor=0.5)]
    found = ssmlens.effects(model, prompts, [both, both[0]])
    assert found["layer"].values.tolist() == [-1, 0]
    ids = torch.tensor([prompts.tokens[0]])
    with torch.no_grad(), ssmlens.editing(model, both):
        said = model(ids).logits[0].double().log_softmax(1)
    wanted = [
        float(said[q, prompts.tokens[0][j]]) for q, j in enumerate(prompts.target[0]) if j >= 0
    ]
    np.testing.assert_allclose(found["after"][0, 0], np.mean(wanted), rtol=1e-5, atol=1e-5)


def test_every_measure_is_its_definition(model):
    probe = ssmlens.probe("repeat", model, count=1, length=6, seed=3)
    edit = Ablate(layer=0)
    tokens = torch.tensor([probe.prompts.tokens[0]])
    with torch.no_grad():
        before = model(tokens).logits[0].double().numpy()
        with ssmlens.editing(model, edit):
            after = model(tokens).logits[0].double().numpy()
    queries = [q for q, j in enumerate(probe.prompts.target[0]) if j >= 0]
    right = [probe.prompts.tokens[0][probe.prompts.target[0][q]] for q in queries]
    foil = [probe.foil[0][q] for q in queries]

    def log_softmax(row):
        return row - row.max() - math.log(np.exp(row - row.max()).sum())

    wanted = {
        "log_probability": [log_softmax(after[q])[r] for q, r in zip(queries, right, strict=False)],
        "accuracy": [float(after[q].argmax() == r) for q, r in zip(queries, right, strict=False)],
        "rank": [
            float((after[q] > after[q][r]).sum()) for q, r in zip(queries, right, strict=False)
        ],
        "logit_difference": [
            after[q][r] - after[q][f]
            for q, r, f in zip(queries, right, foil, strict=False)
            if f >= 0
        ],
        "kl": [
            float((np.exp(p) * (p - log_softmax(after[q]))).sum())
            for q, p in ((q, log_softmax(before[q])) for q in queries)
        ],
    }
    for measure, values in wanted.items():
        found = ssmlens.effects(model, probe, [edit], measure)
        np.testing.assert_allclose(found["after"][0, 0], np.mean(values), rtol=1e-5, atol=1e-6)
    assert ssmlens.effects(model, probe, [edit], "kl")["before"][0] == 0


def test_a_corrupted_twin_is_the_source_of_a_patch(model):
    probe = ssmlens.probe("repeat", model, count=2, length=5, seed=1)
    patched = ssmlens.effects(
        model, probe, [Swap(layer=2, what="output", source="corrupted")], "kl"
    )
    for row in range(2):
        with torch.no_grad(), ssmlens.recording(model, 2) as rec:
            model(torch.tensor([probe.corrupted.tokens[row]]))
        alone = ssmlens.probe("repeat", model, count=2, length=5, seed=1)
        one = Prompts([alone.prompts.tokens[row]], target=[alone.prompts.target[row]])
        wanted = ssmlens.effects(model, one, [Swap(layer=2, what="output", source=rec)], "kl")
        np.testing.assert_allclose(patched["after"][0, row], wanted["after"][0, 0], rtol=1e-5)


def test_prompts_without_targets_can_be_measured_by_kl_alone(model):
    prompts = Prompts([[1, 2, 3, 4]])
    with pytest.raises(UsageError, match="no prompt has one"):
        ssmlens.effects(model, prompts, [Ablate(layer=0)])
    assert ssmlens.effects(model, prompts, [Ablate(layer=0)], "kl")["after"][0, 0] > 0


@pytest.mark.parametrize(
    ("edits", "measure", "said"),
    [
        ([], "kl", "at least one edit"),
        ([Ablate(layer=0)], "loss", "unknown measure"),
        ([Ablate(layer=9)], "kl", "layer 9 is out of range"),
        ([Ablate(layer=0)], "logit_difference", "needs a foil"),
        ([Swap(layer=0, what="B", source="corrupted")], "accuracy", "no corrupted twin"),
    ],
)
def test_what_cannot_be_is_one_line(model, prompts, edits, measure, said):
    with pytest.raises(UsageError, match=said):
        ssmlens.effects(model, prompts, edits, measure)
