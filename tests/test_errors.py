"""The tree that errors.py draws is the tree that it defines."""

from __future__ import annotations

import inspect
import re

from memdash import errors
from memdash.errors import ExitCode, MemdashError


def test_the_drawing_is_true():
    drawn = re.findall(r"^[│├└ ]*([A-Z]\w+)(?:\s+(\d+))?", errors.__doc__.split("\n\n")[1], re.MULTILINE)
    names = [name for name, _ in drawn]
    defined = [name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, MemdashError)]
    assert names == defined
    for name, code in drawn:
        if code:
            assert getattr(errors, name).exit_code == int(code)


def test_exit_codes_are_distinct_and_described():
    source = inspect.getsource(ExitCode)
    assert len({code.value for code in ExitCode}) == len(re.findall(r"^    [A-Z_]+ = \d+$", source, re.MULTILINE))
    assert source.count('"""') == 2 * (1 + len(ExitCode))


def test_a_hint_is_optional():
    assert MemdashError("x").hint == ""
    assert errors.ConfigError("x", hint="y").hint == "y"
