import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from ssmlens_dashboard.serve import listen

from ssmlens.errors import UsageError


@pytest.mark.usefixtures("ctrl_c")
def test_the_command_prints_its_address_answers_there_and_ends_at_ctrl_c(copying):
    words = [
        sys.executable,
        "-m",
        "ssmlens.cli",
        "dashboard",
        str(copying),
        "--port",
        "0",
        "--no-browser",
    ]
    environment = {**os.environ, "DASH_DEBUG": "true", "FLASK_DEBUG": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            address = process.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(f"{address}layers", timeout=30) as answer:
                assert answer.headers["Server"] == "ssmlens"
                assert b"_dash-config" in answer.read()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "closed\n", "")


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} .*choose another --port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("no.such.host.invalid", 0)])
def test_an_address_that_cannot_be_had_is_one_line(host, port):
    with pytest.raises(UsageError, match="cannot listen on"):
        listen(host, port)


def test_a_path_that_is_not_there_is_bad_use(cli, tmp_path):
    said = cli("dashboard", tmp_path / "nothing", "--port", "0", "--no-browser")
    assert said.code == 2
    assert "nothing" in said.complaint
