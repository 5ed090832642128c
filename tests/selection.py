"""Which values of a parametrized test run in every suite, and which only in the long one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], standing: int, every: int = 1) -> list[Any]:
    """The values, of which all but `standing`, taken at every so many, are marked long."""
    listed = list(values)
    kept = set(range(0, standing * every, every))
    return [each if i in kept else pytest.param(each, marks=pytest.mark.long) for i, each in enumerate(listed)]
