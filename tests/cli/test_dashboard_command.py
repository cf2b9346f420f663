import socket

import pytest
import torch

from ssmlens.cli.dashboard import leave_cores


@pytest.mark.parametrize(("words", "status"), [((), 404), (("--follow-links",), 200)])
def test_links_are_followed_if_that_is_asked_for(cli, copies, tmp_path, monkeypatch, words, status):
    answers = []

    def serve(here, application, _ready):
        host = {"Host": f"127.0.0.1:{here.getsockname()[1]}"}
        answer = application.test_client().get("/values?layer=0&zoom=0-2,0-2", headers=host)
        answers.append(answer.status_code)

    monkeypatch.setattr("ssmlens_dashboard.serve.serve", serve)
    (tmp_path / "link.h5").symlink_to(copies("copy-mamba1-mimetic", 17))
    said = cli("dashboard", tmp_path, "--port", "0", "--no-browser", *words)
    assert (said.code, answers) == (0, [status])


def test_a_taken_port_is_refused_by_its_flag(cli, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = cli("dashboard", tmp_path, "--port", taken.getsockname()[1], "--no-browser")
    assert said.code == 2
    assert said.err.endswith("; choose another --port\n")


def test_the_browser_is_left_half_of_the_cores():
    before = torch.get_num_threads()
    try:
        for taken, left in ((9, 4), (2, 1), (1, 1)):
            torch.set_num_threads(taken)
            leave_cores()
            assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)
