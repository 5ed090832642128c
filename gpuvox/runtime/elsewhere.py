"""Import packages that read settings from the current folder without letting them: it may hold data of others.

numba takes from ``.numba_config.yaml`` the folder of its cache, whose files are pickles; matplotlib reads
``matplotlibrc``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ignoring_local_file(name: str, **environment: str | None) -> Iterator[None]:
    """If the current folder has a file of this name, change to the root folder inside the ``with`` block.

    Parameters
    ----------
    name : str
    **environment
        Environment variables inside the block; None removes one.
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
