"""Stopping, resuming, sharing: the name without `.partial` is complete, and its digest never depends on the way."""

import gc
import os
import shutil
import threading

import numpy as np
import pytest

from ssmlens.errors import BusyError, SsmlensError, UsageError
from ssmlens.files import place
from ssmlens.store import CaptureWriter, open_capture, shards, verify, writer


class Stopped(BaseException):
    """Stands for a kill: nothing between the stop and the resumption gets to tidy up."""


@pytest.fixture(scope="module")
def digest(sample, tmp_path_factory):
    """Of the sample, written at once and without a stop."""
    path = sample.write_capture(tmp_path_factory.mktemp("reference") / "run.h5")
    with open_capture(path) as capture:
        return capture.digest


def digest_of(path):
    assert verify(path) == []
    with open_capture(path) as capture:
        return capture.digest


@pytest.mark.parametrize("out", ["run.h5", "run"])
@pytest.mark.parametrize("batches", [1, 2, 3, 4])
def test_digest_is_that_of_the_content(sample, tmp_path, digest, out, batches):
    path = sample.write_capture(tmp_path / out, batches)
    assert path == tmp_path / out
    assert digest_of(path) == digest
    assert [p.name for p in tmp_path.iterdir()] == [out]


def test_digest_leaves_out_what_is_volatile_and_nothing_else(sample, tmp_path, digest):
    later = {"command": "another", "created": "today", "torch_version": "9"}
    asked = sample.header(attributes=later)
    assert digest_of(sample.write_capture(tmp_path / "a", asked=asked)) == digest
    for number, changes in enumerate(
        [
            {"attributes": {"model": "another"}},
            {"prompt_kinds": ["copy"] * 4},
            {"target": None},
            {"tokens": sample.header().tokens + 1},
        ]
    ):
        asked = sample.header(**changes)
        path = sample.write_capture(tmp_path / f"{number}", asked=asked)
        assert digest_of(path) != digest
    for number, name in enumerate(("delta", "D", "attention_map", "closure_error")):
        arrays = sample.samples()
        arrays[0][name] = arrays[0][name] * np.float32(1.0000001)
        path = sample.write_capture(tmp_path / f"array{number}", arrays=arrays)
        with open_capture(path) as capture:
            assert capture.digest != digest


@pytest.mark.parametrize(("out", "batches"), [("run.h5", 1), ("run.h5", 2), ("run", 2)])
def test_stopped_after_each_shard(sample, tmp_path, digest, out, batches):
    arrays = sample.samples()
    rounds = 0
    while True:
        writer = CaptureWriter(
            tmp_path / out, sample.header(), layers=[0, 2], batches=batches, resume=rounds > 0
        )
        missing = [(i, b) for b in range(batches) for i in (0, 2) if not writer.done(i, b)]
        assert len(missing) == 2 * batches - rounds
        if not missing:
            break
        layer, batch = missing[0]
        part = sample.batch_of(arrays[layer], writer.prompts(batch))
        writer.write(layer, batch, part, sample.attributes(layer))
        writer.close()
        assert not (tmp_path / out).exists()
        rounds += 1
    assert digest_of(writer.finish()) == digest


def interrupted(monkeypatch, module, name, after):
    """Let `module.name` succeed `after` times, then stop before it."""
    real, calls = getattr(module, name), []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise Stopped
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, stop)


@pytest.mark.parametrize(("out", "batches"), [("run.h5", 1), ("run", 1), ("run", 2)])
@pytest.mark.parametrize("step", ["fsync", "put", "replace_out", "rmtree", "assemble"])
def test_stopped_between_any_two_steps(sample, tmp_path, monkeypatch, out, batches, step):
    places = {
        "fsync": (os, "fsync"),
        "put": (place, "put"),
        "replace_out": (CaptureWriter, "_replace_out"),
        "rmtree": (shutil, "rmtree"),
        "assemble": (writer if out == "run.h5" else shards, "assemble"),
    }
    asked = sample.header(layers=(2,))
    reference = digest_of(sample.write_capture(tmp_path / "reference", asked=asked))
    for after in range(30):
        folder = tmp_path / str(after)
        folder.mkdir()
        with monkeypatch.context() as patch:
            interrupted(patch, *places[step], after)
            try:
                sample.write_capture(folder / out, batches, asked=asked)
                return
            except Stopped:
                pass
            gc.collect()  # the locks of a process that is killed go with it
        path = sample.write_capture(folder / out, batches, asked=asked, resume=True)
        assert digest_of(path) == reference
        assert [p.name for p in folder.iterdir()] == [out]


