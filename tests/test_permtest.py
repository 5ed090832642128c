"""The permutation test: nulls and p-values against naive loops; order, threads and cuts do not matter."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import oracle
import pytest
from naive import naive_tfce

from gpuvox.executors import fold, run
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.pvalues import corrected, critical_value
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import signs_of
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import Statistics
from gpuvox.tally import Tally
from gpuvox.tfce import Tfce


def make(seed=0, n=12, shape=(5, 4, 4), keep=0.8, contrast=((1.0, -1, 0),), number=60, **wanted):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < keep
    grid = Grid(mask)
    group = np.arange(n) < n // 2
    M = np.c_[group, ~group, rng.normal(size=n)].astype(float)
    C = np.array(contrast)
    Y = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    shuffler = Shuffler(M @ C.T, Permutations(number, seed))
    model = Glm(Y, partition(M, C, is_f=len(C) > 1), shuffler.invariant)
    return PermutationTest(model, grid, shuffler, Statistics(**wanted), signs=2), Y, M, C


@pytest.mark.parametrize("seed", range(3))
def test_nulls_and_p_values_equal_naive_loops(seed):
    test, Y, M, C = make(seed, number=40, tfce=Tfce(), extent=1.5, mass=1.0, uncorrected=True)
    shuffles = test.shuffler.shuffles(0, 40)
    maps = oracle.statistic_maps(Y, M, C, shuffles + 1)
    mask = test.grid.mask
    done = run(test, threads=1)
    tally, observed = done.tally, done.observed
    for row, sign in enumerate((1, -1)):
        delta = np.float32(max((sign * maps[0]).max(), 0) / 100)
        enhanced = np.array([
            oracle.flat(naive_tfce(np.where(mask, oracle.unflat(sign * t, mask), 0), delta), mask) for t in maps
        ])  # fmt: skip
        ours = observed.statistics["tfce"].in_units(tally.maxima["tfce"][row], row)
        np.testing.assert_allclose(ours, enhanced.max(axis=1), rtol=1e-5, atol=1e-6)
        extents = [oracle.cluster_extent(sign * t, mask, 1.5) for t in maps]
        np.testing.assert_array_equal(tally.maxima["clustere"][row], np.max(extents, axis=1))
        masses = [oracle.cluster_mass(sign * t, mask, 1.0) for t in maps]
        np.testing.assert_allclose(tally.maxima["clusterm"][row], np.max(masses, axis=1), rtol=1e-5)
        np.testing.assert_allclose(tally.maxima["vox"][row], (sign * maps).max(axis=1), rtol=1e-6)
        np.testing.assert_allclose(tally.below["vox"][row] / 40, oracle.uncorrected(sign * maps), atol=1e-7)
        np.testing.assert_allclose(tally.below["tfce"][row] / 40, oracle.uncorrected(enhanced), atol=1e-7)
        p = corrected(tally.maxima["vox"][row], sign * observed.observed["vox"][0])
        np.testing.assert_allclose(p, oracle.corrected(sign * maps[0], (sign * maps).max(axis=1)), atol=1e-7)


def test_f_is_enhanced_as_z():
    test, Y, M, C = make(3, n=15, contrast=((1.0, -1, 0), (0, 0, 1)), tfce=Tfce())
    maps = oracle.statistic_maps(Y, M, C, test.shuffler.shuffles(0, 60) + 1)
    z = oracle.F_to_z(maps, 2, test.model.df)
    enhanced = [oracle.tfce(one, test.grid.mask, np.float32(z[0].max() / 100)) for one in z]
    done = run(replace(test, signs=1), threads=1)
    ours = done.observed.statistics["tfce"].in_units(done.tally.maxima["tfce"][0], 0)
    np.testing.assert_allclose(ours, np.max(enhanced, axis=1), rtol=1e-3)


def everything():
    return {"tfce": Tfce(), "extent": 1.5, "mass": 1.5, "uncorrected": True}


def same(a: Tally, b: Tally) -> None:
    for name in ("maxima", "below", "total", "nonzero"):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert mine.keys() == theirs.keys()
        for kind in mine:
            np.testing.assert_array_equal(mine[kind], theirs[kind])


def test_bits_do_not_depend_on_threads_order_or_cuts():
    test = make(5, number=101, **everything())[0]
    observed = test.observe()
    one = fold(observed, 1)
    same(one, fold(observed, 2))
    same(one, fold(observed, 3))
    shuffled = Tally(101)
    cuts = [(0, 7), (7, 8), (8, 50), (50, 101)]
    for start, stop in reversed(cuts):
        shuffled.add(observed.run(start, stop))
    assert shuffled.is_complete
    same(one, shuffled)


def test_a_tally_refuses_what_it_has():
    observed = make(1, number=20)[0].observe()
    tally = Tally(20)
    tally.add(observed.run(0, 10))
    with pytest.raises(ValueError, match="already counted"):
        tally.add(observed.run(9, 12))
    with pytest.raises(ValueError, match="not among"):
        Tally(5).add(observed.run(0, 10))
    assert not tally.is_complete


def test_a_contrast_and_its_negative_in_one_pass():
    test, Y, M, C = make(2, **everything())
    both = run(test, threads=1)
    negative = Glm(Y, partition(M, -C), test.shuffler.invariant)
    alone = run(replace(test, model=negative, signs=1), threads=1)
    for kind in both.tally.maxima:
        theirs = alone.observed.statistics[kind].in_units(alone.tally.maxima[kind][0], 0)
        ours = both.observed.statistics[kind].in_units(both.tally.maxima[kind][1], 1)
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(both.tally.below[kind][1], alone.tally.below[kind][0])


def test_a_map_beyond_the_cap_restarts_the_run():
    test = make(6, tfce=Tfce(delta=0.01), uncorrected=True)[0]
    low = run(replace(test, level_cap=8), threads=2)
    cap = low.observed.test.level_cap
    assert cap > 8
    high = run(replace(test, level_cap=cap), threads=1)
    same(low.tally, high.tally)
    higher = run(replace(test, level_cap=8 * cap), threads=1)
    ours, theirs = (d.observed.statistics["tfce"].in_units(d.tally.maxima["tfce"], 0) for d in (low, higher))
    np.testing.assert_allclose(ours, theirs, rtol=1e-7)
    np.testing.assert_array_equal(low.tally.below["tfce"], higher.tally.below["tfce"])


def test_nulls_do_not_depend_on_what_else_is_wanted():
    """Maxima without maps, clusters without TFCE: shorter ways to the same bits."""
    all_of_it = run(make(7, **everything())[0], threads=1).tally.maxima
    for wanted in ({"tfce": Tfce()}, {"extent": 1.5}, {"mass": 1.5}, {"extent": 1.5, "mass": 1.5, "tfce": Tfce()}):
        maxima = run(make(7, **wanted)[0], threads=1).tally.maxima
        for kind, values in maxima.items():
            np.testing.assert_array_equal(values, all_of_it[kind], err_msg=kind)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1)])
def test_tiny_masks(shape):
    done = run(make(1, shape=shape, keep=2, **everything())[0], threads=1)
    assert done.tally.is_complete


def test_an_empty_mask():
    test = make(1, keep=-1, **everything())[0]
    done = run(test, threads=1)
    assert done.observed.statistic.shape == (0,)
    assert not done.tally.maxima["tfce"].any()


def test_ties_of_binary_data_are_ties():
    """Lesion maps: exhaustive p at every voxel by counting in integers."""
    rng = np.random.default_rng(0)
    n = 8
    Y = (rng.random((n, 60)) < 0.4).astype(np.float32)
    group = np.repeat([1.0, 0.0], 4)
    M = np.c_[group, 1 - group]
    shuffler = Shuffler(M @ [[1.0], [-1]], Permutations(0))
    grid = Grid(np.ones((60, 1, 1), bool))
    model = Glm(Y, partition(M, [1, -1]), shuffler.invariant)
    done = run(PermutationTest(model, grid, shuffler, Statistics(uncorrected=True), signs=2), threads=1)
    # t is an increasing function of the number of lesions in group 1, given the number in all.
    counts = np.array([Y[np.argsort(p)[:4]].sum(axis=0) for p in shuffler.shuffles(0, 70)])
    varies = np.ptp(Y, axis=0) > 0
    np.testing.assert_array_equal(done.tally.below["vox"][0][varies], (counts < counts[0]).sum(axis=0)[varies])
    np.testing.assert_array_equal(done.tally.below["vox"][1][varies], (counts > counts[0]).sum(axis=0)[varies])
    assert not done.tally.below["vox"][:, ~varies].any()
    t = oracle.statistic_maps(Y[:, varies], M, np.array([[1.0, -1]]), shuffler.shuffles(0, 70) + 1).round(9)
    p = corrected(done.tally.maxima["vox"][0], done.observed.observed["vox"][0])[varies]
    null = t.max(axis=1)
    np.testing.assert_allclose(p, [(null < x).mean() for x in t[0]], atol=1e-7)


def test_the_complement_of_two_equal_groups_ties_with_the_observed_f():
    """F cannot tell a labelling from its complement: p is never under 2/N, for voxels, clusters and TFCE."""
    rng = np.random.default_rng(1)
    group = np.repeat([1.0, 0.0], 4)
    M = np.c_[group, 1 - group]
    Y = rng.normal(size=(8, 400)).astype(np.float32)
    Y[:4] += 3
    shuffler = Shuffler(M @ [[1.0], [-1]], Permutations(0))
    grid = Grid(np.ones((10, 10, 4), bool))
    model = Glm(Y, partition(M, [[1, -1]], is_f=True), shuffler.invariant)
    wanted = Statistics(tfce=Tfce(), extent=5.0, mass=5.0, uncorrected=True)
    done = run(PermutationTest(model, grid, shuffler, wanted), threads=1)
    for kind, maxima in done.tally.maxima.items():
        assert (maxima[0] >= maxima[0, 0]).sum() >= 2, kind
        assert done.tally.below[kind][0].max() <= 68, kind


def between_over_total(Y, labels):
    """Share of the sum of squares that lies between groups, an increasing function of F, in fractions."""
    total = sum(y * y for y in Y) - Fraction(sum(Y) ** 2, len(Y))
    groups = [[y for y, g in zip(Y, labels) if g == group] for group in sorted(set(labels))]
    between = sum(Fraction(sum(g) ** 2, len(g)) for g in groups) - Fraction(sum(Y) ** 2, len(Y))
    return between / total if total else Fraction(0)


def signed_share(Y, labels):
    """The same for two groups with the sign of t."""
    difference = sum(y * (1 if g else -1) * Fraction(1, labels.count(g)) for y, g in zip(Y, labels))
    return between_over_total(Y, labels) * (1 if difference > 0 else -1)


@pytest.mark.parametrize(("sizes", "is_f"), [((3, 5), False), ((4, 4), False), ((4, 4), True), ((2, 2, 3), True)])
def test_p_values_of_integers_are_rational_numbers(sizes, is_f):
    """Every labelling, every comparison in fractions: ties, constant voxels and perfect separation included."""
    rng = np.random.default_rng(sum(sizes))
    labels = np.repeat(np.arange(len(sizes))[::-1], sizes)
    n, voxels = len(labels), 24
    Y = (rng.random((n, voxels)) < 0.5).astype(int) * rng.integers(1, 3, (n, voxels))
    Y[:, 3], Y[:, 4], Y[:, 5] = 0, 7, 1000 + labels
    M = np.eye(len(sizes))[len(sizes) - 1 - labels]
    C = np.eye(len(sizes) - 1, len(sizes)) - np.eye(len(sizes) - 1, len(sizes), 1)
    shuffler = Shuffler(M @ C.T, Permutations(0))
    model = Glm(Y.astype(np.float32), partition(M, C, is_f=is_f), shuffler.invariant)
    grid = Grid(np.ones((voxels, 1, 1), bool))
    done = run(PermutationTest(model, grid, shuffler, Statistics(uncorrected=True)), threads=1)
    share = between_over_total if is_f else signed_share
    # Row i of the permuted design is row p[i] of the design.
    maps = [
        [share(Y[:, v].tolist(), labels[p].tolist()) for v in range(voxels)]
        for p in shuffler.shuffles(0, shuffler.n)
    ]
    below = [sum(one[v] < maps[0][v] for one in maps) for v in range(voxels)]
    np.testing.assert_array_equal(done.tally.below["vox"][0], below)
    null = [max(one) for one in maps]
    expected = [Fraction(sum(m < x for m in null), len(maps)) for x in maps[0]]
    p = corrected(done.tally.maxima["vox"][0], done.observed.observed["vox"][0])
    np.testing.assert_allclose(p, np.array(expected, float), atol=1e-7)
    if is_f and sizes == (4, 4):
        assert max(below) == shuffler.n - 2


def test_sign_flips_of_integers_are_rational_numbers():
    rng = np.random.default_rng(3)
    Y = rng.integers(-2, 4, (8, 30))
    Y[4] = 0  # a subject whose sign does not matter: every value is tied
    Y[:, 7] = 0
    shuffler = Shuffler(np.ones((8, 1)), Permutations(0, flip=True))
    assert shuffler.n == 256
    model = Glm(Y.astype(np.float32), partition(np.ones((8, 1)), [1]), shuffler.invariant)
    grid = Grid(np.ones((30, 1, 1), bool))
    done = run(PermutationTest(model, grid, shuffler, Statistics(uncorrected=True), signs=2), threads=1)
    sums = signs_of(shuffler.shuffles(0, 256)).astype(int) @ Y
    np.testing.assert_array_equal(done.tally.below["vox"][0], (sums < sums[0]).sum(axis=0))
    np.testing.assert_array_equal(done.tally.below["vox"][1], (sums > sums[0]).sum(axis=0))
    squares = [int(q) or 1 for q in (Y**2).sum(axis=0)]
    maps = [[Fraction(int(s) * abs(int(s)), q) for s, q in zip(one, squares)] for one in sums]
    null = [max(one) for one in maps]
    expected = [sum(m < x for m in null) / 256 for x in maps[0]]
    p = corrected(done.tally.maxima["vox"][0], done.observed.observed["vox"][0])
    np.testing.assert_allclose(p, expected, atol=1e-7)


def test_a_shuffle_that_ties_by_its_data_ties_in_every_statistic():
    """One image stands in both groups: to exchange the two changes nothing."""
    group = np.repeat([1.0, 0.0], 4)
    M, C = np.c_[group, 1 - group], np.array([[1.0, -1]])
    shuffler = Shuffler(M @ C.T, Permutations(0))
    grid = Grid(np.ones((8, 8, 4), bool))
    given = group[shuffler.shuffles(0, 70)]
    swapped = int(np.flatnonzero((given == [1, 0, 1, 1, 0, 1, 0, 0]).all(axis=1))[0])
    for seed in range(8):
        Y = np.random.default_rng(seed).normal(size=(8, 256)).astype(np.float32)
        Y[:4] += 1
        Y[5] = Y[1]
        model = Glm(Y, partition(M, C), shuffler.invariant)
        wanted = Statistics(tfce=Tfce(), extent=2.0, mass=2.0)
        done = run(PermutationTest(model, grid, shuffler, wanted), threads=1)
        for kind, (maxima, _) in done.tally.maxima.items():
            assert maxima[swapped] == maxima[0], kind


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [("F", 1.0), pytest.param("t", 1.0, marks=pytest.mark.long), pytest.param("t", 2.0, marks=pytest.mark.long)],
)
def test_clusters_of_integers_tie_as_rational_numbers_do(kind, threshold):
    """Isolated voxels: extent, mass and TFCE are functions of one t, which can lie on a threshold or a step."""
    rng = np.random.default_rng(5)
    labels = np.repeat([1, 0], 4)
    M = np.c_[labels, 1 - labels].astype(float)
    C = np.array([[1.0, -1]])
    shuffler = Shuffler(M @ C.T, Permutations(0))
    grid = Grid((np.arange(7) % 2 == 0).reshape(7, 1, 1))
    given = labels[shuffler.shuffles(0, 70)].tolist()
    share = between_over_total if kind == "F" else signed_share
    # t squared, or F: 6 x / (1 - x) of the share x of the sum of squares.
    lowest = Fraction(threshold if kind == "F" else threshold**2)
    bound, on_the_edge = lowest / (6 + lowest), 0
    for _ in range(60):
        Y = rng.integers(0, 3, (8, 4))
        maps = [[share(Y[:, v].tolist(), one) for v in range(4)] for one in given]
        if not np.ptp(Y, axis=0).all() or max(map(max, maps)) == 1:  # an infinite t
            continue
        on_the_edge += sum(x == bound for one in maps for x in one)
        model = Glm(Y.astype(np.float32), partition(M, C, is_f=kind == "F"), shuffler.invariant)
        wanted = Statistics(tfce=Tfce(), extent=threshold, mass=threshold, uncorrected=True)
        done = run(PermutationTest(model, grid, shuffler, wanted), threads=1)
        worth = {
            "clustere": [[x >= bound for x in one] for one in maps],
            "clusterm": [[x if x >= bound else 0 for x in one] for one in maps],
        }
        for name, values in worth.items():
            observed = np.maximum(done.observed.observed[name][0], 0)
            p = corrected(done.tally.maxima[name][0], done.observed.statistics[name].least_tie(observed))
            null = [max(one) for one in values]
            assert np.rint(p * 70).tolist() == [sum(m < x for m in null) for x in values[0]]
            below = [sum(one[v] < values[0][v] for one in values) for v in range(4)]
            assert done.tally.below[name][0].tolist() == below
        # Equal t have equal TFCE, however it is cut into steps.
        maxima = done.tally.maxima["tfce"][0]
        largest = [max(one) for one in maps]
        for x in {x for x in largest if x > 0}:
            assert len({maxima[i] for i in range(70) if largest[i] == x}) == 1
    assert threshold != 1 or on_the_edge > 50


def test_a_map_without_the_sign_has_nothing():
    """Whole maps of clusters and TFCE are signed; where a shuffle has one sign only, the other's maximum is 0."""
    rng = np.random.default_rng(0)
    Y = (rng.normal(size=(16, 1)) + 0.2 * rng.normal(size=(16, 27)) + 1).astype(np.float32)
    group = np.arange(16) < 8
    M, C = np.c_[group, ~group].astype(float), np.array([[-1.0, 0]])
    shuffler = Shuffler(M @ C.T, Permutations(80))
    grid = Grid(np.ones((3, 3, 3), bool))
    model = Glm(Y, partition(M, C), shuffler.invariant)
    found = {}
    for uncorrected, two_pass in ((False, False), (True, False), (False, True)):
        wanted = Statistics(tfce=Tfce(), extent=1.0, mass=1.0, uncorrected=uncorrected, two_pass=two_pass)
        done = run(PermutationTest(model, grid, shuffler, wanted, signs=2), threads=1)
        assert (done.observed.statistic < 0).all()
        for name in ("clustere", "clusterm", "tfce"):
            maxima = done.tally.maxima[name]
            assert maxima.min() == 0
            np.testing.assert_array_equal(maxima, found.setdefault(name, maxima))
            assert corrected(maxima[0], np.maximum(done.observed.observed[name][0], 0)).max() == 0
    for maxima in done.second_tally.maxima.values():
        assert maxima.min() == 0


