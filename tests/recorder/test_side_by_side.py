"""Layers side by side: in order, each with the same threads, errors after what came before them."""

import pytest
import torch

from ssmlens.recorder.side_by_side import SideBySide


@pytest.fixture(params=[1, 2, 7])
def cores(request):
    """SideBySide where torch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield SideBySide(torch.device("cpu"))
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_works(cores):
    assert list(cores.run([lambda n=n: n for n in range(10)])) == list(range(10))
    assert list(cores.run([])) == []


def test_one_work_alone_has_as_many_threads_as_one_of_several(cores):
    alone = list(cores.run([torch.get_num_threads]))
    several = list(cores.run([torch.get_num_threads] * 4))
    assert {*alone, *several} == {max(1, torch.get_num_threads() // cores.count)}


def test_what_came_before_an_error_is_told(cores):
    got = []
    with pytest.raises(ZeroDivisionError):
        got.extend(cores.run([lambda: 1, lambda: 1 // 0, lambda: 3]))
    assert got == [] or got == [1]
    results = cores.run([lambda: 1, lambda: 1 // 0])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_inference_mode_reaches_the_works(cores):
    with torch.inference_mode():
        assert list(cores.run([torch.is_inference_mode_enabled] * 2)) == [True, True]


def test_a_gpu_takes_one_after_the_other():
    assert SideBySide(torch.device("cuda")).count == 1
