"""What a processor can do decides how loops are compiled, and nothing else: every way to the same bits."""

import ast
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.tfce import Enhancer, Tfce, step_size

ROOT = Path(__file__).parents[1]
AVX2 = "+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt"


def study():
    """A mask that fills no word and no tile, and more subjects than are handled at a time."""
    rng = np.random.default_rng(5)
    grid = Grid(rng.random((41, 13, 9)) < 0.8)
    n = 71
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    data = (data + np.roll(data, 1, axis=1) + np.roll(data, 41, axis=1)).astype(np.float32)
    design = np.column_stack([np.ones(n), np.arange(n) % 2, np.arange(n) % 3 == 0, rng.normal(size=n)])
    shuffler = Shuffler(design[:, 1:3], Permutations(100, 1))
    contrasts = {"t": [0, 1, 0, 0], "F": [[0, 1, 0, 0], [0, 0, 1, 0]]}
    models = {
        name: Glm(data, partition(design, np.array(contrast, dtype=float), is_f=name == "F"), shuffler.invariant)
        for name, contrast in contrasts.items()
    }
    return grid, models, shuffler.shuffles(1, 4)


def digests(connectivities):
    """Of t and F maps, and of the scores and maxima of TFCE of one and of both signs."""
    grid, models, shuffles = study()
    found = {name: model.statistic_maps(shuffles) for name, model in models.items()}
    for connectivity in connectivities:
        options, t = Tfce(connectivity=connectivity), found["t"]
        for signs in (1, 2):
            steps = step_size(float(t.max()), options), step_size(float(-t.min()), options) * (signs - 1)
            enhancer = Enhancer(grid, options, steps)
            found |= {f"map {connectivity} {signs}": enhancer.enhance(t)}
            found |= {f"maxima {connectivity} {signs}": enhancer.maxima(t)}
    return {name: hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for name, each in found.items()}


def elsewhere(features, connectivities):
    """The same in a process whose loops are compiled for a processor with these features alone."""
    program = f"import test_processors as t; print(repr(t.digests({connectivities!r})))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


@pytest.mark.parametrize("name", ["t", "F"])
def test_more_subjects_than_are_handled_at_a_time(name):
    _, models, shuffles = study()
    maps = models[name].statistic_maps(shuffles)
    for shuffle, values in zip(shuffles, maps):
        np.testing.assert_allclose(values, models[name].exact_map(shuffle), rtol=2e-5, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize("connectivities", [(6,), pytest.param((18, 26), marks=pytest.mark.long)])
def test_the_plainest_processor(connectivities):
    """SSE2 on x86, whose fused multiply-add is a function of the C library; NEON on ARM."""
    assert elsewhere("", connectivities) == digests(connectivities)


@pytest.mark.long
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 belongs to x86")
def test_avx2():
    """Where the processor has AVX-512, which the other side of the comparison then is compiled for."""
    assert elsewhere(AVX2, (6, 18, 26)) == digests((6, 18, 26))
