"""The adapters of mamba_ssm's Mamba, Mamba2 and Mamba2Simple on stored outputs of its kernels, option by option.

mamba_ssm cannot be imported here: the mixers are MambaLM's, with the attributes of mamba_ssm's that adapters read.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from mixers import build_mixer
from reference_scan import reference_scan

from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.mamba_ssm_mamba import MambaSsmMamba
from ssmlens.adapters.mamba_ssm_mamba2 import MambaSsmMamba2
from ssmlens.adapters.mamba_ssm_mamba2_simple import MambaSsmMamba2Simple
from ssmlens.errors import UsageError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "mamba_ssm_mixers"
SIMPLE = {"learnable_init_states": False, "use_mem_eff_path": True}

# variant: (file, adapter, arguments of the twin, attributes that only mamba_ssm's has)
VARIANTS = {
    "m1": ("outputs", MambaSsmMamba, {}, {}),
    "m1-bias": ("outputs", MambaSsmMamba, {"bias": True}, {}),
    "m1-noconvbias": ("outputs", MambaSsmMamba, {"conv_bias": False}, {}),
    "m1-slow": ("outputs", MambaSsmMamba, {}, {}),
    "m2": ("outputs", MambaSsmMamba2, {}, {}),
    "m2-groups": ("outputs", MambaSsmMamba2, {"ngroups": 2}, {}),
    "m2-dssm": ("outputs", MambaSsmMamba2, {"d_ssm": 64}, {}),
    "m2-D": ("outputs", MambaSsmMamba2, {"D_has_hdim": True}, {}),
    "m2-nonorm": ("outputs", MambaSsmMamba2, {"rmsnorm": False}, {}),
    "m2-normfirst": ("outputs", MambaSsmMamba2, {"norm_before_gate": True}, {}),
    "m2-limit": ("outputs", MambaSsmMamba2, {"dt_limit": (0.02, 0.05)}, {}),
    "m2-bias": ("outputs", MambaSsmMamba2, {"bias": True}, {}),
    "m2simple": ("mamba2_simple", MambaSsmMamba2Simple, {}, SIMPLE),
    "m2simple-slow": (
        "mamba2_simple",
        MambaSsmMamba2Simple,
        {},
        SIMPLE | {"use_mem_eff_path": False},
    ),
    "m2simple-limit": (
        "mamba2_simple",
        MambaSsmMamba2Simple,
        {"dt_limit": (0.02, 0.05), "ngroups": 2},
        SIMPLE,
    ),
}


def mixer_of(adapter_class, arguments, attributes):
    if adapter_class is MambaSsmMamba:
        mixer = build_mixer("Mamba", d_model=64, d_state=16, **arguments)
    else:
        mixer = build_mixer("Mamba2", d_model=64, d_state=16, headdim=16, **arguments)
        mixer.process_group = None
    for name, value in attributes.items():
        setattr(mixer, name, value)
    return mixer


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_adapter_closes_on_what_the_kernels_computed(variant):
    file, adapter_class, arguments, attributes = VARIANTS[variant]
    mixer = mixer_of(adapter_class, arguments, attributes)
    with np.load(FIXTURES / f"{file}.npz") as stored:
        prefix = f"{variant}/weights/"
        names = [name for name in stored.files if name.startswith(prefix)]
        state = {n.removeprefix(prefix): torch.from_numpy(stored[n]) for n in names}
        hidden = torch.from_numpy(stored[f"{variant}/input"])
        output = torch.from_numpy(stored[f"{variant}/output"])
    mixer.load_state_dict(state)
    adapter = adapter_class()
    operands = adapter.project(mixer, MixerInput(hidden.reshape(1, *hidden.shape[-2:])))
    y = reference_scan(operands).to(operands.delta.dtype)
    again = adapter.finish(mixer, y, operands).reshape(output.shape)
    error = float((again - output).norm() / output.norm())
    assert error < (1e-5 if adapter_class is MambaSsmMamba else 5e-3)  # Mamba-2 multiplies in TF32


def test_the_norm_of_mamba2_simple_has_groups_only_in_the_fused_kernel():
    for fused, groups in ((True, 2), (False, 1)):
        attributes = SIMPLE | {"use_mem_eff_path": fused}
        mixer = mixer_of(MambaSsmMamba2Simple, {"ngroups": 2}, attributes)
        assert MambaSsmMamba2Simple().named_weights(mixer).norm_groups == groups


def test_learned_initial_states_are_refused_by_name():
    hidden = torch.zeros(1, 3, 64)
    for learned, expected in ((True, "learnable_init_states"), (False, "None")):
        attributes = SIMPLE | {"learnable_init_states": learned}
        mixer = mixer_of(MambaSsmMamba2Simple, {}, attributes)
        assert expected in str(MambaSsmMamba2Simple().refusal(mixer, (hidden,), {}))


def test_a_tensor_parallel_mixer_is_refused_by_name():
    mixer = mixer_of(MambaSsmMamba2, {}, {"process_group": "two GPUs"})
    with pytest.raises(UsageError, match="process_group"):
        MambaSsmMamba2().project(mixer, MixerInput(torch.zeros(1, 3, 64)))


class InferenceParams:
    """What mamba_ssm hands to its mixers while it generates."""

    def __init__(self, seqlen_offset):
        self.seqlen_offset = seqlen_offset


def test_a_prefill_is_recorded_and_a_step_refused():
    class Mixer(torch.nn.Module):
        def forward(self, hidden_states, inference_params=None):
            return hidden_states

    hidden = torch.zeros(1, 1, 64)
    refusal = MambaSsmMamba().refusal
    assert refusal(Mixer(), (hidden,), {"inference_params": InferenceParams(0)}) is None
    why = refusal(Mixer(), (hidden, InferenceParams(5)), {})
    assert why == "a cached step (inference_params) is not recorded; record the prefill"