def test_a_complete_capture_resumes_to_itself(sample, tmp_path, digest):
    path = sample.write_capture(tmp_path / "run.h5")
    (tmp_path / "run.h5.partial").mkdir()  # stopped while removing it
    writer = CaptureWriter(path, sample.header(), layers=[0, 2], resume=True)
    assert sample.write_missing(writer, {}) == 0
    assert writer.finish() == path
    assert digest_of(path) == digest
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header", "foreign"])
def test_damaged_shards_are_written_again(sample, tmp_path, digest, damage):
    writer = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2], batches=2)
    sample.write_missing(writer, sample.samples())
    writer.close()
    name = "header.h5" if damage == "header" else "layer-002.batch-0001-of-0002.h5"
    shard = tmp_path / "run.partial" / name
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = b""
    elif damage == "foreign":
        other = sample.samples()[2] | {"delta": sample.samples()[2]["delta"] * 2}
        asked = sample.header(attributes={"model": "other"})
        stranger = CaptureWriter(tmp_path / "x", asked, layers=[0, 2], batches=2)
        sample.write_missing(stranger, {0: sample.samples()[0], 2: other})
        data = (tmp_path / "x.partial" / name).read_bytes()
    else:
        data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    resumed = CaptureWriter(
        tmp_path / "run", sample.header(), layers=[0, 2], batches=2, resume=True
    )
    assert sample.write_missing(resumed, sample.samples()) == (damage != "header")
    assert digest_of(resumed.finish()) == digest


def test_half_written_files_are_not_taken_for_shards(sample, tmp_path, digest):
    writer = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2])
    (writer.partial / "layer-000.h5.partial").write_bytes(b"half")
    (writer.partial / "assembled.h5.partial").write_bytes(b"half")
    writer.close()
    resumed = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2], resume=True)
    assert sample.write_missing(resumed, sample.samples()) == 2
    path = resumed.finish()
    assert digest_of(path) == digest
    assert sorted(p.name for p in path.iterdir()) == [
        "header.h5",
        "layer-000.h5",
        "layer-002.h5",
        "manifest.json",
    ]


def test_resuming_with_other_batches(sample, tmp_path, digest):
    first = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2], batches=4)
    first.write(0, 0, sample.batch_of(sample.samples()[0], range(1)), sample.attributes(0))
    first.close()
    second = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2], batches=2, resume=True)
    assert sample.write_missing(second, sample.samples()) == 4
    assert digest_of(second.finish()) == digest
    assert len(list((tmp_path / "run").iterdir())) == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attributes": {"dtype": "bfloat16"}}, "dtype: float32 and bfloat16"),
        ({"layers": (0, 2, 3)}, r"layers: \[0, 2\] and \[0, 2, 3\]"),
        ({"prompt_texts": ["", "", "", ""]}, "prompt_texts"),
        ({"target": None}, "target"),
        ({"attributes": {"fingerprint": "beef"}}, "the fingerprint of the request"),
        ({"attributes": {"seed": 3}}, "seed: none and 3"),
    ],
)
def test_resuming_another_request_says_what_differs(sample, tmp_path, changes, told):
    CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2])
    asked = sample.header(**changes)
    with pytest.raises(UsageError, match=told) as error:
        CaptureWriter(tmp_path / "run.h5", asked, layers=asked.layers, resume=True)
    assert "\n" not in str(error.value)


