"""One whole permutation, both signs: t maps of a batch, then the two TFCE maxima. Per-map times are extra_info.

Beside it, in the same run, what `tfce` 0.1.0 takes for one sign (its GLM for one permutation, and its transform) and
nilearn's permuted OLS with TFCE, where they are installed.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.cohort import brain_grid, cohort
from gpuvox.glm import Glm
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce

SIZES = [(2.0, 40), (2.0, 146), (1.0, 40)]


def engine(mm, n):
    study = cohort(brain_grid(mm), n)
    labels = study.design @ study.contrast
    shuffler = Shuffler(labels[:, None], Permutations(1000, 1))
    return study, shuffler, Glm(study.data, partition(study.design, study.contrast), shuffler.invariant)


@pytest.mark.parametrize(("mm", "n"), SIZES)
def test_t_maps(benchmark, mm, n):
    _, shuffler, model = engine(mm, n)
    batch = 16
    model.statistic_maps(shuffler.shuffles(0, 2))
    benchmark.extra_info["maps"] = batch
    benchmark.pedantic(model.statistic_maps, (shuffler.shuffles(1, 1 + batch),), rounds=3)
    benchmark.extra_info["ms_per_map"] = 1e3 * benchmark.stats.stats.min / batch


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize(("mm", "n"), SIZES)
def test_permutation_both_signs(benchmark, mm, n, connectivity):
    study, shuffler, model = engine(mm, n)
    wanted = Statistics(voxel=False, tfce=Tfce(connectivity=connectivity))
    observed = PermutationTest(model, study.grid, shuffler, wanted, signs=2).observe()
    observed.run(0, 2)
    batch = 16 if mm == 2 else 4
    benchmark.pedantic(observed.run, (1, 1 + batch), rounds=3)
    benchmark.extra_info["ms_per_permutation"] = 1e3 * benchmark.stats.stats.min / batch


@pytest.mark.parametrize("n", [40, 146])
def test_nilearn_one_permutation(benchmark, n):
    mass_univariate = pytest.importorskip("nilearn.mass_univariate", reason="nilearn is not installed")
    nib = pytest.importorskip("nibabel")
    maskers = pytest.importorskip("nilearn.maskers")
    study = cohort(brain_grid(2.0), n)
    masker = maskers.NiftiMasker(nib.Nifti1Image(study.grid.mask.astype(np.uint8), np.diag([2.0, 2, 2, 1])))
    masker.fit()
    run = lambda perms: mass_univariate.permuted_ols(  # noqa: E731
        study.design[:, :1] - study.design[:, 1:2], study.data, study.design[:, 2:], n_perm=perms,
        tfce=True, masker=masker, two_sided_test=False, n_jobs=1, output_type="dict",
    )  # fmt: skip
    benchmark.pedantic(run, (2,), rounds=1)
    benchmark.extra_info["note"] = "the unpermuted map and two permutations"
