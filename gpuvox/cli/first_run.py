"""The first run compiles the loops; two processes share the work, and the result stays in the cache on disk."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from gpuvox.cli.console import print_error


def compile_ahead(quiet: bool, connectivity: int = 6) -> None:
    """Compile what a run needs, unless the cache has it; print a line about it unless `quiet`.

    connectivity: of TFCE, which is compiled for each when it is first used.
    """
    from gpuvox.jit import WHY_NOT_KEPT, is_cached
    from gpuvox.runtime.limits import default_threads
    from gpuvox.tfce import Tfce

    if is_cached():
        if connectivity != Tfce().connectivity:
            compile_enhancement(connectivity)  # or, as nearly always, load it
        return
    if not quiet:
        begins = "Compiling" if WHY_NOT_KEPT else "First run: compiling"
        print_error(f"{begins} the loops, which takes some seconds.")
    if default_threads() < 2 or WHY_NOT_KEPT:  # without a cache, a helper process would be of no use
        return
    code = f"from gpuvox.cli.first_run import compile_enhancement; compile_enhancement({connectivity})"
    # Without -P, Python would import from the current folder. If the helper fails, the run compiles its part itself.
    words, nothing = [sys.executable, "-P", "-c", code], subprocess.DEVNULL
    helper = None
    with suppress(OSError):
        helper = subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing)
    try:
        compile_models()
    finally:
        if helper:
            helper.wait()


def compile_enhancement(connectivity: int) -> None:
    """Compile the loops of TFCE; maxima and maps share one loop."""
    import numpy as np

    from gpuvox.grid import Grid
    from gpuvox.tfce import Enhancer, Tfce

    enhancer = Enhancer(Grid(np.ones((2, 2, 2), dtype=bool)), Tfce(connectivity=connectivity), (0.1, 0.1))
    enhancer.maxima(np.ones((1, 8), dtype=np.float32))


def compile_models() -> None:
    """Compile the loops of linear models and of permutations."""
    from gpuvox.application.api import randomise

    data = [[1.0, 2.0], [2.0, 1.0], [4.0, 3.0], [3.0, 5.0], [5.0, 4.0], [7.0, 6.0]]
    design = [[1.0, row] for row in range(6)]
    # With fewer than 20 permutations, there would be a warning.
    randomise(data, design, [0, 1.0], n_permutations=20, seed=1, threads=1, device="cpu")
