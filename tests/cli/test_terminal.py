"""What reaches a terminal has no control characters; streams that are closed or full are one line."""

import json
import os
import subprocess
import sys

import pytest

from ssmlens.cli import command, terminal

EVIL = "\x1b]0;pwned\x07\x1b[31mred\x9b2J\x7f\u202egnp"
SPELT = r"\x1b]0;pwned\x07\x1b[31mred\x9b2J\x7f\u202egnp"


def run(words, **streams):
    env = os.environ | {"OMP_NUM_THREADS": "1"} | streams.pop("env", {})
    line = [sys.executable, "-m", "ssmlens", *words]
    return subprocess.run(
        line, capture_output="stdout" not in streams, env=env, check=False, **streams
    )


def shell(words, redirection):
    line = " ".join([sys.executable, "-m", "ssmlens", *words, redirection])
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)


def test_control_characters_are_spelt_out():
    assert terminal.escaped(EVIL) == SPELT
    assert terminal.escaped("é·△ a\tb\nc\r") == "é·△ a\tb\nc\\x0d"
    assert terminal.one_line(f" a\n{EVIL}  b") == f"a {SPELT} b"
    long = terminal.one_line("x" * 50_000_000)
    assert len(long) < 4100
    assert "50000000 characters" in long


def test_an_arm_s_escape_sequences_do_not_reach_the_terminal(cli, tmp_path):
    for seed in range(2):
        run = tmp_path / "runs" / f"r{seed}"
        run.mkdir(parents=True)
        (run / "config.json").write_text(
            json.dumps({"arm": EVIL, "seed": seed, "learning_rate": 1})
        )
        line = {"step": 1, "split": "eval", "length": 4, "char": 0.5, "string": 0.5, "loss": 1.0}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (run / "status.json").write_text(json.dumps({"state": "done", "step": 1, "steps": 1}))
    said = cli("compare", str(tmp_path / "runs"))
    assert SPELT.split("red")[0] in said.out
    assert not set(said.out) & {"\x1b", "\x07", "\x9b", "\x7f"}


def test_nor_do_those_of_names_and_options(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["info", EVIL], [EVIL], ["rank-layers", "x.h5", "--by", EVIL]):
        said = cli(*words)
        assert said.code == 2
        assert not set(said.out + said.err) & {"\x1b", "\x07", "\x9b", "\x7f"}


@pytest.mark.parametrize("words", [["models"], ["info", "--help"]])
@pytest.mark.parametrize(
    "redirection", [">/dev/full", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "| head -c 1"]
)
def test_streams_that_are_closed_or_full(words, redirection):
    said = shell(words, redirection)
    assert "Traceback" not in said.stderr
    assert "Exception ignored" not in said.stderr
    if redirection == ">/dev/full":
        assert said.stderr == "ssmlens: cannot write to stdout: no space left on device\n"
        assert said.returncode == 1
    else:
        assert (said.returncode, said.stderr) == (0, "")


def test_what_a_closed_stdout_would_print_gets_into_no_file(tmp_path):
    """Else the first file that is opened has its number."""
    out = tmp_path / "c.h5"
    words = ["capture", "--task", "copy", "--length", "3", "--count", "1", "--out", str(out)]
    said = shell(words, ">&-")
    assert (said.returncode, said.stderr) == (0, "")
    assert run(["verify", str(out)]).returncode == 0


def test_a_terminal_of_few_characters(tmp_path):
    said = run(["info", "é\udcff△"], env={"PYTHONIOENCODING": "ascii"})
    assert said.returncode == 2
    assert b"there is no capture" in said.stderr
    assert said.stderr.count(b"\n") == 1


def test_names_that_are_not_utf_8(tmp_path, cli):
    out = os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.h5")
    words = ["--task", "copy", "--length", "3", "--count", "1", "--out", out]
    page, figure = str(tmp_path / "r.html"), str(tmp_path / "f.html")
    for line in (
        ["capture", *words],
        ["info", out, "--json"],
        ["report", out, "--out", page],
        ["figure", out, "--layer", "0", "--out", figure],
    ):
        said = cli(*line)
        assert (said.code, said.err) == (0, ""), said
    for line in (["info", out], ["verify", out]):  # which print the name
        said = run(line)
        assert (said.returncode, said.stderr) == (0, b""), said


class Broken:
    json = False

    def run(self):
        raise ZeroDivisionError("integer division\nor modulo")


def test_an_unexpected_error_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(command, "parse_options", lambda *_: Broken())
    assert command.run(Broken, "x", []) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ssmlens: ZeroDivisionError: integer division (unexpected error")
    assert said.err.count("\n") == 1
    assert command.run(Broken, "x", ["--json"]) == 1
    assert "ZeroDivisionError" in json.loads(capsys.readouterr().out)["error"]
    monkeypatch.setenv("SSMLENS_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        command.run(Broken, "x", [])
    monkeypatch.delenv("SSMLENS_DEBUG")
    Broken.run = lambda self: bytes(1 << 60)
    assert command.run(Broken, "x", []) == 1
    assert capsys.readouterr().err == "ssmlens: there is not enough memory\n"