def test_largest_values_below_zero_tie():
    """Voxels whose t are all negative: p is a rational number there too."""
    labels = np.repeat([1, 0], 4)
    M, C = np.c_[labels, 1 - labels].astype(float), np.array([[1.0, -1]])
    shuffler = Shuffler(M @ C.T, Permutations(0))
    given = labels[shuffler.shuffles(0, 70)].tolist()
    n_tests = 0
    for seed in range(400):
        Y = np.random.default_rng(seed).integers(0, 3, (8, 3))
        if np.ptp(Y, axis=0).all() and (Y[:4].sum(axis=0) < Y[4:].sum(axis=0)).all():
            n_tests += 1
            model = Glm(Y.astype(np.float32), partition(M, C), shuffler.invariant)
            done = run(PermutationTest(model, Grid(np.ones((3, 1, 1), bool)), shuffler, Statistics()), threads=1)
            maps = [[signed_share(Y[:, v].tolist(), one) for v in range(3)] for one in given]
            p = corrected(done.tally.maxima["vox"][0], done.observed.observed["vox"][0])
            assert np.rint(p * 70).tolist() == [sum(max(one) < x for one in maps) for x in maps[0]]
    assert n_tests > 10


def test_ties_with_smoothed_variance():
    """In one of two blocks one image stands in both groups: to exchange the two changes nothing there."""
    group = np.repeat([1.0, 0.0], 4)
    M, C = np.c_[group, 1 - group], np.array([[1.0, -1]])
    shuffler = Shuffler(M @ C.T, Permutations(0))
    mask = np.zeros((20, 3, 3), bool)
    mask[:3] = mask[15:18] = True
    grid = Grid(mask)
    tied = grid.to_vector(np.arange(180).reshape(mask.shape) < 90).astype(bool)
    given = group[shuffler.shuffles(0, 70)]
    swapped = int(np.flatnonzero((given == [1, 0, 1, 1, 0, 1, 0, 0]).all(axis=1))[0])
    for seed in range(12):
        Y = np.random.default_rng(seed).normal(size=(8, 54)).astype(np.float32)
        Y[5, tied] = Y[1, tied]
        model = Glm(Y, partition(M, C), shuffler.invariant, smoother=MaskedGaussian(grid, 1.0))
        observed = PermutationTest(model, grid, shuffler, Statistics(uncorrected=True), signs=2).observe()
        below = observed.run(swapped, swapped + 1).below["vox"]
        assert not below[:, tied].any()
        assert below[:, ~tied].any(axis=0).all()