def test_names_that_are_taken(sample, tmp_path, digest):
    out = tmp_path / "run.h5"
    options = {"layers": [0, 2]}
    CaptureWriter(out, sample.header(), **options)
    with pytest.raises(UsageError, match=r"`resume`.*`overwrite`"):
        CaptureWriter(out, sample.header(), **options)
    sample.write_capture(out, resume=True)
    with pytest.raises(UsageError, match="exists; pass `overwrite`"):
        CaptureWriter(out, sample.header(), **options)
    other = sample.header(attributes={"model": "another"})
    with pytest.raises(UsageError, match="exists; pass `overwrite`"):
        CaptureWriter(out, other, resume=True, **options)
    with pytest.raises(UsageError, match="choose another"):
        CaptureWriter(tmp_path / "run.partial", sample.header(), **options)
    with pytest.raises(UsageError, match="its folder does not exist"):
        CaptureWriter(tmp_path / "no" / "run.h5", sample.header(), **options)
    with pytest.raises(UsageError, match="not among the capture's"):
        CaptureWriter(tmp_path / "x.h5", sample.header(), layers=[1])
    assert digest_of(out) == digest


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_overwriting_keeps_the_old_until_the_new_is_complete(sample, tmp_path, digest, out):
    asked = sample.header(attributes={"model": "new"})
    path = sample.write_capture(tmp_path / out)
    writer = CaptureWriter(path, asked, layers=[0, 2], overwrite=True)
    assert digest_of(path) == digest
    writer.close()
    stopped = CaptureWriter(path, asked, layers=[0, 2], overwrite=True)
    part = sample.samples()[0]
    stopped.write(0, 0, part, sample.attributes(0))
    stopped.close()
    writer = CaptureWriter(path, asked, layers=[0, 2], resume=True, overwrite=True)
    assert sample.write_missing(writer, sample.samples()) == 1
    assert digest_of(path) == digest
    writer.finish()
    with open_capture(path) as capture:
        assert capture.attributes["model"] == "new"
    assert [p.name for p in tmp_path.iterdir()] == [out]


def test_a_capture_in_files_gives_way_to_one_file(sample, tmp_path, digest):
    """Somebody has renamed it."""
    sample.write_capture(tmp_path / "run").rename(tmp_path / "run.h5")
    assert digest_of(sample.write_capture(tmp_path / "run.h5", overwrite=True)) == digest
    assert (tmp_path / "run.h5").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


def test_a_folder_of_something_else_is_not_overwritten(sample, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("dear")
    with pytest.raises(UsageError, match="not a capture, so it is not overwritten"):
        CaptureWriter(tmp_path / "thesis", sample.header(), layers=[0, 2], overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "dear"


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_writers_that_share_a_capture(sample, tmp_path, digest, out):
    arrays = sample.samples()
    first = CaptureWriter(tmp_path / out, sample.header(), layers=[2])
    assert sample.write_missing(first, arrays) == 1
    with pytest.raises(BusyError, match=r"another process is writing .*\(its layer 2\)"):
        CaptureWriter(tmp_path / out, sample.header(), layers=[2])
    assert first.finish() is None
    with pytest.raises(UsageError, match="`resume`"):
        CaptureWriter(tmp_path / out, sample.header(), layers=[2])
    second = CaptureWriter(tmp_path / out, sample.header(), layers=[0], batches=3)
    assert sample.write_missing(second, arrays) == 3
    assert digest_of(second.finish()) == digest
    assert first.finish() == tmp_path / out
    assert digest_of(tmp_path / out) == digest
    assert [p.name for p in tmp_path.iterdir()] == [out]


def test_overwriting_a_shared_capture_discards_only_ones_own(sample, tmp_path, digest):
    arrays = sample.samples()
    first = CaptureWriter(tmp_path / "run", sample.header(), layers=[2])
    sample.write_missing(first, arrays)
    CaptureWriter(tmp_path / "run", sample.header(), layers=[0])
    again = CaptureWriter(tmp_path / "run", sample.header(), layers=[0], overwrite=True)
    assert sample.write_missing(again, arrays) == 1
    assert digest_of(again.finish()) == digest


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_writers_that_finish_at_once(sample, tmp_path, digest, out):
    writers = []
    for layer in (0, 2):
        writer = CaptureWriter(tmp_path / out, sample.header(), layers=[layer])
        sample.write_missing(writer, sample.samples())
        writers += [writer]
    results = []
    threads = [threading.Thread(target=lambda w=w: results.append(w.finish())) for w in writers * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / out] * 6
    assert digest_of(tmp_path / out) == digest
    assert [p.name for p in tmp_path.iterdir()] == [out]


def test_finishing_too_early_names_the_shard(sample, tmp_path):
    writer = CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2], batches=2)
    writer.write(0, 0, sample.batch_of(sample.samples()[0], range(2)), sample.attributes(0))
    with pytest.raises(SsmlensError, match="layer 0 lacks batch 1"):
        writer.finish()


