"""Models in transformers' layout, built by transformers from tensors that were read here."""

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
    """The model that a config.json describes, on the meta device: without weights, at no cost.

    A hybrid's attention is transformers' eager one, which puts out its weights. Of a model of images and text it is
    the text model, or all of it where transformers has no text model by itself (GLM-5 next).

    Raises:
        MissingExtraError: transformers is not installed.
        UnsupportedModelError: transformers does not know it, or its own code would have to run.
    """
    with extra("transformers", name):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
        from transformers.models.auto import modeling_auto

    named = config.get("architectures")
    named = [str(name)[:80] for name in named[:4]] if isinstance(named, list) else []
    declared = ", ".join(named) or f"model_type {str(config['model_type'])[:80]!r}"
    try:
        parsed = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        images = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        text = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        whole = parsed.model_type in images and parsed.model_type not in text
        kind = AutoModelForImageTextToText if whole else AutoModelForCausalLM
        with torch.device("meta"):
            return kind.from_config(parsed, trust_remote_code=False, attn_implementation="eager")
    except Exception as error:  # of transformers, or of torch: a config can be wrong in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UnsupportedModelError(
            f"{name} is a {declared}, which transformers cannot build here ({reason}); {SUPPORTED}"
        ) from None


def fill(skeleton: Any, state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """The model with the checkpoint's weights, by transformers' own rules for names and dtypes.

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
        f"{name} {tuple(stored)} for {tuple(wanted)}"
        for name, stored, wanted in report["mismatched_keys"]
    ]
    checkpoint.report_mismatch(report["missing_keys"], report["unexpected_keys"], misshaped)
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
