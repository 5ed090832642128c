"""The first run ever compiles the loops; two processes share the work and leave the result in the cache on disk."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from gpuvox.cli.console import complain


def compile_ahead(quiet: bool) -> None:
    """Compile what every run needs, if that has not been done; say so unless `quiet`."""
    from gpuvox.jit import WHY_NOT_KEPT, is_cached
    from gpuvox.runtime.limits import default_threads

    if is_cached():
        return
    if not quiet:
        begins = "Compiling" if WHY_NOT_KEPT else "First run: compiling"
        complain(f"{begins} the loops, which takes some seconds.")
    if default_threads() < 2 or WHY_NOT_KEPT:  # a helper could not pass on what it compiles
        return
    code = "from gpuvox.cli.first_run import compile_enhancement; compile_enhancement()"
    # -P: without it Python would import from the current folder, which may be somebody's data.
    # What fails there is compiled, or reported, where it is needed.
    words, nothing = [sys.executable, "-P", "-c", code], subprocess.DEVNULL
    helper = None
    with suppress(OSError):
        helper = subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        compile_models()
    finally:
        if helper:
            helper.wait()


def compile_enhancement() -> None:
    """Compile the loops of TFCE: maxima and maps are one loop."""
    import numpy as np

    from gpuvox.grid import Grid
    from gpuvox.tfce import Enhancer, Tfce

    enhancer = Enhancer(Grid(np.ones((2, 2, 2), dtype=bool)), Tfce(), (0.1, 0.1))
    enhancer.maxima(np.ones((1, 8), dtype=np.float32))


def compile_models() -> None:
    """Compile the loops of linear models and of shuffling."""
    from gpuvox.application.api import randomise

    data = [[1.0, 2.0], [2.0, 1.0], [4.0, 3.0], [3.0, 5.0], [5.0, 4.0], [7.0, 6.0]]
    design = [[1.0, row] for row in range(6)]
    # From 20 permutations on, nothing warns that they are few.
    randomise(data, design, [0, 1.0], n_permutations=20, seed=1, threads=1, device="cpu")
