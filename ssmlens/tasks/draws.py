"""Random numbers that depend only on a seed: the same on every device and in every version of torch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.errors import UsageError

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_STEPS, _SEEDS = 2**32, 2**31


Seed = int | Int[Tensor, ""]


class Draws:
    """Random numbers of one seed, made on the device that needs them.

    Number k of seed s is mix(mix(s) + mix(k·golden)) with the finaliser of SplitMix64 (Steele et al. 2014), a bijection
    of 64 bits: two seeds never agree in the k-th number. torch's own generators differ between devices, and the CPU's
    reads only the lower 32 bits of a seed.

    Args:
        seed: An integer that fits into 64 bits, or a tensor on the device with its signed value, which a CUDA graph
            reads again at every replay.
        device: The device of the numbers.

    Raises:
        UsageError: The seed does not fit into 64 bits.
    """

    def __init__(self, seed: Seed, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._key = _mix(seed if isinstance(seed, Tensor) else seed_tensor(seed, self.device))
        self._used = 0

    def integers(self, beyond: int, shape: tuple[int, ...]) -> Int[Tensor, "..."]:
        """Draw independent, uniform integers in 0 .. beyond − 1."""
        return _shift(self._bits(shape), 1) % beyond

    def uniform(self, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """Draw independent, uniform numbers in the open interval (0, 1), float64."""
        return (_shift(self._bits(shape), 11).double() + 0.5) * 2.0**-53

    def distinct(self, beyond: int, rows: int, count: int) -> Int[Tensor, "{rows} {count}"]:
        """Draw, in each row, `count` different integers of 0 .. beyond − 1; all choices are equally likely."""
        return self._bits((rows, beyond)).topk(count, dim=1).indices

    def _bits(self, shape: tuple[int, ...]) -> Int[Tensor, "..."]:
        """Draw 64 random bits per number, as int64."""
        total = torch.Size(shape).numel()
        place = torch.arange(self._used, self._used + total, device=self.device)
        self._used += total
        return _mix(self._key + _mix(place * _signed(_GOLDEN))).view(shape)


def seed_tensor(seed: int, device: torch.device | str = "cpu") -> Int[Tensor, ""]:
    """Convert a seed to a tensor for `Draws`. Raises UsageError if it does not fit into 64 bits."""
    if not -(2**63) <= seed < 2**64:
        raise UsageError(f"seed {seed} is out of range: it must fit into 64 bits")
    return torch.tensor(_signed(seed), device=device)


def batch_seed(seed: int, step: int, *, held_out: bool = False) -> int:
    """Return the seed of a run's batch: distinct for each (seed, step, held_out), so that no batch is drawn twice.

    Args:
        seed: Seed of the run, 0 .. 2³¹ − 1.
        step: Number of the batch, 0 .. 2³² − 1.
        held_out: Whether the batch is for evaluation: no training batch of any run has such a seed.

    Raises:
        UsageError: The seed or the step is out of range.
    """
    if not (0 <= seed < _SEEDS and 0 <= step < _STEPS):
        raise UsageError(f"seed {seed} and step {step} must be in 0..2^31 - 1 and 0..2^32 - 1")
    return (int(held_out) * _SEEDS + seed) * _STEPS + step


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    x = (x ^ _shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift(x, 27)) * _signed(_SECOND)
    return x ^ _shift(x, 31)


def _shift(x: Int[Tensor, "..."], places: int) -> Int[Tensor, "..."]:
    """Shift bits to the right and fill with zeros: torch's own shift repeats the sign."""
    return (x >> places) & (2 ** (64 - places) - 1)


def _signed(bits: int) -> int:
    """Return the int64 with these 64 bits."""
    bits %= 2**64
    return bits - 2**64 if bits >= 2**63 else bits
