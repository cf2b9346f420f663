"""mamba_ssm's mixers in the blocks of `MambaLM`: its kernels for stacks that its language model cannot build."""

import importlib
from typing import Any

from torch import nn

from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.mamba3 import Mamba3
from ssmlens.models.mamba_lm import MambaLM

_MODULE_OF = {
    Mamba: "mamba_ssm.modules.mamba_simple",
    Mamba2: "mamba_ssm.modules.mamba2",
    Mamba3: "mamba_ssm.modules.mamba3",
}


def use_kernels(model: MambaLM) -> MambaLM:
    """Replace the plain-torch twins by mamba_ssm's Mamba, Mamba2 and Mamba3, with the same parameters.

    Names and values of the state dict stay. The model then runs on CUDA only. Returns it.

    Raises:
        ImportError: mamba_ssm is not installed, or finds no GPU.
    """
    arguments: dict[str, Any] = dict(model.config.ssm_cfg)
    arguments.pop("layer", None)
    for index, block in enumerate(model.backbone.layers):
        twin: Any = block.mixer
        if type(twin) in _MODULE_OF:
            library = importlib.import_module(_MODULE_OF[type(twin)])
            mixer: nn.Module = getattr(library, type(twin).__name__)(
                model.config.d_model, layer_idx=index, device="meta", **arguments
            )
            mixer.load_state_dict(twin.state_dict(), assign=True)
            block.mixer = mixer
    return model
