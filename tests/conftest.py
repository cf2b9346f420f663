"""What every test shares: one thread, the command line in process, captures of the shipped models."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import signal
import sys
from pathlib import Path

import first_calls  # before ssmlens
import pytest
import torch

from analyses.families import interpreted

# Where flash-linear-attention is not installed, plain torch stands in for it.
if importlib.util.find_spec("fla") is None:
    sys.path.append(str(Path(__file__).parent / "stand_ins"))
else:
    interpreted.prepare()

# Without a limit on the time of one example, so that a slow machine changes no outcome.
if importlib.util.find_spec("hypothesis") is not None:  # a machine for `make test-gpu` may lack it
    from hypothesis import settings

    settings.register_profile("tests", deadline=None)
    settings.load_profile("tests")

# cuDNN multiplies in TF32 unless told otherwise; torch's own products do not.
torch.backends.cudnn.allow_tf32 = False

# The tensors of the tests are tiny: threads would only wait for each other.
torch.set_num_threads(1)


def pytest_runtest_setup(item):
    """Skip what is marked `gpu` where there is none; check types anew."""
    first_calls.begin_test()
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def complaint(self):
        """The one line on stderr, without `ssmlens: `."""
        (line,) = self.err.splitlines()
        assert line.startswith("ssmlens: ")
        return line.removeprefix("ssmlens: ")


@pytest.fixture(scope="session")
def cli():
    """cli("verify", path): runs `ssmlens verify path` in this process."""
    from ssmlens.cli import main

    def run(*words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([str(word) for word in words])
            except SystemExit as stop:
                code = stop.code
        return Said(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def ctrl_c():
    """A process begun here ends at Ctrl-C, also where the tests themselves were begun deaf to it (`command &`)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def copies(cli, tmp_path_factory):
    """copies(model, length): the file of `ssmlens capture --task copy` on two strings of that many letters."""
    folder = tmp_path_factory.mktemp("copies")

    @functools.cache
    def capture(model, length):
        out = folder / f"{model}-{length}.h5"
        options = ["--task", "copy", "--length", length, "--count", 2, "--out", out]
        said = cli("capture", "--model", model, *options)
        assert said.code == 0, said.err
        return out

    return capture


@pytest.fixture(scope="session")
def tiny_model():
    """tiny_model(family): the family's small model, with weights in which mistakes show."""
    from tiny_models import tiny_model_of

    from ssmlens.adapters.adapter import adapters

    families = {adapters[path].family: adapters[path] for path in adapters}

    def make(family):
        torch.manual_seed(0)
        model = tiny_model_of(families[family]).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture(scope="session")
def family_folder(tiny_model, tmp_path_factory):
    """family_folder(family): its tiny model with a tokenizer of letters, as `save_pretrained` leaves it."""
    from delta_models import save_tokenizer

    @functools.cache
    def save(family):
        folder = tmp_path_factory.mktemp("model")
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bar
            tiny_model(family).save_pretrained(folder)
        save_tokenizer(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def family_capture(family_folder, cli, tmp_path_factory):
    """family_capture(family): the file of `ssmlens capture --prompt` on three prompts, the last of a single token."""

    @functools.cache
    def capture(family):
        out = tmp_path_factory.mktemp("captures") / f"{family.split()[1]}.h5"
        texts = ["a b c d e f g a b c d e f g", "h i j k h", "z"]
        said = cli("capture", "--model", family_folder(family), "--prompt", *texts, "--out", out)
        assert said.code == 0, said.err
        return out

    return capture


@pytest.fixture(scope="module")
def typeseg():
    """The adapter of analyses/typeseg, which looks ahead; registered meanwhile, as where it is installed."""
    pytest.importorskip("typeseg", reason="typeseg is not installed")
    from ssmlens_typeseg import TypesegAdapter

    from ssmlens.adapters.adapter import adapters

    (path,) = TypesegAdapter.mixers
    if path not in adapters:  # imported, and taken out again, before
        adapters.register(path)(TypesegAdapter())
    yield adapters[path]
    del adapters._entries[path]
