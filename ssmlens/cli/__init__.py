"""The command line: `ssmlens COMMAND`. Each command is one file here, imported only when it runs."""

import difflib
import importlib
import sys
from collections.abc import Sequence

# Command → its module, and its line in `ssmlens --help`.
COMMANDS = {
    "capture": ("capture", "run prompts through a model; store what its layers attend to"),
    "rank-layers": ("rank_layers", "rank the layers of a capture by how attention-like they are"),
    "scores": ("scores", "what each score is: formula, range, chance level"),
    "figure": ("figure", "one figure of a layer as SVG, PNG, PDF, HTML, or its numbers"),
    "attribute": ("attribute", "a logit as a sum over layers, heads and source tokens"),
    "report": ("report", "one HTML page: maps, masks, scores, closure of a capture"),
    "edit": ("edit", "run a prompt with layers edited: top tokens before and after"),
    "effects": ("effects", "measure how edits change the predictions at prompts' targets"),
    "info": ("info", "show what a capture contains"),
    "verify": ("verify", "check a capture: bytes, numbers, maps against operands"),
    "pack": ("pack", "pack a capture folder into one HDF5 file"),
    "train": ("train", "train a model on a recall task; --preset copy-in-a-minute"),
    "sweep": ("sweep", "train many runs: arms, rates, seeds; resumes where it stopped"),
    "compare": ("compare", "compare the arms of a sweep over all learning rates"),
    "transplant": ("transplant", "train a student from each layer of a teacher"),
    "validate-ranking": (
        "validate_ranking",
        "test whether rank-layers predicts what students learn",
    ),
    "models": ("models", "list the models that come with ssmlens"),
    "dashboard": ("dashboard", "browse captures in a browser: layers, maps, signals, weights"),
    "demo": ("demo", "capture a shipped model, rank its layers, open report and dashboard"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 success, 1 failure, 2 bad use, 130 interrupted."""
    from ssmlens.cli import terminal
    from ssmlens.cli.command import print_all, run

    words = list(sys.argv[1:] if argv is None else argv)
    terminal.open_streams()
    if not words or words[0] in ("-h", "--help"):
        return print_all(_help(), 0 if words else 2)
    if words[0] == "--version":
        from ssmlens import __version__

        return print_all(f"ssmlens {__version__}")
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
        terminal.complain(f"unknown command {words[0]!r}; {hint}")
        return 2
    try:
        module = importlib.import_module(f"ssmlens.cli.{COMMANDS[words[0]][0]}")
        return run(module.COMMAND, words[0], words[1:])
    except KeyboardInterrupt:  # before the command could handle it
        terminal.complain("interrupted")
        return 130


def _help() -> str:
    lines = [f"  {name:16}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ssmlens COMMAND [options]",
            "",
            "See what Mamba layers attend to, and check that it is what they compute.",
            "",
            *lines,
            "",
            "`ssmlens COMMAND --help` lists a command's options. Start with: ssmlens demo",
        ]
    )
