"""Iron and myelin: arithmetic of ten million voxels on one core."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvox.qmri import FieldConversion, Inversion, TissueModel

N = 10_000_000


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    qsm, r1, jacobian = (
        rng.uniform(low, high, N).astype(np.float32) for low, high in ((-0.1, 0.2), (0.2, 2), (0.5, 2))
    )
    return qsm, r1, jacobian, (rng.random(N) < 0.05).astype(np.uint8)


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("method", ["power", "curve"])
def test_maps(benchmark, images, content, method):
    inversion = Inversion(TissueModel.default(), FieldConversion(3, 7, method))
    qsm, r1, jacobian, _ = images
    benchmark(inversion.invert, qsm, r1, (10.0, 0.1), jacobian if content else None)


def test_csf_means(benchmark, images):
    qsm, r1, _, mask = images
    benchmark(Inversion(TissueModel.default(), FieldConversion(3, 7)).means, qsm, r1, mask)
