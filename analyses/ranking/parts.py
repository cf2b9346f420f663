"""A teacher's weights in files that are small enough to travel: bfloat16, in parts of at most 15 MiB, and back.

    python -m analyses.ranking.parts save build/ranking/P0/teacher/checkpoints/last OUT/P0-weights
    python -m analyses.ranking.parts join OUT/P0-weights teachers/P0

`join` makes a checkpoint that every command opens, in float32, each value the one that bfloat16 kept. The head, which
is the embedding, is stored once.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_MOST = 15 << 20
_WEIGHTS = "model.safetensors"
_HEAD, _EMBEDDING = "lm_head.weight", "backbone.embedding.weight"
_BESIDE = ("config.json", "vocabulary.json")


def main() -> None:
    """Save or join."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("save", "join"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    (save if arguments.what == "save" else join)(arguments.source, arguments.target)


def save(checkpoint: Path, folder: Path) -> list[Path]:
    """Write a checkpoint's parts to a folder; returns their files."""
    weights = load_file(checkpoint / _WEIGHTS)
    if torch.equal(weights[_HEAD], weights[_EMBEDDING]):
        del weights[_HEAD]
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, weight in weights.items():
        narrow = weight.to(torch.bfloat16).contiguous()
        if parts[-1] and size + 2 * narrow.numel() > _MOST:
            parts.append({})
            size = 0
        parts[-1][name] = narrow
        size += 2 * narrow.numel()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"part-{number}.safetensors" for number in range(len(parts))]
    beside = {name: (checkpoint / name).read_text() for name in _BESIDE}
    for file, part in zip(files, parts, strict=True):
        save_file(part, file, metadata=beside if file == files[0] else None)
    return files


def join(folder: Path, checkpoint: Path) -> None:
    """Make a checkpoint of the parts in a folder."""
    from safetensors import safe_open

    checkpoint.mkdir(parents=True, exist_ok=True)
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("part-*.safetensors")):
        weights |= {name: weight.float() for name, weight in load_file(file).items()}
        with safe_open(file, "pt") as opened:
            for name, text in (opened.metadata() or {}).items():
                if name in _BESIDE:
                    (checkpoint / name).write_text(text)
    weights.setdefault(_HEAD, weights[_EMBEDDING].clone())
    partial = checkpoint / f"{_WEIGHTS}.partial"
    save_file(weights, partial)
    shutil.move(partial, checkpoint / _WEIGHTS)


if __name__ == "__main__":
    main()
