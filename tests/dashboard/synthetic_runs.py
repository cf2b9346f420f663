"""Run folders as a trainer writes them: curves that fall and rise like those of a model that learns to copy."""

import json
import math
import random


def write_run(
    path,
    arm="default",
    seed=0,
    rate=1e-3,
    steps=200,
    every=10,
    length=25,
    learns=1.0,
    state="done",
    **more,
):
    """Write a run folder; returns `path`.

    Args:
        path: The folder.
        learns: How well it ends: the share of characters right at `length`; half of it at twice the length.
        more: Further fields of config.json; `scores` becomes scores.json.
    """
    path.mkdir(parents=True, exist_ok=True)
    scores = more.pop("scores", None)
    config = {"arm": arm, "seed": seed, "learning_rate": rate, "length": length, **more}
    (path / "config.json").write_text(json.dumps(config))
    if scores is not None:
        (path / "scores.json").write_text(
            json.dumps({"layer": more["teacher_layer"], "scores": scores})
        )
    lines = lines_of(
        random.Random(f"{arm} {seed} {rate}"), range(0, steps + 1, every), steps, length, learns
    )
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = {"state": state, "step": steps, "steps": steps, "seconds": steps / 10}
    (path / "status.json").write_text(json.dumps(status))
    return path


def lines_of(draw, at, steps, length, learns):
    """The lines of metrics.jsonl at these steps."""
    for step in at:
        known = learns / (1 + math.exp(-12 * (step / steps - 0.5)))
        noise = draw.gauss(0, 0.03)
        loss = max(0.0, 3.2 * (1 - known) + 10 * abs(noise) / (1 + step / 20))
        yield {"step": step, "split": "train", "length": None, "loss": loss}
        if step % 20 == 0:
            for n, share in ((length, 1.0), (2 * length, 0.5), (4 * length, 0.2)):
                char = min(1.0, max(0.0, known * share + noise))
                yield {
                    "step": step,
                    "split": "eval",
                    "length": n,
                    "loss": loss,
                    "char": char,
                    "string": char**6,
                }


def name_of(arm, seed, rate=1e-3):
    """What a trainer calls the folder of a run, without the digest at its end."""
    return f"copy-{arm.replace(' ', '-')}-lr{rate:g}-seed{seed}"


def write_sweep(folder, steps=200, every=10):
    """Two arms, three seeds, three learning rates; the mimetic arm learns in a wide window."""
    for arm, window in (("default", {1e-3: 0.5}), ("mimetic", {3e-4: 0.8, 1e-3: 1.0, 3e-3: 0.95})):
        for seed in range(3):
            for rate in (3e-4, 1e-3, 3e-3):
                learns = window.get(rate, 0.1) * (1 - 0.03 * seed)
                path = folder / name_of(arm, seed, rate)
                write_run(path, arm, seed, rate, steps, every, learns=learns)
    return folder


def write_transplants(folder, layers=12):
    """A student for each teacher layer, its shuffled control, and the arms without a teacher."""
    for arm, learns in (("default", 0.2), ("mimetic", 0.9)):
        for seed in range(2):
            write_run(folder / name_of(arm, seed), arm, seed, learns=learns)
    for layer in range(layers):
        good = math.exp(-((layer - 7) ** 2) / 6)
        scores = {
            "mask_ones": 0.2 + 0.7 * good,
            "diagonal_sharpness": 0.1 + 0.5 * good**2,
            "copy_score": None,
        }
        for arm, learns in (("transplant", 0.2 + 0.75 * good), ("shuffled", 0.25)):
            for seed in range(2):
                told = {"teacher_layer": layer, "shuffled": arm == "shuffled", "scores": scores}
                path = folder / name_of(f"{arm} {layer}", seed)
                write_run(path, f"{arm} {layer}", seed, learns=learns, **told)
    return folder
