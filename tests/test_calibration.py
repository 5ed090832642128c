"""False positives come at the nominal rate, and the tests that show it can fail.

Each voxel is a data set of its own: 2,000 data sets a design, all under the same 400 shuffles, the unshuffled one
included, so that p ≤ .05 has a size of exactly 20 in 400. Rejections must lie in the 99 % binomial interval around
5 %.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gpuvox.executors import run
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics

DATA_SETS = 2000
LOW, HIGH = stats.binom.ppf([0.005, 0.995], DATA_SETS, 0.05) / DATA_SETS
GRID = Grid(np.ones((DATA_SETS, 1, 1), bool))


def rate(M, C, Y, blocks=None, whole=False, flip=False):
    """Share of data sets with p ≤ .05; F if C has several rows."""
    C = np.atleast_2d(C)
    shuffler = Shuffler(M @ C.T, Permutations(400, 0, blocks, whole, flip))
    assert shuffler.n == 400
    model = Glm(Y.astype(np.float32), partition(M, C, is_f=len(C) > 1), shuffler.invariant)
    done = run(PermutationTest(model, GRID, shuffler, Statistics(uncorrected=True)), threads=1)
    p = 1 - done.tally.below["vox"][0] / shuffler.n
    return (p <= 0.05 + 1e-9).mean()


def confound(seed):
    """An effect of no consequence that shares R² = 0.8 with a nuisance that matters much."""
    rng = np.random.default_rng(seed)
    n = 40
    z = rng.normal(size=n)
    x = np.sqrt(0.8) * z + np.sqrt(0.2) * rng.normal(size=n)
    Y = 3 * z[:, None] + rng.normal(size=(n, DATA_SETS))
    return np.c_[x, z, np.ones(n)], [1, 0, 0], Y


def test_confound():
    M, C, Y = confound(1)
    assert LOW <= rate(M, C, Y) <= HIGH


def test_confound_fails_if_the_nuisance_is_dropped():
    M, _, Y = confound(1)
    assert rate(M[:, [0, 2]], [1, 0], Y) > 0.5


def test_confound_fails_if_raw_data_are_permuted():
    """The mistake: permute Y itself, refit the whole design."""
    M, C, Y = confound(1)
    model = partition(M, C)
    basis = np.hstack([model.effect, model.nuisance])
    rng = np.random.default_rng(0)
    t = []
    for i in range(200):
        order = np.arange(len(M)) if i == 0 else rng.permutation(len(M))
        B = basis.T @ Y[order]
        sse = (Y**2).sum(axis=0) - (B**2).sum(axis=0)
        t.append(B[0] / np.sqrt(sse))
    p = (np.array(t) >= t[0]).mean(axis=0)
    assert not LOW <= (p <= 0.05).mean() <= HIGH


def test_cell_means_contrast():
    rng = np.random.default_rng(2)
    M = np.c_[np.eye(3)[np.repeat([0, 1, 2], 10)]]
    Y = rng.normal(size=(30, DATA_SETS)) + 5 * M[:, [2]] + 100
    assert LOW <= rate(M, [1, -1, 0], Y) <= HIGH


def slopes(common):
    rng = np.random.default_rng(3)
    group = np.arange(30) < 15
    x = rng.normal(size=30)
    M = np.c_[group, ~group, x * group, x * ~group].astype(float)
    return M, common * x[:, None] + rng.normal(size=(30, DATA_SETS))


def test_slope_difference_with_a_common_slope():
    M, Y = slopes(3.0)
    assert LOW <= rate(M, [0, 0, 1, -1], Y) <= HIGH


def test_paired_design():
    rng = np.random.default_rng(4)
    pairs = 12
    M = np.c_[np.tile([1.0, -1], pairs), np.repeat(np.eye(pairs), 2, axis=0)]
    subject = np.repeat(5 * rng.normal(size=(pairs, DATA_SETS)), 2, axis=0)
    Y = subject + rng.normal(size=(2 * pairs, DATA_SETS))
    C = np.eye(1, pairs + 1)
    blocks = np.repeat(np.arange(pairs) + 1, 2)
    assert LOW <= rate(M, C, Y, blocks=blocks) <= HIGH


def test_paired_design_fails_without_its_pairs():
    rng = np.random.default_rng(4)
    pairs = 12
    M = np.c_[np.tile([1.0, -1], pairs), np.ones(2 * pairs)]
    subject = np.repeat(5 * rng.normal(size=(pairs, DATA_SETS)), 2, axis=0)
    assert rate(M, [1, 0], subject + rng.normal(size=(2 * pairs, DATA_SETS))) < LOW


def test_one_sample():
    """Symmetric, heavy-tailed errors: no t distribution, and exact all the same."""
    Y = np.random.default_rng(7).standard_t(2, size=(20, DATA_SETS))
    assert LOW <= rate(np.ones((20, 1)), [1], Y, flip=True) <= HIGH
    assert rate(np.ones((20, 1)), [1], Y + 0.3, flip=True) > HIGH


def test_f_beside_a_covariate():
    rng = np.random.default_rng(8)
    z = rng.normal(size=30)
    M = np.c_[np.eye(3)[np.repeat([0, 1, 2], 10)], z + np.repeat([0, 1, 2], 10)]
    Y = 2 * M[:, [3]] + rng.normal(size=(30, DATA_SETS))
    C = [[1, -1, 0, 0], [0, 1, -1, 0]]
    assert LOW <= rate(M, C, Y) <= HIGH
    assert rate(M[:, :3], np.array(C)[:, :3], Y) > HIGH


def family(seed=5):
    """Three measures of each of 12 subjects, correlated; the effect is between subjects."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(12) < 6, 3)
    subject = np.repeat(2 * rng.normal(size=(12, DATA_SETS)), 3, axis=0)
    Y = subject + rng.normal(size=(36, DATA_SETS))
    return np.c_[group, ~group].astype(float), Y, np.repeat(np.arange(12) + 1, 3)


def test_whole_blocks():
    M, Y, blocks = family()
    assert LOW <= rate(M, [1, -1], Y, blocks=blocks, whole=True) <= HIGH


def test_whole_blocks_fail_if_rows_are_exchanged_freely():
    M, Y, _ = family()
    assert rate(M, [1, -1], Y) > HIGH


@pytest.mark.parametrize("flip", [False, True])
def test_permuted_t_follows_the_t_distribution(flip):
    rng = np.random.default_rng(6)
    n = 24
    M = np.ones((n, 1)) if flip else np.c_[rng.normal(size=n), np.ones(n), rng.normal(size=n)]
    C = np.eye(1, M.shape[1])
    shuffler = Shuffler(M @ C.T, Permutations(400, 1, flip=flip))
    model = Glm(rng.normal(size=(n, 400)).astype(np.float32), partition(M, C), shuffler.invariant)
    t = model.statistic_maps(shuffler.shuffles(0, 400))
    sample = np.diag(t)  # a shuffle a voxel: independent values
    assert stats.kstest(sample, stats.t(model.df).cdf).pvalue > 0.001
    assert stats.kstest(sample * 2, stats.t(model.df).cdf).pvalue < 0.001
