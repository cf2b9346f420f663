"""The demo: ranked, reported, and on a terminal the dashboard on the layer that copies beside one that does not."""

import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

MODEL = "copy-mamba2-mimetic"


def test_where_nobody_watches_it_ends_with_the_page(cli, here):
    told = cli("demo", "--model", MODEL, "--json").json
    assert told["ranking"]["layers"][0]["layer"] == 3
    assert told["capture"]["out"] == f"demo/{MODEL}.h5"
    assert told["beside"] == "demo/copy-mamba2-default.h5"
    assert (here / told["page"]).stat().st_size > 10_000


@pytest.mark.usefixtures("ctrl_c")
def test_on_a_terminal_it_ends_with_the_dashboard_until_ctrl_c(tmp_path):
    (tmp_path / "demo").mkdir()
    page = tmp_path / "demo" / "report.html"
    page.write_text("what an earlier demo left is replaced")
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "ssmlens", "demo", "--model", MODEL]
    environment = {**os.environ, "BROWSER": "true", "OMP_NUM_THREADS": "1"}
    options = {"stdout": theirs, "stderr": subprocess.PIPE, "cwd": tmp_path, "env": environment}
    with subprocess.Popen(words, **options) as process, os.fdopen(ours) as terminal:
        try:
            os.close(theirs)
            lines = []
            while not (lines and lines[-1].endswith("(Ctrl-C ends it)")):
                lines.append(terminal.readline().strip())
            assert f"open {page.as_uri()}" in lines
            assert page.stat().st_size > 10_000
            address = lines[-1].split()[0]
            one, other = re.search(
                r"/compare\?capture=(\w+)&layer=3&against=(\w+)\.3\.0&limits=own$", address
            ).groups()
            assert one != other
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
