import torch

from ssmlens.cli.dashboard import leave_cores


def test_the_browser_is_left_half_of_the_cores():
    before = torch.get_num_threads()
    try:
        for taken, left in ((9, 4), (2, 1), (1, 1)):
            torch.set_num_threads(taken)
            leave_cores()
            assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)