def test_finite_is_the_worst_of_the_batches(sample, tmp_path):
    writer = CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2], batches=4)
    for layer, arrays in sample.samples().items():
        for batch in range(4):
            told = sample.attributes(layer)
            if batch in (2, 3) and layer == 2:
                told |= {"finite": "input", "reason": f"batch {batch}"}
            writer.write(layer, batch, sample.batch_of(arrays, writer.prompts(batch)), told)
    with open_capture(writer.finish()) as capture:
        assert capture.layer(0).state == "yes"
        assert capture.layer(2).state == "input"
        assert capture.layer(2).attributes["reason"] == "batch 2"


def test_batches_of_different_channels_do_not_merge(sample, tmp_path):
    writer = CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2], batches=2)
    for batch in range(2):
        for layer, arrays in sample.samples().items():
            part = sample.batch_of(arrays, writer.prompts(batch))
            part["channel"] = part["channel"] + batch
            writer.write(layer, batch, part, sample.attributes(layer))
    with pytest.raises(SsmlensError, match="batches 0 and 1 hold maps of different channels"):
        writer.finish()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a.update(maps=a["delta"]), "'maps' is not an array of a layer"),
        (lambda a: a.update(delta=a["delta"][0]), "delta has 2 axes"),
        (lambda a: a.update(W_B=a["W_B"][0]), "W_B has 2 axes"),
        (lambda a: a.update(B=a["B"][:, :8]), "along token"),
        (lambda a: a.update(dt_bias=a["dt_bias"][:3]), "dt_bias has 3 along head"),
        (lambda a: a.update(W_B=a["W_B"].astype(np.float16)), "W_B is float16"),
        (lambda a: a.pop("C"), "missing: C"),
        (lambda a: a.pop("A"), "missing: exactly one of A and log_decay"),
        (lambda a: a.update(log_decay=-a["delta"]), "missing: exactly one of A and log_decay"),
        (lambda a: a.update(lag_energy=a["delta"][..., 0]), "missing: attention_map_mean"),
        (lambda a: a.pop("channel"), "must come together"),
        (lambda a: a.update(W_B=a["W_B"][:, :, :0]), "W_B is empty along input"),
        (lambda a: [a.update({n: v[:3]}) for n, v in a.items() if len(v) == 4], "3 prompts"),
    ],
)
def test_what_the_file_does_not_take(sample, tmp_path, change, told):
    writer = CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2])
    arrays = sample.samples()[0]
    change(arrays)
    with pytest.raises(ValueError, match=told):
        writer.write(0, 0, arrays, sample.attributes(0))
    assert not writer.done(0, 0)


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({}, "finite"),
        ({"finite": "maybe"}, "finite"),
        ({"finite": "yes", "digest": "0"}, "reserved"),
    ],
)
def test_attributes_that_are_not_taken(sample, tmp_path, attributes, told):
    writer = CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2])
    with pytest.raises(ValueError, match=told):
        writer.write(0, 0, sample.samples()[0], attributes)


def test_one_prompt_of_one_token(sample, tmp_path):
    asked = sample.header(lengths=(1,), layers=(0,))
    path = sample.write_capture(tmp_path / "run.h5", asked=asked)
    assert verify(path) == []
    with open_capture(path) as capture:
        assert capture.layer(0).attention_map().shape == (1, 1)
        assert capture.layer(0).channel_map(5).shape == (1, 1)


def test_long_attributes_and_many_of_them(sample, tmp_path):
    told = {f"a{i}": i for i in range(40)} | {"long": "é" * 40_000, "empty": "", "pi": 3.5}
    path = sample.write_capture(tmp_path / "run.h5", asked=sample.header(attributes=told))
    with open_capture(path) as capture:
        assert {k: capture.attributes[k] for k in told} == told
        assert type(capture.attributes["a3"]) is int


def test_what_a_shard_holds_can_be_asked_while_writing(sample, tmp_path):
    capturing = CaptureWriter(tmp_path / "run", sample.header(), layers=[0, 2], batches=2)
    assert capturing.stored(0, 0, "channel") is None
    part = sample.batch_of(sample.samples()[0], range(2))
    capturing.write(0, 0, part, sample.attributes(0))
    np.testing.assert_array_equal(capturing.stored(0, 0, "channel"), sample.CHANNELS)
    np.testing.assert_array_equal(capturing.stored(0, 0, "B"), part["B"])
    assert capturing.stored(0, 0, "A_bar") is None
    assert capturing.stored(0, 1, "channel") is None
