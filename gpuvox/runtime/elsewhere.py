"""Packages that read settings from the current folder are imported so that they do not: it may be data of others.

numba takes from ``.numba_config.yaml`` the folder of its cache, whose files are pickles; matplotlib reads
``matplotlibrc``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(name: str, **environment: str | None) -> Iterator[None]:
    """Where the current folder has a file of that name, be in the top folder for a while.

    Parameters
    ----------
    name : str
    **environment
        Variables of the environment for that while; None takes one away.
    """
    before = {key: os.environ.get(key) for key in environment}
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY)) if os.path.lexists(name) else None
    try:
        if here is not None:
            os.chdir("/")
        _set(environment)
        yield
    finally:
        _set(before)
        if here is not None:
            os.fchdir(here)
            os.close(here)


def _set(variables: dict[str, str | None]) -> None:
    for key, value in variables.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
