"""Progress of long work: plain lines where there is no terminal, a bar where there is one."""

import io
import sys

import pytest

from ssmlens.cli import progress as module


@pytest.fixture
def clock(monkeypatch):
    """A list with the time, for the test to set."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_now_and_then(clock, capsys):
    with module.progress("capturing a model") as tell:
        for step in range(1, 8):
            clock[0] += 2
            tell(step, 7, f"layer {step}")
    assert capsys.readouterr().err.splitlines() == [
        "capturing a model: 3 of 7 layer 3",
        "capturing a model: 6 of 7 layer 6",
    ]


def test_short_work_says_nothing(clock, capsys):
    with module.progress("verifying") as tell:
        for step in range(100):
            clock[0] += 0.04
            tell(step, 100)
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_without_a_remark(clock, capsys):
    with module.progress("scoring") as tell:
        clock[0] += 60
        tell(1, 4)
    assert capsys.readouterr().err == "scoring: 1 of 4\n"


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with module.progress("capturing runs/[/a]") as tell:
        tell(1, 2, "layer [3]")
        tell(2, 2, "done")
    assert "capturing runs/[/a]" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_an_exception_inside_passes_through(capsys):
    with pytest.raises(KeyboardInterrupt), module.progress("verifying"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""
