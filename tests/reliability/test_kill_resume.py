"""`kill -9` at random times during a capture: no bad file under a final name, and the digest of an undisturbed run."""

import json
import os
import subprocess
import sys
from pathlib import Path

KILLS = int(os.environ.get("SSMLENS_KILLS", "15"))  # 100 take about two minutes


def test_a_killed_capture_resumes_to_the_digest_of_an_undisturbed_one(tmp_path):
    script = Path(__file__).with_name("kill_resume.py")
    # One thread in the assembling child too: results do not hang on how many cores are free.
    answer = subprocess.run(
        [sys.executable, str(script), str(KILLS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["problems"] == [], found
    assert found["kills"] >= KILLS, found
    one_file, folder = found["digests"].values()
    assert one_file == folder
