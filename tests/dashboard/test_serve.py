import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from ssmlens_dashboard.app import make_app
from ssmlens_dashboard.guard import Access
from ssmlens_dashboard.serve import listen, server_on

from ssmlens.errors import UsageError


@pytest.mark.usefixtures("ctrl_c")
def test_the_command_prints_its_address_answers_there_and_ends_at_ctrl_c(copying):
    words = [
        sys.executable,
        "-m",
        "ssmlens",
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


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as here:
            here.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this computer has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_is_listened_on_and_answers_to_the_address_that_is_told(copying, host):
    with listen(host, 0) as here:
        access = Access(host, here.getsockname()[1])
        server = server_on(here, make_app([copying], access).server)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert access.address.startswith("http://[::1]:")
            with urllib.request.urlopen(f"{access.address}layers", timeout=30) as answer:
                assert b"_dash-config" in answer.read()
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} .*choose another `port`"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("no.such.host.invalid", 0)])
def test_an_address_that_cannot_be_had_is_one_line(host, port):
    with pytest.raises(UsageError, match="cannot listen on"):
        listen(host, port)


def test_a_path_that_is_not_there_is_bad_use(cli, tmp_path):
    said = cli("dashboard", tmp_path / "nothing", "--port", "0", "--no-browser")
    assert said.code == 2
    assert "nothing" in said.complaint
