"""Bad input in one sentence: checks used everywhere, and any value or foreign error as part of a message."""

import math
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real

#: What code that is not ours raises for arguments or data that it was not made for.
_FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _Repr(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = 200
        self.maxdict = self.maxlist = self.maxtuple = 8

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write a longer one
        return repr(x) if x.bit_length() < 1000 else f'an integer of {x.bit_length()} bits'

    def repr_instance(self, x: object, level: int) -> str:
        return ' '.join(super().repr_instance(x, level).split())  # a tensor's or an array's has several lines


def quote(value: object) -> str:
    """``repr`` for a message: one line of bounded length, whatever the value."""
    return _SHOWN.repr(value)


_SHOWN = _Repr()


def error_text(error: BaseException) -> str:
    """The text of a foreign error, as part of a sentence."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = ' '.join(text.split()).rstrip('. ').replace('. ', '; ')
    return (text if len(text) < 400 else f'{text[:400]}...') or type(error).__name__


@contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Turns an error of foreign code into a ValueError of one sentence: ``what`` is wrong, and the reason."""
    try:
        yield
    except _FOREIGN as e:
        raise ValueError(f'{what}: {error_text(e)}.') from e


def is_count(value: object, least: int = 1) -> bool:
    """True for an integer of at least ``least`` that torch can hold, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value < 2**31


def is_positive(value: object) -> bool:
    """True for a finite number above 0, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value < math.inf


def check_counts(owner: str, **values: object) -> None:
    """Raise ValueError unless all are positive integers; ``owner`` is whose arguments they are."""
    for name, value in values.items():
        if not is_count(value):
            raise ValueError(f'{name} of {owner} must be a positive integer, got {quote(value)}.')


def check_flags(owner: str, **values: object) -> None:
    """Raise TypeError unless all are True or False: other values, such as 'no', would count as True."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(f'{name} of {owner} must be True or False, got {quote(value)}.')
