"""Check types and shapes in a function's first calls of each test, not in all.

`--jaxtyping-packages` lets jaxtyping wrap every function of ssmlens. Checking every call of a function that is called
thousands of times takes about as long as the tests themselves. Import this before ssmlens.
"""

import functools
import inspect
from types import CodeType

import jaxtyping
from jaxtyping import _decorator

_CALLS = 3
_every_call = jaxtyping.jaxtyped
# By code, not by function: a function inside another would keep what it refers to alive.
_checked: dict[CodeType, int] = {}


def begin_test() -> None:
    """Check the next calls again."""
    _checked.clear()


def _jaxtyped(fn=None, *, typechecker):
    """`jaxtyping.jaxtyped`, with plain calls of a function after the first ones."""
    if fn is None:
        return functools.partial(_jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(fn):  # a class, a property, ...: its functions come here one by one
        return _every_call(fn, typechecker=typechecker)
    # A function inside another is made anew at each call of the other; most are never checked.
    checked = None if "<locals>" in fn.__qualname__ else _every_call(fn, typechecker=typechecker)

    @functools.wraps(fn)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        nonlocal checked
        count = _checked.get(fn.__code__, 0)
        if count == _CALLS:
            return fn(*args, **kwargs)
        _checked[fn.__code__] = count + 1
        if checked is None:
            checked = _every_call(fn, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call


jaxtyping.jaxtyped = _decorator.jaxtyped = _jaxtyped
