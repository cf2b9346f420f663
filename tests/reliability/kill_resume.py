"""Kill `ssmlens capture` again and again at random times, resume it, and say as JSON what was found.

    python tests/reliability/kill_resume.py 100 FOLDER [SEED]

Every round captures a shipped model anew: `kill -9` after a random part of the time that a whole capture takes, look
at what bears the final name, resume to the end, and compare with a capture that nobody disturbed. Every third round
is killed once more while it resumes. Rounds take turns at one file and a folder of files. This process imports
everything once and forks a child for each capture; torch has one thread, so that there is none to lose in the fork.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import ssmlens.cli
from ssmlens.errors import SsmlensError
from ssmlens.store import open_capture, verify

torch.set_num_threads(1)

REQUEST = ["--model", "copy-mamba1-mimetic", "--task", "copy", "--length", "3", "--count", "2"]
OUTS = ("run.h5", "run")


def start(out: Path, *options: str) -> int:
    """A child that runs `ssmlens capture`; returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        with (out.parent / "said.txt").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            code = ssmlens.cli.main(["capture", *REQUEST, "--out", str(out), *options])
    finally:
        os._exit(code)


def killed(out: Path, after: float, *options: str) -> bool:
    """Capture, and kill it `after` some seconds; False when it had finished before."""
    child = start(out, *options)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)  # a child that has ended is still there until it is waited for
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def complete(out: Path, *options: str) -> None:
    """Capture to the end; RuntimeError with what it said when it fails."""
    if os.waitstatus_to_exitcode(os.waitpid(start(out, *options), 0)[1]):
        raise RuntimeError((out.parent / "said.txt").read_text().strip())


def problems(out: Path, digest: str) -> list[str]:
    """What is wrong with what bears the final name: nothing, where nothing bears it."""
    if not out.exists():
        return []
    try:
        damages = [str(damage) for damage in verify(out)]
        with open_capture(out) as capture:
            if capture.digest != digest:
                damages.append(f"digest {capture.digest}, undisturbed {digest}")
    except SsmlensError as error:
        return [str(error)]
    return damages


def round_of(out: Path, digest: str, seconds: float, twice: bool, chance: random.Random) -> dict:
    """One capture, killed once or twice and resumed."""
    found = {"kills": 0, "finished_before_kill": 0, "published_at_kill": 0, "problems": []}
    for options in ((), ("--resume",))[: 1 + twice]:
        hit = killed(out, chance.uniform(0, seconds), *options)
        found["kills" if hit else "finished_before_kill"] += 1
        found["published_at_kill"] += hit and out.exists()
        found["problems"] += [f"after a kill: {p}" for p in problems(out, digest)]
    try:
        complete(out, "--resume")
    except RuntimeError as error:
        found["problems"].append(f"resume failed: {error}")
    found["problems"] += [f"resumed: {p}" for p in problems(out, digest)]
    left = sorted(p.name for p in out.parent.iterdir() if p.name not in ("said.txt", out.name))
    found["problems"] += [f"left behind: {name}" for name in left]
    return found


def main(kills: int, folder: Path, seed: int) -> dict:
    """Rounds until `kills` captures were really killed; the findings added up."""
    digests, seconds = {}, {}
    for out in OUTS:
        place = folder / f"undisturbed-{out}"
        place.mkdir()
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # here, so that everything is imported before any fork
            ssmlens.cli.main(["capture", *REQUEST, "--out", str(place / out)])
        began = time.perf_counter()
        complete(place / out, "--overwrite")
        seconds[out] = time.perf_counter() - began
        with open_capture(place / out) as capture:
            digests[out] = capture.digest
    chance = random.Random(seed)
    total = {"kills": 0, "finished_before_kill": 0, "published_at_kill": 0, "problems": []}
    rounds = 0
    while total["kills"] < kills and rounds < 3 * kills and not total["problems"]:
        out = OUTS[rounds % len(OUTS)]
        place = folder / f"round-{rounds}"
        place.mkdir()
        found = round_of(place / out, digests[out], seconds[out], rounds % 3 == 2, chance)
        total = {name: total[name] + found[name] for name in total}
        shutil.rmtree(place, ignore_errors=bool(found["problems"]))
        rounds += 1
    return total | {"rounds": rounds, "seconds_undisturbed": seconds, "digests": digests}


if __name__ == "__main__":
    words = sys.argv[1:]
    chosen = int(words[2]) if len(words) > 2 else random.randrange(2**32)
    print(json.dumps({"seed": chosen, **main(int(words[0]), Path(words[1]), chosen)}, indent=1))
