"""The task of bytes, against strings cut and searched by hand."""

import json
import math

import pytest
import torch

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.models.tokenizers import ByteTokenizer
from ssmlens.tasks.bytes import Bytes, choose_held_out, read_texts
from ssmlens.tasks.repeat import Repeat
from ssmlens.tasks.rows import NO_TARGET
from ssmlens.training.config import TrainConfig
from ssmlens.training.plan import check
from ssmlens.training.trainee import Trainee


@pytest.fixture
def folder(tmp_path):
    """Six works, one of them a folder, whose bytes tell which work they are of; and what is no text."""
    there = tmp_path / "text"
    (there / "f").mkdir(parents=True)
    for name in "abcde":
        (there / name).write_text(name * 300)
    (there / "f" / "one").write_text("f" * 200)
    (there / "f" / "two").write_text("F" * 100)
    (there / "binary").write_bytes(b"\xff\xfe\x00")
    (there / "empty").write_text("")
    return there


def test_rows_are_text_and_strings_said_twice(folder):
    task = Bytes(text=str(folder), repeats=0.5, length=16, context=50, count=7)
    batch = task.build(3)
    assert batch.tokens.shape == (7, 50)
    assert torch.equal(batch.tokens[:, 1:], batch.labels[:, :-1])
    text, strings = batch.tokens[:3], batch.tokens[3:]  # round(3.5) = 4 of strings, to even
    whole = b"\n\n".join(read_texts_of_training(folder))
    for row in text.tolist():
        assert bytes(row) in whole
    assert (batch.target[:3] == NO_TARGET).all()
    for row, letters, targets in zip(
        strings.tolist(), (2, 4, 8, 16), batch.target[3:], strict=True
    ):
        assert all(32 <= byte < 127 for byte in row)
        wanted = []
        for query in range(50):
            place, inside = divmod(query + 1, 2 * letters)
            again = inside > letters  # its second letter or a later one, the second time
            wanted.append(place * 2 * letters + inside - letters if again else NO_TARGET)
        assert targets.tolist() == wanted
        for start in range(0, 50 - 2 * letters + 1, 2 * letters):
            assert row[start : start + letters] == row[start + letters : start + 2 * letters]


def read_texts_of_training(folder):
    texts = read_texts(folder)
    for name in sorted(texts.works):
        if name not in texts.kept_back:
            files = sorted((folder / name).iterdir()) if name == "f" else [folder / name]
            yield b"\n\n".join(file.read_bytes() for file in files)


@pytest.mark.parametrize(("repeats", "strings"), [(0, 0), (1, 1)])
def test_a_batch_of_one(folder, repeats, strings):
    batch = Bytes(text=str(folder), repeats=repeats, length=16, context=33, count=1).build(0)
    assert batch.tokens.shape == (1, 33)
    assert int((batch.target != NO_TARGET).any(1).sum()) == strings


def test_rows_depend_on_the_seed_alone(folder):
    task = Bytes(text=str(folder), length=16, context=50, count=4)
    assert torch.equal(task.build(5).tokens, task.build(5).tokens)
    assert not torch.equal(task.build(5).tokens, task.build(6).tokens)


def test_whole_works_are_held_out(folder):
    texts = read_texts(folder)
    assert dict(texts.works) == {**dict.fromkeys("abcde", 300), "f": 302}
    (kept,) = texts.kept_back  # each is more than 4 % of the bytes, so the smallest, by name
    assert kept == "a"
    assert set(texts.held_out.tolist()) == {ord("a")}
    assert ord("a") not in texts.training.tolist()
    assert len(texts.training) == 4 * 300 + 302 + 4 * 2


def test_the_share_that_is_held_out():
    sizes = {f"work {k}": 10 + k for k in range(300)} | {"large": 50_000}
    total, kept = sum(sizes.values()), choose_held_out(sizes)
    assert 0.02 * total <= sum(sizes[name] for name in kept) <= 0.04 * total
    assert "large" not in kept
    assert choose_held_out(dict(reversed(sizes.items()))) == kept
    assert len(choose_held_out({f"work {k}": 10 for k in range(50)})) == 1, "2 % are enough"


def test_of_two_works_one_is_held_out(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name * 90)
    texts = read_texts(tmp_path)
    assert texts.kept_back == ["a"]
    assert texts.training.tolist() == [ord("b")] * 90


