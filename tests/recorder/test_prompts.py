"""Prompts from everything a user may have, and one clear line for everything else."""

import json
import os

import pytest
import torch

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.models.tokenizers import Vocabulary
from ssmlens.recorder.prompts import (
    Prompts,
    default_prompts,
    from_file,
    from_named_task,
    from_texts,
    from_tokens,
)

LETTERS = Vocabulary(["<pad>", "|", "<end>", *"abcdefghijklmnopqrstuvwxyz"])


class Bytes:
    """A tokenizer that is not made of letters."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

    def token_strings(self, ids):
        return [chr(i) for i in ids]


@pytest.mark.parametrize(
    "given", [[[3, 4], [5]], ((3, 4), (5,)), [torch.tensor([3, 4]).tolist(), [5]]]
)
def test_lists_of_ids(given):
    prompts = from_tokens(given)
    assert prompts.tokens == ((3, 4), (5,))
    assert prompts.length == [2, 1]
    assert prompts.kinds == ("tokens", "tokens")
    assert prompts.padded(pad=9).tolist() == [[3, 4], [5, 9]]
    assert prompts.padded_target() is None


@pytest.mark.parametrize("given", [[3, 4], torch.tensor([3, 4]), torch.tensor([[3, 4]])])
def test_one_sequence(given):
    assert from_tokens(given).tokens == ((3, 4),)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.zeros(2, 3), "integer tensor .* torch.float32, shape"),
        (torch.zeros(2, 3, 4, dtype=torch.long), r"shape \(2, 3, 4\)"),
        (torch.zeros(0, 3, dtype=torch.long), "there is no prompt"),
        (torch.zeros(2, 0, dtype=torch.long), "prompt 0 .* is empty"),
        (torch.zeros(0, dtype=torch.long), "there is no prompt"),
        (torch.tensor([[True]]), "prompt 0: True is not a token id"),
        ([], "there is no prompt"),
        ([[3], []], "prompt 1 .* is empty"),
    ],
)
def test_what_are_no_token_ids(given, told):
    with pytest.raises(UsageError, match=told):
        from_tokens(given)


def test_texts():
    prompts = from_texts(["ab|ab", "z"], LETTERS)
    assert prompts.tokens == ((3, 4, 1, 3, 4), (28,))
    assert prompts.texts == ("ab|ab", "z")
    assert prompts.kinds == ("text", "text")
    with pytest.raises(UsageError, match="'A' is not a token of this model"):
        from_texts(["aA"], LETTERS)
    with pytest.raises(UsageError, match=r"prompt 1 \(''\) is empty"):
        from_texts(["a", ""], LETTERS)
    with pytest.raises(UsageError, match=r"no tokenizer \(it has none\); pass token ids"):
        from_texts(["a"], None, "it has none")


@pytest.mark.parametrize("token", [-1, 29, 10**30])
def test_ids_the_model_does_not_have(token):
    prompts = from_tokens([[1], [0, 28, token]])
    with pytest.raises(UsageError, match=rf"prompt 1: token id {token} is out of range: .*0\.\.28"):
        prompts.check_vocabulary(29)
    from_tokens([[0, 28]]).check_vocabulary(29)


def test_a_file_of_texts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffab|ab\r\n\n  \nz\u2028 y\n".encode())
    prompts = from_file(path, Bytes())
    assert prompts.texts == ("ab|ab", "z\u2028 y")
    assert prompts.kinds == ("text", "text")


def test_a_file_of_json_lines(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"text": "z\u2028é"}, ensure_ascii=False), "", '{"tokens": [3, 1]}']
    path.write_text("\n".join(lines), encoding="utf-8")
    prompts = from_file(path, Bytes())
    assert prompts.tokens == (tuple("z\u2028é".encode()), (3, 1))
    assert prompts.kinds == ("text", "tokens")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "", "a.txt contains no prompt; write one per line"),
        ("a.jsonl", "\n \n", "a.jsonl contains no prompt"),
        ("a.txt", "ab\n\nAB\n", "a.txt, line 3: 'A' is not a token"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": ""}', r"a.jsonl, line 3: prompt 0 \(''\) is empty"),
        ("a.jsonl", '{"tokens": []}', "a.jsonl, line 1: prompt 0 .* is empty"),
        ("a.jsonl", '{"tokens": [1, "b"]}', "line 1: prompt 0: 'b' is not a token id"),
        ("a.jsonl", '{"tokens": [true]}', "line 1: prompt 0: True is not a token id"),
        ("a.jsonl", '{"tokens": [1.5]}', "line 1: prompt 0: 1.5 is not a token id"),
        ("a.jsonl", '{"text": "a"}\n{"text": "a"', "line 2: it is not JSON"),
        ("a.jsonl", '{"text": "a", "tokens": [1]}', 'line 1: a line is {"text"'),
        ("a.jsonl", "[1, 2]", 'line 1: a line is {"text"'),
        ("a.csv", "ab", "a.csv: prompts are read from .txt"),
        ("a.txt", "\xff", "a.txt is not UTF-8 text"),
        ("a.txt", None, "cannot read .*a.txt: No such file"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, told):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=told):
        from_file(path, LETTERS)


def test_a_folder_is_not_a_file_of_prompts(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UsageError, match=r"a\.txt cannot be read: it is not a plain file"):
        from_file(tmp_path / "a.txt", LETTERS)


@pytest.mark.parametrize("target", [(0,), (0, 1, 2), (-2, 0), (1, 0), (0, 2)])
def test_targets_that_point_nowhere(target):
    with pytest.raises(UsageError, match="prompt 0: its target must have for each of its 2 tokens"):
        Prompts(((3, 4),), ("copy",), ("",), (target,))


def test_targets_of_prompts_of_different_length_are_padded():
    with_target = Prompts(((3, 4),), ("copy",), ("",), ((-1, 0),))
    prompts = from_tokens([[1, 2, 3]]) + with_target
    target = prompts.padded_target()
    assert target is not None
    assert target.tolist() == [[-1, -1, -1], [-1, 0, -1]]
    assert len(prompts) == 2


class Model(torch.nn.Module):
    def __init__(self, tokenizer, size=40):
        super().__init__()
        self.embedding = torch.nn.Embedding(size, 2)
        self.tokenizer = tokenizer


def test_tasks_draw_from_the_models_own_tokens():
    repeat = from_named_task("repeat", Model(None), {"length": 300, "count": 1})
    assert set(repeat.tokens[0]) == set(range(40))
    letters = from_named_task("repeat", Model(LETTERS), {"length": 300, "count": 1})
    assert set(letters.tokens[0]) == set(range(3, 29))
    assert letters.texts[0] == letters.texts[0][:300] * 2
    copy = from_named_task("copy", Model(LETTERS), {"length": 5, "count": 2}, seed=1)
    assert copy.length == [12, 12]
    assert [text[:6] for text in copy.texts] == [text[6:11] + "|" for text in copy.texts]
    with pytest.raises(UsageError, match="did you mean 'repeat'"):
        from_named_task("repaet", Model(None), {})


def test_a_model_of_bytes_repeats_printable_ones(tmp_path):
    repeat = from_named_task("repeat", Model(None, 256), {"length": 2000, "count": 1})
    assert set(repeat.tokens[0]) == set(range(32, 127))
    for name in "ab":
        (tmp_path / name).write_text(name * 2000)
    options = {"text": str(tmp_path), "count": 4}
    rows = from_named_task("bytes", Model(Bytes(), 256), options)
    assert rows.length == [1024] * 4
    assert rows.kinds == ("bytes",) * 4
    for model in (Model(LETTERS), Model(None)):
        with pytest.raises(UsageError, match="`task` bytes is for models whose tokens are bytes"):
            from_named_task("bytes", model, options)


def test_duplicates_of_the_models_letters():
    prompts = from_named_task("duplicates", Model(LETTERS), {"count": 2})
    assert prompts.length == [82, 82]
    assert set(prompts.tokens[0][:40]) <= set(range(3, 29))


@pytest.mark.parametrize("task", ["copy", "stack", "sort", "recall", "ngram", "duplicates"])
@pytest.mark.parametrize("tokenizer", [None, Bytes(), Vocabulary(["<pad>", "|", "<end>"])])
def test_tasks_of_letters_need_letters(task, tokenizer):
    with pytest.raises(UsageError, match=f"`task` {task} is for models .*; use `task` repeat"):
        from_named_task(task, Model(tokenizer), {})


@pytest.mark.parametrize(
    ("task", "options", "length", "answer"),
    [
        ("stack", {}, 40, lambda s: s[::-1]),
        ("stack", {"length": 5}, 5, lambda s: s[::-1]),
        ("sort", {}, 26, lambda s: "".join(sorted(s))),
        ("sort", {"length": 7}, 7, lambda s: "".join(sorted(s))),
    ],
)
def test_strings_of_letters(task, options, length, answer):
    for text in from_named_task(task, Model(LETTERS), options).texts:
        string, said = text.removesuffix("<end>").split("|")
        assert len(string) == length
        assert said == answer(string)


def test_pairs_of_letters():
    for options, length in (({}, 13), ({"length": 3}, 3)):
        for text in from_named_task("recall", Model(LETTERS), options).texts:
            pairs, asked = text.removesuffix("<end>").split("|")
            said = {pairs[i : i + 2] for i in range(0, len(pairs), 2)}
            assert len(pairs) == len(asked) == 2 * length
            assert {pair[0] for pair in said} <= set("abcdefghijklm")
            assert {asked[i : i + 2] for i in range(0, len(asked), 2)} == said


def test_pieces_of_strings():
    prompts = from_named_task("ngram", Model(LETTERS), {"length": 9, "count": 20})
    for tokens, text, target in zip(prompts.tokens, prompts.texts, prompts.target, strict=True):
        string, cued = text.removesuffix("<end>").split("|")
        assert len(string) == 9
        assert string.endswith(cued)
        assert len(tokens) == len(target) == 9 + 1 + len(cued) + 1  # as if alone: no padding
    assert len(set(prompts.length)) > 1


@pytest.mark.parametrize(("task", "most"), [("sort", 26), ("recall", 13)])
def test_no_more_letters_than_there_are(task, most):
    with pytest.raises(UsageError, match=f"`task` {task} .* `length` is at most {most}$"):
        from_named_task(task, Model(LETTERS), {"length": most + 1})
    assert len(from_named_task(task, Model(LETTERS), {"length": most, "count": 3})) == 3


def test_rows_are_laid_out_as_the_model_knows_them():
    jelassi = Model(Vocabulary([*"abcde", "begin", "|", "end", "·pad"]))
    for text in from_named_task("sort", jelassi, {}).texts:
        assert text == f"<begin>{text[7:12]}|abcde<end>"
    five = Model(Vocabulary(["·pad", "|", "end", *"abcde"]))
    assert set("".join(from_named_task("copy", five, {}).texts)) == set("abcde|<end>")
    with pytest.raises(UsageError, match="`task` recall is for models"):
        from_named_task("recall", jelassi, {})


def test_what_is_captured_where_nobody_chose():
    assert default_prompts(Model(LETTERS)).kinds == ("copy",) * 4
    assert default_prompts(Model(None)).kinds == ("repeat",) * 4
    passage, *repeated = default_prompts(Model(Bytes())).kinds
    assert passage == "text"
    assert repeated == ["repeat"] * 4


def test_tokens_are_enough():
    prompts = Prompts([[3, 4], [5]])
    assert prompts == Prompts(((3, 4), (5,)), ("tokens", "tokens"), ("", ""), (None, None))
    assert Prompts(torch.tensor([3, 4])).tokens == ((3, 4),)
    assert Prompts([3, 4], "mine").kinds == ("mine",)


@pytest.mark.parametrize("target", [[[-1, 0]], torch.tensor([[-1, 0]]), [torch.tensor([-1, 0])]])
def test_a_target_of_ones_own(target):
    prompts = Prompts([[3, 4]], target=target)
    assert prompts.padded_target().tolist() == [[-1, 0]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kinds": ["a"]}, "`kinds` has 1 entries for 2 prompts"),
        ({"texts": ["a", "b", "c"]}, "`texts` has 3 entries for 2 prompts"),
        ({"target": [[0]]}, "`target` has 1 entries for 2 prompts"),
        ({"target": [None, [0.5]]}, "prompt 1: its target must have"),
        ({"target": [None, 0]}, "a target is a list of positions, not 0"),
    ],
)
def test_what_does_not_fit_the_tokens(given, told):
    with pytest.raises(UsageError, match=told):
        Prompts([[3], [4]], **given)


def test_repeated_sequences_point_at_what_came_next_the_last_time():
    prompts = Prompts.repeated([[7, 8, 9], [5, 6]], times=3)
    assert prompts.tokens == ((7, 8, 9) * 3, (5, 6) * 3)
    assert prompts.target == ((-1, -1, -1, 1, 2, 3, 4, 5, -1), (-1, -1, 1, 2, 3, -1))
    for row, target in zip(prompts.tokens, prompts.target, strict=True):
        for query, seen in enumerate(target):
            if seen >= 0:  # what it looks at is what comes next, and stands after its own token
                assert row[seen] == row[query + 1]
                assert row[seen - 1] == row[query]
    assert prompts.kinds == ("repeat", "repeat")


def test_repeated_is_the_task_of_that_name():
    from ssmlens.tasks.repeat import Repeat

    batch = Repeat(length=6, count=3, vocab_size=20).build(1)
    again = Prompts.repeated(batch.tokens[:, :6])
    assert torch.equal(again.padded(), batch.tokens)
    assert torch.equal(again.padded_target(), batch.target)


@pytest.mark.parametrize(
    ("tokens", "times", "told"),
    [
        ([[1, 2]], 1, "`times` must be 2 or more"),
        ([[1, 2], [3]], 2, "prompt 1: a sequence to repeat"),
    ],
)
def test_what_cannot_be_repeated(tokens, times, told):
    with pytest.raises(UsageError, match=told):
        Prompts.repeated(tokens, times)


def test_of_a_task_for_a_model():
    import ssmlens

    model = ssmlens.load_model("copy-mamba1-mimetic")
    prompts = Prompts.of_task("copy", model, length=5, count=2, seed=3)
    assert prompts == from_named_task("copy", model, {"length": 5, "count": 2}, 3)
    assert prompts.kinds == ("copy", "copy")
    assert any(position >= 0 for position in prompts.target[0])
    with pytest.raises(UsageError, match="nonsense"):
        Prompts.of_task("nonsense", model)
    with pytest.raises(
        UsageError, match="the task copy has no option `lenght`; it has length, count"
    ):
        Prompts.of_task("copy", model, lenght=5)


def test_json_lines_with_targets(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = ['{"tokens": [3, 1, 3], "target": [-1, null, 1]}', '{"text": "ab", "target": [0, 0]}']
    path.write_text("\n".join([*lines, '{"text": "z"}']), encoding="utf-8")
    prompts = from_file(path, LETTERS)
    assert prompts.target == ((-1, -1, 1), (0, 0), None)
    assert prompts.texts == ("", "ab", "z")


@pytest.mark.parametrize(
    "line",
    [
        '{"tokens": [3, 1], "target": [0]}',
        '{"tokens": [3, 1], "target": [0, 2]}',
        '{"tokens": [3, 1], "target": [0, true]}',
        '{"text": "ab", "target": [0, "b"]}',
        '{"text": "ab", "target": 3}',
        '{"text": "ab", "targets": [0, 0]}',
    ],
)
def test_targets_in_json_lines_that_are_refused(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(UsageError, match=r"prompts\.jsonl, line 1: .*(target|a line is)"):
        from_file(path, LETTERS)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("deep.jsonl", "[" * 100_000, "line 1: it is nested too deeply"),
        (
            "number.jsonl",
            '{"tokens": [' + "9" * 5000 + "]}",
            "line 1: it contains an integer beyond",
        ),
        ("nan.jsonl", '{"tokens": [NaN]}', "line 1: NaN is not a finite number"),
        ("long.txt", "a" * ((1 << 22) + 1), "line 1: it has 4194305 characters, more than"),
    ],
)
def test_lines_that_are_refused(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=told) as error:
        from_file(tmp_path / name, None)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_only_plain_files_of_prompts_are_read(tmp_path, kind):
    path = tmp_path / "p.txt"
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        make = {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero")}
        make.get(kind, path.mkdir)()
    with pytest.raises(UsageError, match=r"p\.txt (cannot be read: it is not a plain|is refused)"):
        from_file(path, None)


def test_more_tokens_than_anything_could_map_are_refused():
    model = ssmlens.load_model("copy-mamba1-mimetic")
    for options in ({"length": 10**11}, {"count": 10**11}, {"length": 10**8, "count": 1}):
        with pytest.raises(UsageError, match="`length` times `count` is"):
            from_named_task("copy", model, options)
