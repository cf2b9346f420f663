"""transformers' families on the GPU, where transformers itself calls mamba_ssm's kernels."""

import torch

import ssmlens
from ssmlens.adapters.adapter import adapters

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def rows():
    """A row for each family: the largest closure error over its layers, with and without padding, by dtype."""
    for family, adapter in {adapters[path].family: adapters[path] for path in adapters}.items():
        if "transformers" not in family:
            continue
        row: dict[str, object] = {"family": family}
        for name, dtype in DTYPES.items():
            try:
                torch.manual_seed(0)
                model = adapter.tiny_model().eval().to("cuda", dtype)
                ids = torch.randint(0, 32, (3, 65), device="cuda")
                mask = torch.ones_like(ids)
                mask[0, :7] = 0
                errors = []
                for padding in (None, mask):
                    with torch.no_grad(), ssmlens.recording(model) as rec:
                        model(ids, attention_mask=padding, use_cache=False)
                    errors += [r.closure_error for r in rec if r.call.site.adapter is adapter]
                row[name] = max(errors)
                if not all(e == e for e in errors):
                    row[name] = "NaN"
            except Exception as error:  # the table says what happened to each family
                row[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        yield row