def test_an_exam_is_printable_letters_said_twice():
    exam = Bytes(text="anywhere").at_length(5)
    assert isinstance(exam, Repeat)
    tokens = exam.build(1).tokens
    assert torch.equal(tokens[:, :5], tokens[:, 5:])
    assert int(tokens.min()) >= 32
    assert int(tokens.max()) < 127


def test_bits_of_held_out_text(folder):
    """A model that says "a" with probability ½, and all else alike: the held-out text is of a's."""
    task = Bytes(text=str(folder), length=16, context=40, count=3)

    def model(tokens):
        logits = torch.full((*tokens.shape, 256), math.log(0.5 / 255))
        logits[..., ord("a")] = math.log(0.5)
        return logits

    assert task.measure_more(model, 0, torch.device("cpu"))["bits"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"repeats": 1.5}, "`repeats` in 0..1"),
        ({"length": 20}, "`longest` a multiple of 8 above it"),
        ({"length": 8}, "`longest` a multiple of 8 above it"),
        ({"context": 255}, "`context` of at least 256"),
        ({"packing": True}, "`packing` left out"),
        ({"min_length": 3}, "`min_length` left out"),
    ],
)
def test_impossible_options(options, told):
    with pytest.raises(UsageError, match=told):
        Bytes(text="anywhere", **options)


def test_text_that_is_not_to_be_had(tmp_path, folder):
    empty, alone = tmp_path / "empty", tmp_path / "alone"
    empty.mkdir()
    alone.mkdir()
    (alone / "one").write_text("text" * 99)
    for text, told in [
        (tmp_path / "none", "no such folder"),
        (empty, "no text"),
        (alone, "only one work"),
        (folder, "300 bytes to train on or to hold out: a row needs 1025"),
    ]:
        with pytest.raises(UsageError, match=told) as caught:
            Bytes(text=str(text)).prepare(torch.device("cpu"))
        assert "\n" not in str(caught.value)


def config(folder, **options):
    small = {"d_model": 16, "n_layer": 1, "mixer": "Mamba1", "batch": 4, "eval_count": 3}
    return TrainConfig(
        task="bytes", text=str(folder), longest=16, context=50, steps=3, **(small | options)
    )


def test_a_config_of_bytes(folder):
    plan = check(config(folder))
    assert (plan.task.length, plan.task.context, plan.task.repeats) == (16, 50, 0.3)
    assert sorted(plan.exams) == [64, 128], "the task's own lengths, where none are given"
    assert sorted(check(config(folder, eval_lengths=(5,))).exams) == [5]
    with pytest.raises(UsageError, match="`length` does not go with `task` bytes"):
        check(config(folder, length=30))
    with pytest.raises(UsageError, match="`task` bytes needs `text`"):
        check(TrainConfig(task="bytes"))


def test_a_trainee_of_bytes_is_asked_for_both(folder):
    trainee = Trainee(check(config(folder, eval_lengths=(5,))), torch.device("cpu"))
    assert isinstance(trainee.model.tokenizer, ByteTokenizer)
    first = float(trainee.train_step())
    assert first == pytest.approx(math.log(256), abs=0.3)
    values = trainee.evaluate(5)
    assert values["bits"] == pytest.approx(8, abs=0.4)
    assert 0 <= values["char"] <= 1


def test_a_run_of_bytes_by_command(cli, folder, tmp_path):
    said = cli(
        *["train", "--task", "bytes", "--text", folder, "--longest", 16, "--context", 50],
        *[
            "--repeats",
            0.5,
            "--eval-lengths",
            4,
            7,
            "--steps",
            2,
            "--batch",
            3,
            "--mixer",
            "Mamba1",
        ],
        *[
            "--d-model",
            16,
            "--n-layer",
            1,
            "--eval-count",
            2,
            "--device",
            "cpu",
            "--out",
            tmp_path / "run",
        ],
    )
    assert said.code == 0, said.err
    assert "characters right at length 4" in said.out
    assert "bits per byte" in said.out
    model = ssmlens.load_model(tmp_path / "run" / "checkpoints" / "last")
    assert model.tokenizer.encode("é") == [0xC3, 0xA9]
    strings = json.loads((tmp_path / "run/checkpoints/last/vocabulary.json").read_text())
    assert strings[65:68] == ["A", "B", "C"]
    assert strings[10] == "<0a>"
    told = cli("train", "--task", "bytes", "--text", tmp_path / "none", "--out", tmp_path / "not")
    assert told.complaint == f"--text {tmp_path / 'none'}: there is no such folder"
    assert not (tmp_path / "not").exists()
