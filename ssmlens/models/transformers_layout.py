"""Models in transformers' layout: transformers builds them; ssmlens reads their tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.errors import SsmlensError, UnsupportedModelError
from ssmlens.extras import extra
from ssmlens.models import checkpoint

SUPPORTED = (
    "ssmlens reads mamba_ssm's MambaLMHeadModel, and transformers' language models with Mamba "
    "layers, delta rules, gated convolutions or linear recurrences, such as MambaForCausalLM, "
    "Mamba2ForCausalLM, Qwen3_5ForCausalLM, Lfm2ForCausalLM and RecurrentGemmaForCausalLM"
)


def make_skeleton(config: dict[str, Any], folder: Path, name: str) -> nn.Module:
    """Build the model of a config.json on the meta device: without weights, at no cost.

    A hybrid's attention is transformers' eager attention, which returns its weights. Of a model of images and text,
    only the text model is built, or all of it if transformers has no separate text model (GLM-5 next).

    Raises:
        MissingExtraError: transformers is not installed.
        UnsupportedModelError: transformers does not know the model, or would have to run code from its folder.
    """
    with extra("transformers", name):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
        from transformers.models.auto import modeling_auto

    architectures = config.get("architectures")
    architectures = (
        [str(name)[:80] for name in architectures[:4]] if isinstance(architectures, list) else []
    )
    declared = ", ".join(architectures) or f"model_type {str(config['model_type'])[:80]!r}"
    try:
        parsed = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        images = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        text = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        is_multimodal = parsed.model_type in images and parsed.model_type not in text
        kind = AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM
        with torch.device("meta"):
            return kind.from_config(parsed, trust_remote_code=False, attn_implementation="eager")
    except Exception as error:  # of transformers, or of torch: a config can be wrong in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UnsupportedModelError(
            f"{name} is a {declared}, which transformers cannot build here ({reason}); {SUPPORTED}"
        ) from None


def fill(skeleton: Any, state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Load the checkpoint's weights into the model, by transformers' rules for names and dtypes.

    Raises:
        SsmlensError: Tensors are missing, unexpected, or of another shape; it names them.
    """
    try:
        with _no_progress_bar():
            model, report = type(skeleton).from_pretrained(
                None,
                config=skeleton.config,
                state_dict=state,
                dtype=dtype,
                attn_implementation="eager",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
    except Exception as error:  # quantized weights without their library, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise SsmlensError(f"transformers cannot load the checkpoint here ({reason})") from None
    misshaped = [
        f"{name} {tuple(stored)} for {tuple(expected)}"
        for name, stored, expected in report["mismatched_keys"]
    ]
    checkpoint.report_mismatch(report["missing_keys"], report["unexpected_keys"], misshaped)
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
