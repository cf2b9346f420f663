"""Every option of a family's configuration that its mixer reads: the adapter still closes on the mixer's output."""

import copy

import pytest
import torch
from devices import DEVICE, closure_tolerance
from oracles import mixed_by_definition
from tiny_models import tiny_model_of

from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.find import find_mixers

pytestmark = pytest.mark.device

BY_CLASS = {path.rpartition(".")[2]: path for path in adapters if path.startswith("transformers")}
BAMBA = [
    {"mamba_proj_bias": True},
    {"mamba_conv_bias": False, "mamba_n_groups": 1, "mamba_d_state": 8},
    {"mamba_n_groups": 4, "time_step_limit": (0.0, float("inf"))},
]
QWEN = [
    {"linear_num_value_heads": 3, "linear_value_head_dim": 6, "linear_conv_kernel_dim": 3},
    {
        "linear_num_key_heads": 1,
        "linear_value_head_dim": 9,
        "rms_norm_eps": 0.1,
        "hidden_act": "gelu",
    },
]
SHORT = [{"conv_bias": True, "conv_L_cache": 2}, {"conv_L_cache": 5}]
KIMI = [{"linear_num_heads": 1, "linear_conv_kernel_dim": 3}, {"linear_head_dim": 16}]
# Widths of in_proj and of convolutions are multiples of 8 in all of them: causal_conv1d's kernel needs that.
OPTIONS = {
    "MambaMixer": [{"use_bias": True}, {"use_conv_bias": False}],
    "FalconMambaMixer": [{"use_bias": True}, {"use_conv_bias": False, "mixer_rms_eps": 0.1}],
    "JambaMambaMixer": [{"mamba_proj_bias": True}, {"mamba_conv_bias": False, "rms_norm_eps": 0.1}],
    "ZambaMambaMixer": [
        {"mamba_proj_bias": True},
        {"mamba_conv_bias": False, "n_mamba_heads": 4},
        {"n_mamba_heads": 1},
    ],
    "Mamba2Mixer": [
        {"use_bias": True, "n_groups": 4},
        {"use_conv_bias": False, "time_step_limit": (0.01, 0.03)},
        {"n_groups": 1, "state_size": 8, "layer_norm_epsilon": 0.1},
    ],
    "Zamba2MambaMixer": [
        {"add_bias_linear": True, "mamba_ngroups": 4},
        {"mamba_ngroups": 1, "mamba_d_state": 8, "time_step_min": 1e-4},
    ],
    "NemotronHMamba2Mixer": [
        {"use_bias": True, "n_groups": 4, "layer_norm_epsilon": 0.1},
        {"use_conv_bias": False, "n_groups": 1, "ssm_state_size": 8, "time_step_min": 1e-4},
    ],
    "BambaMixer": BAMBA,
    "GraniteMoeHybridMambaLayer": BAMBA,
    "Qwen3NextGatedDeltaNet": [
        {"linear_num_value_heads": 3, "linear_value_head_dim": 6, "linear_conv_kernel_dim": 3},
        {"linear_num_key_heads": 1, "linear_value_head_dim": 9, "rms_norm_eps": 0.1},
    ],
    "Qwen3_5GatedDeltaNet": QWEN,
    "Qwen3_5MoeGatedDeltaNet": QWEN,
    "Qwen4ExpTextGatedDeltaNet": [*QWEN, {"output_gate_type": None}],
    "OlmoHybridGatedDeltaNet": [*QWEN, {"linear_allow_neg_eigval": False}],
    "KimiLinearDeltaAttention": KIMI,
    "BailingHybridDeltaAttention": [
        {"kda_safe_gate": False},
        {"kda_lower_bound": -0.5, "hidden_act": "gelu"},
    ],
    "Glm5NextTextLinearAttention": [*KIMI, {"linear_lower_bound": None}],
    "Lfm2ShortConv": SHORT,
    "Lfm2MoeShortConv": SHORT,
    "Lfm3ShortConv": SHORT,
    "MiniMaxLightningAttention": [{"block_size": 4}, {"hidden_act": "gelu", "rms_norm_eps": 0.1}],
    "RecurrentGemmaRecurrentBlock": [{"conv1d_width": 3}, {"hidden_activation": "relu"}],
    "RwkvSelfAttention": [{"rescale_every": 0}, {"attention_hidden_size": 24}],
    "FalconH1Mixer": [
        {"mamba_proj_bias": True, "projectors_bias": True},
        {"mamba_conv_bias": False, "mamba_d_ssm": None, "mamba_d_head": 4, "mamba_n_groups": 4},
        {"mamba_rms_norm": True, "mamba_norm_before_gate": True, "rms_norm_eps": 0.1},
        {
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
        },
    ],
}


def test_every_family_is_here():
    assert OPTIONS.keys() == BY_CLASS.keys()


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize(
    ("mixer", "options"), [(m, o) for m, all in OPTIONS.items() for o in all], ids=str
)
def test_closure_with_options(mixer, options, padded):
    adapter = adapters[BY_CLASS[mixer]]
    torch.manual_seed(0)
    tiny = tiny_model_of(adapter)
    config = copy.deepcopy(tiny.config)
    text = getattr(config, "text_config", config)
    for name, value in options.items():
        assert hasattr(text, name)
        setattr(text, name, value)
    model = type(tiny)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(DEVICE)
    sites = find_mixers(model)
    if DEVICE == "cuda" and options.get("conv_L_cache") == 5:
        pytest.skip("causal_conv1d's kernel has 2 to 4 taps")
    if DEVICE == "cuda" and "hidden_act" in options and mixer.endswith("GatedDeltaNet"):
        pytest.skip("causal_conv1d's kernel has SiLU or nothing after the taps")
    if (
        padded
        and hasattr(sites[0].module, "slow_forward")
        and sites[0].module.in_proj.bias is not None
    ):
        pytest.skip("before 5.15 in_proj's bias is zeroed in padding, as nowhere else")
    if "hidden_act" in options and hasattr(sites[0].module, "chunk_gated_delta_rule"):
        pytest.skip("before 5.15 the torch code has SiLU whatever the configuration says")
    calls = []
    for site in sites:

        def keep(module, args, kwargs, output):
            given = adapter.read_input(module, args, kwargs)
            calls.append((module, *adapter.read_output(module, given, output)))

        site.module.register_forward_hook(keep, with_kwargs=True)
    mask = torch.tensor([[0] * 4 + [1] * 5, [1] * 9, [1] * 2 + [0] * 7], device=DEVICE)
    ids = torch.randint(0, 32, (3, 9), device=DEVICE)
    with torch.no_grad():
        model(ids, attention_mask=mask if padded else None, use_cache=False)
        assert len(calls) == len(sites)
        for module, given, output in calls:
            operands = adapter.project(module, given)
            y = mixed_by_definition(operands).to(operands.like.dtype)
            error = (adapter.finish(module, y, operands) - output).norm() / output.norm()
            assert error < closure_tolerance(adapter)