def test_two_pass_scheme():
    test, Y, M, C = make(4, tfce=Tfce(), extent=1.2, voxel=False, two_pass=True)
    maps = oracle.statistic_maps(Y, M, C, test.shuffler.shuffles(0, 60) + 1)
    mask = test.grid.mask
    extents = np.array([oracle.cluster_extent(t, mask, 1.2) for t in maps])
    enhanced = np.array([oracle.tfce(t, mask, np.float32(maps[0].max() / 100)) for t in maps])
    done = run(test, threads=2)
    _, _, extent_mean = oracle.local_mean(extents)
    _, _, tfce_mean = oracle.local_mean(enhanced, floor=True)
    np.testing.assert_allclose(done.second.local_means["clustere"][0], extent_mean)
    np.testing.assert_allclose(done.second.local_means["tfce"][0], tfce_mean, rtol=1e-5)
    normed = [oracle.cluster_normed_extent(t, mask, 1.2, extent_mean).max() for t in maps]
    np.testing.assert_allclose(done.second_tally.maxima["clustern"][0], normed)
    tfcen = oracle.ratio(enhanced, tfce_mean).max(axis=1)
    np.testing.assert_allclose(done.second_tally.maxima["tfcen"][0], tfcen, rtol=1e-4)


def test_critical_value_is_the_rank_fsl_takes():
    assert critical_value(np.arange(1, 21)) == 19
    assert critical_value(np.arange(1, 71)) == 67
    assert critical_value([3.0]) == 3
