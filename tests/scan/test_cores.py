"""Parts on cores of their own: the same numbers, the caller's threads as they were, errors and modes handed on."""

import os
import threading

import pytest
import torch

from ssmlens.scan import cores


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    """Let torch compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [0, 1, 7, 63, 64, 65, 1000])
def test_parts_cover_everything_once(threads, size):
    some = cores.parts(size, 16)
    assert [i for part in some for i in range(part.start, part.stop)] == list(range(size))
    assert len(some) == max(1, min(threads, size // 16))
    assert len(some) == 1 or min(part.stop - part.start for part in some) >= 16


def test_every_part_is_worked_on_with_one_thread_and_the_callers_stay(threads):
    x, seen = torch.arange(1000.0), []

    def work(part):
        seen.append((torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()))
        x[part] += 1

    some = cores.parts(1000, 100)
    cores.run_parts(work, some)
    torch.testing.assert_close(x, torch.arange(1000.0) + 1)
    assert torch.get_num_threads() == threads
    if len(some) > 1:
        assert {(count, grad) for count, grad, _ in seen} == {(1, False)}
        assert threading.get_ident() in {ident for _, _, ident in seen}
        assert 1 < len({ident for _, _, ident in seen}) <= len(some)


def test_inference_mode_reaches_the_parts():
    seen = []
    with torch.inference_mode():
        cores.run_parts(lambda _: seen.append(torch.is_inference_mode_enabled()), [slice(1)] * 2)
    assert seen == [True, True]


def test_an_error_of_a_part_is_raised():
    def work(part):
        if part.start == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cores.run_parts(work, [slice(0, 1), slice(1, 2)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    cores.run_parts(lambda part: None, [slice(0, 1), slice(1, 2)])
    child = os.fork()
    if child == 0:
        assert not cores._known
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
