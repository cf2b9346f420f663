"""No damaged capture is read wrong, and none takes the interpreter down: it is refused, or reads exactly right."""

import itertools
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

READER = Path(__file__).with_name("read_all.py")


def cut_short(data, rng):
    return data[: rng.randrange(len(data))]


def flip_a_bit(data, rng):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _block(data, rng, fill):
    """A block as disks lose them: a power of two long, at a multiple of its length, or any."""
    size = 1 << rng.randrange(3, 13)
    start = rng.randrange(len(data))
    start -= start % size if rng.random() < 0.5 else 0
    block = data[start : start + size]
    data[start : start + size] = fill(len(block))
    return data


def lose_a_block(data, rng):
    return _block(data, rng, bytes)


def erase_a_block(data, rng):
    return _block(data, rng, lambda n: b"\xff" * n)


def scramble_a_block(data, rng):
    return _block(data, rng, rng.randbytes)


def swap_two_blocks(data, rng):
    size = min(1 << rng.randrange(6, 12), len(data) // 2)
    a, b = (rng.randrange(len(data) // size) * size for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


def append_a_byte(data, rng):
    return data + rng.randbytes(rng.randrange(1, 5000))


DAMAGES = [
    *[cut_short] * 40,
    *[flip_a_bit] * 60,
    *[lose_a_block] * 40,
    *[erase_a_block] * 25,
    *[scramble_a_block] * 25,
    *[swap_two_blocks] * 8,
    *[append_a_byte] * 2,
]


FILES = int(os.environ.get("SSMLENS_DAMAGED", "200"))


def read_all(paths):
    """What becomes of each capture: its content's hash, or None where it was refused."""
    run = subprocess.run(
        [sys.executable, READER],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0, f"exit {run.returncode} at {lines[-1:]}: {run.stderr[-2000:]}"
    answers = [line.split(" ", 1) for line in lines if not line.startswith("reading")]
    assert len(answers) == len(paths), f"a message of several lines: {run.stdout}"
    return [text if kind == "content" else None for kind, text in answers]


def judged(original, damaged):
    """Read all; how many were refused. Fails where one reads as something else than the original."""
    right, *contents = read_all([original, *damaged])
    assert right is not None
    for path, content in zip(damaged, contents, strict=True):
        assert content in (None, right), f"{path} reads wrong"
    return contents.count(None)


@pytest.mark.parametrize("seed", range(FILES // len(DAMAGES)))
def test_damaged_files(sample, tmp_path, seed):
    original = sample.write_capture(tmp_path / "run.h5")
    rng = random.Random(2024 + seed)
    damaged = []
    for number, damage in enumerate(DAMAGES):
        path = tmp_path / f"{number:03d}-{damage.__name__}.h5"
        path.write_bytes(damage(bytearray(original.read_bytes()), rng))
        damaged.append(path)
    refused = judged(original, damaged)
    # Damage to room that is not in use, or to labels that only h5py shows, is not damage to the capture.
    assert refused > len(damaged) // 2


def test_damaged_folders(sample, tmp_path):
    original = sample.write_capture(tmp_path / "run")
    rng = random.Random(99)
    damaged = []
    for number in range(40):
        path = tmp_path / f"{number:02d}"
        shutil.copytree(original, path)
        file = rng.choice(sorted(path.iterdir())) if number % 2 else path / "manifest.json"
        file.write_bytes(rng.choice(DAMAGES)(bytearray(file.read_bytes()), rng))
        damaged.append(path)
    assert judged(original, damaged) > 20


def test_every_lost_page(sample, tmp_path):
    """Each page of the file in turn, zeroed and erased: a checksum of zeros must not pass for a checksum."""
    original = sample.write_capture(tmp_path / "run.h5")
    data = original.read_bytes()
    damaged = []
    for start, value in itertools.product(range(0, len(data), 4096), (0x00, 0xFF)):
        path = tmp_path / f"{start}-{value}.h5"
        page = len(data[start : start + 4096])
        path.write_bytes(data[:start] + bytes([value]) * page + data[start + page :])
        damaged.append(path)
    assert judged(original, damaged) > len(damaged) // 2
