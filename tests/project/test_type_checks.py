"""Types and shapes are checked in a function's first calls of a test."""

import beartype
import first_calls
import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import ssmlens.scan.edges


@pytest.fixture
def product():
    @jaxtyping.jaxtyped(typechecker=beartype.beartype)
    def multiply(a: Float[Tensor, "n m"], b: Float[Tensor, "m k"]) -> Tensor:
        return a[:, : len(b)] @ b

    return multiply


def test_shapes_that_disagree_are_an_error_in_the_first_calls(product):
    product(torch.ones(2, 3), torch.ones(3, 1))
    with pytest.raises(jaxtyping.TypeCheckError):
        product(torch.ones(2, 3), torch.ones(2, 1))


def test_later_calls_are_plain_until_the_next_test(product):
    for _ in range(first_calls._CALLS):
        product(torch.ones(2, 3), torch.ones(3, 1))
    product(torch.ones(2, 3), torch.ones(2, 1))
    first_calls.begin_test()
    with pytest.raises(jaxtyping.TypeCheckError):
        product(torch.ones(2, 3), torch.ones(2, 1))


def test_the_functions_of_ssmlens_are_checked():
    names = [name for name, value in vars(ssmlens.scan.edges).items() if callable(value)]
    own = [vars(ssmlens.scan.edges)[name] for name in names]
    own = [f for f in own if getattr(f, "__module__", "") == "ssmlens.scan.edges"]
    assert own
    assert all(
        f.__code__.co_filename == first_calls.__file__ for f in own if hasattr(f, "__code__")
    )
