"""The worker of `turns` in each checkout: it uses only names in both. It reads names of calls and prints seconds."""

import dataclasses
import functools
import json
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright

import ssmlens
from analyses.benchmarks import dashboard, operands
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.scan.hidden_attention import attention_map_and_mask, channel_agreement, channel_maps


def things() -> dict[str, Callable[[], object]]:
    """Return the timed calls by name."""
    torch.manual_seed(0)
    found: dict[str, Callable[[], object]] = {}
    for decay in operands.DECAYS:
        layer = operands.mamba1(1024, decay)
        found[f"map and mask, Mamba-1, 1024, {decay}"] = partial(attention_map_and_mask, layer)
    mamba2 = operands.mamba2(1024, heads=64)
    found["map and mask, Mamba-2, 1024, 64 heads"] = partial(attention_map_and_mask, mamba2)
    found["map and mask, Mamba-1, 128"] = partial(attention_map_and_mask, operands.mamba1(128))
    found["one channel, 2048"] = partial(channel_maps, operands.mamba1(2048), [1000])
    found["agreement, Mamba-1, 1024"] = partial(channel_agreement, operands.mamba1(1024))
    for name, layer, headdim in (
        ("Mamba-1", operands.mamba1(1024), 1),
        ("Mamba-2", operands.mamba2(1024, heads=32), 64),
    ):
        x = torch.randn(1, 1024, layer.heads, headdim)
        found[f"scan, {name}, 1024"] = partial(
            ssmlens.selective_scan, dataclasses.replace(layer, x=x)
        )
    model = ssmlens.load_model("copy-mamba1-mimetic")
    folder = Path(tempfile.mkdtemp())
    ids = torch.randint(0, 20, (4, 128))

    def capture() -> None:
        captured = ssmlens.capture(model, ids, folder / "run.h5", overwrite=True)
        captured.close()

    shape = MambaConfig(d_model=1024, n_layer=4, vocab_size=50277)
    large = MambaLM(shape).eval()
    prompt = torch.randint(0, 50277, (1, 1024))

    def capture_large() -> None:
        captured = ssmlens.capture(large, prompt, folder / "large", overwrite=True)
        captured.close()

    return (
        found
        | _recordings()
        | _first_page()
        | {
            "capture of copy-mamba1-mimetic, 4 x 128": capture,
            "forward, 4 layers of mamba-370m's shape, 1024": partial(large.backbone, prompt),
            "capture, 4 layers of mamba-370m's shape, 1024": capture_large,
        }
    )


def _recordings() -> dict[str, Callable[[], object]]:
    """Return a recorded forward of four layers of mamba-130m's width, and the first read of its records."""
    found: dict[str, Callable[[], object]] = {}
    for layer in ("Mamba1", "Mamba2"):
        config = MambaConfig(d_model=768, n_layer=4, vocab_size=1000, ssm_cfg={"layer": layer})
        model, ids = MambaLM(config).eval(), torch.randint(0, 1000, (1, 512))

        def forward(model: MambaLM = model, ids: torch.Tensor = ids) -> list:
            with ssmlens.recording(model) as recorded:
                model(ids)
            return list(recorded)

        with torch.no_grad():
            records = forward()

        def read(records: list = records) -> None:
            for record in records:
                _ = type(record)(record.call).operands  # a first read: a new record has no cache

        found[f"recorded forward, {layer}, 4 x 512"] = forward
        found[f"first read of operands, {layer}, 4 x 512"] = read
    return found


def _first_page() -> dict[str, Callable[[], object]]:
    """Return the first page of a capture of 48 layers, in a fresh server and a fresh context of a browser."""

    @functools.cache
    def browser_and_capture() -> tuple[Any, Path]:
        driver = sync_playwright().start()
        chromium = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=dashboard._QUIET
        )
        write_capture = runpy.run_path(str(dashboard._SYNTHETIC))["write_capture"]
        path = Path(tempfile.mkdtemp()) / "deep.h5"
        return chromium, write_capture(path, 48, 1024, 64, 16)

    def show() -> None:
        chromium, path = browser_and_capture()
        with (
            dashboard._dashboard(path) as address,
            chromium.new_context(viewport=dashboard._SCREEN) as context,
        ):
            page = context.new_page()
            page.goto(f"{address}/layers")
            page.wait_for_function(dashboard._FIRST_PAGE, timeout=60_000)

    return {"first page of 48 layers": show}


def main() -> None:
    """Print the names of the calls; then time each requested one and print a line."""
    known = things()
    print(json.dumps([*known]), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        with torch.no_grad():
            known[line.strip()]()
        print(json.dumps(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
