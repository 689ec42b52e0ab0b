"""What a fuzzed call may do: return, or refuse in one sentence of our own that names what is wrong."""

import re
import traceback
from os import environ
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings

import repnas_mm

PACKAGE = Path(repnas_mm.__file__).parent


class Refused(NamedTuple):
    """The sentence with which a call was refused."""

    message: str


def fuzz(examples: int) -> settings:
    """Draw a sample of so many cases, the same in every run, so that a failure is somebody's change.

    FUZZ=all, as in `make stress`, runs all of the cases, and FUZZ=random as many new ones.
    """
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    kind = environ.get('FUZZ', 'sample')
    count = max(4, examples // 20) if kind == 'sample' else examples
    return settings(max_examples=count, deadline=None, derandomize=kind != 'random', suppress_health_check=slow)


def attempt(call, *args, names=(), **kwargs):
    """The result of ``call``, or `Refused` if that is what it should be; any other exception passes through.

    Args:
        names: Of these, the sentence must contain one.
    """
    try:
        return call(*args, **kwargs)
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as e:
        message = str(e)
        raised_in = Path(traceback.extract_tb(e.__traceback__)[-1].filename)
        assert raised_in.is_relative_to(PACKAGE), f'raised in {raised_in}: {e!r}'
        assert is_one_sentence(message), message
        assert not names or any(name in message for name in names), f'none of {names} in: {message}'
        return Refused(message)


def is_one_sentence(message: str) -> bool:
    """One line of one sentence, short enough to read; a full stop inside a quoted value does not count."""
    unquoted = re.sub(r"""'[^']*'|"[^"]*\"""", '', message)
    return 20 < len(message) < 1500 and message.endswith('.') and '\n' not in message and '. ' not in unquoted
