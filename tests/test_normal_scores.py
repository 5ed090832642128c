"""z of t and F, models on the scale of z, and what PALM makes of z in space: against scipy and naive functions."""

from __future__ import annotations

from functools import cache

import nibabel as nib
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_ndtr

from gpuvox.errors import InputError
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.normal_scores import Magnitude, ZScale, normal_scores
from gpuvox.own_steps import OwnSteps, raised
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.reductions import count_below
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.tfce import Enhancer, Tfce
from gpuvox.voxelwise_evs import VoxelwiseGlm
from gpuvox.z_tables import z_of_f, z_of_t
from tests.palm import cases, naive

# -- z --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [1, 2, 7.35, 36, 1000])
def test_z_of_t_agrees_with_scipy_far_into_the_tail(df):
    t = np.exp(np.random.default_rng(0).uniform(-9, 25, 4000))
    z = z_of_t(t, df)
    tail = stats.t.sf(t, df)
    known = tail > 1e-300
    np.testing.assert_allclose(z[known], stats.norm.isf(tail[known]), rtol=1e-9, atol=1e-12)
    # Beyond: the tail of t is f(t)·t / df but for terms of the order of df / t².
    far = t > 1e5 * df
    with np.errstate(divide="ignore"):
        log_tail = stats.t.logpdf(t[far], df) + np.log(t[far]) - np.log(df)
    np.testing.assert_allclose(log_ndtr(-z[far]), log_tail, rtol=1e-8)
    np.testing.assert_array_equal(z_of_t(-t, df), -z)


@pytest.mark.parametrize("dfs", [(1, 36), (3, 36), (30, 10), (2, 4.5)])
def test_z_of_f_agrees_with_scipy_in_both_tails(dfs):
    f = np.exp(np.random.default_rng(0).uniform(-40, 20, 4000))
    upper, lower = stats.f.sf(f, *dfs), stats.f.cdf(f, *dfs)
    z, known = z_of_f(f, *dfs), (upper > 1e-300) & (lower > 1e-300)
    expected = naive.score(lower[known], upper[known])
    np.testing.assert_allclose(z[known], expected, rtol=1e-9, atol=1e-9)
    order = np.argsort(f)
    assert (np.diff(z[order]) > 0).all()
    assert z_of_f(0.0, *dfs) == -np.inf


@pytest.mark.parametrize(("is_f", "df1", "df2"), [(False, 1, 1), (False, 1, 36), (True, 1, 36), (True, 4, 12)])
def test_tables_are_monotone_and_good_to_float32(is_f, df1, df2):
    rng = np.random.default_rng(1)
    x = np.sort(np.exp(np.r_[rng.uniform(-6, 4, 20000), rng.uniform(-40 if is_f else -10, 28, 4000)])).astype(
        np.float32
    )
    scores = normal_scores(df1, df2, is_f, 0)
    exact = scores.values(x.astype(float), np.zeros(len(x), int))
    true = z_of_f(x, df1, df2) if is_f else z_of_t(x, df2)
    np.testing.assert_allclose(exact, true, rtol=2e-8, atol=2e-8 if is_f else 0)
    maps = x[None].copy()
    scores.put_maps(maps)
    np.testing.assert_array_equal(maps[0], exact.astype(np.float32))
    assert (np.diff(maps[0]) >= 0).all()
    if not is_f:
        negative = -x[None]
        scores.put_maps(negative)
        np.testing.assert_array_equal(negative, -maps)


def test_degrees_of_freedom_of_each_voxel():
    df = np.array([5, 30, 0, 5, 12.5])
    t = np.array([[2, 2, 2, -3, 0.5], [0, np.nan, 9, 1e-5, np.inf]], np.float32)
    maps = t.copy()
    normal_scores(1, df, False, 0).put_maps(maps)
    for v, each in enumerate(df):
        for b in range(2):
            if np.isfinite(t[b, v]):
                expected = z_of_t(t[b, v], each) if each else 0
                np.testing.assert_allclose(maps[b, v], expected, rtol=1e-6)
    assert np.isnan(maps[1, 1])
    assert maps[1, 4] == np.float32(z_of_t(2.0**42, 12.5))


# -- models ---------------------------------------------------------------------------------------------------------


def small_study(seed, n=14, shape=(6, 5, 4), rank=1):
    rng = np.random.default_rng(seed)
    grid = Grid(rng.random(shape) < 0.9)
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    data[: n // 2, : grid.n_voxels // 3] += 1.5
    design = np.c_[np.arange(n) < n // 2, np.ones(n), rng.normal(size=(n, 2))].astype(float)
    contrast = np.eye(4)[[0, 2][:rank]] if rank > 1 else np.array([1.0, 0, 0, 0])
    return grid, data, design, contrast


def shuffled(design, contrast, n=25):
    return Shuffler((design @ np.atleast_2d(contrast).T), Permutations(n, 3))


def by_palm(data, design, contrast, shuffler):
    """Naive statistics and z, (N, V)."""
    C = np.atleast_2d(contrast)
    model = naive.partition(design, C)
    df = len(design) - np.linalg.matrix_rank(design)
    for p in shuffler.shuffles(0, shuffler.n):
        yield naive.t_or_f(p + 1, data.astype(float), model, "Freedman-Lane", df, len(C) == 1)


@pytest.mark.parametrize("rank", [1, 2])
def test_maps_of_a_model_are_z(rank):
    grid, data, design, contrast = small_study(1, rank=rank)
    shuffler = shuffled(design, contrast)
    model = ZScale(Glm(data, partition(design, contrast, is_f=rank > 1), shuffler.invariant))
    shuffles = shuffler.shuffles(0, shuffler.n)
    maps = model.statistic_maps(shuffles)
    for b, statistic in enumerate(by_palm(data, design, contrast, shuffler)):
        np.testing.assert_allclose(maps[b], statistic.z, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(model.exact_map(shuffles[b]), statistic.z, rtol=1e-7, atol=1e-8)
        some = np.arange(0, grid.n_voxels, 5)
        found = model.exact(shuffles, np.full(len(some), b), some)
        np.testing.assert_array_equal(found, model.exact_map(shuffles[b])[some])


def test_low_f_are_computed_in_float64():
    _, data, design, contrast = small_study(1, rank=2)
    data = np.tile(data, 60)
    shuffler = shuffled(design, contrast, 10)
    model = ZScale(Glm(data, partition(design, contrast, is_f=True), shuffler.invariant))
    maps, shuffles = model.statistic_maps(shuffler.shuffles(0, 10)), shuffler.shuffles(0, 10)
    exact = np.array([model.exact_map(each) for each in shuffles])
    assert exact.min() < -2.5
    assert (np.abs(maps - exact) < 0.5e-4 * np.maximum(np.abs(exact), 1)).all()


def test_voxelwise_models_have_z_of_their_own_degrees_of_freedom():
    _, data, design, contrast = small_study(2)
    rng = np.random.default_rng(0)
    evs = {
        3: rng.normal(size=data.shape).astype(np.float32),
        -1: (rng.random(data.shape) < 0.2).astype(np.float32),
    }
    evs[3][:, :5] = 1.0  # collinear with the intercept
    model = VoxelwiseGlm(data, design, contrast, evs)
    assert len(np.unique(model.dfs[1])) > 3
    shuffle = np.arange(len(data))
    z, t = ZScale(model).exact_map(shuffle), model.exact_map(shuffle)
    np.testing.assert_allclose(z, naive.t_to_z(t, model.dfs[1]), rtol=1e-7)


def test_two_tails_are_of_t_alone():
    _, data, design, contrast = small_study(1, rank=2)
    model = ZScale(Glm(data, partition(design, contrast, is_f=True), np.zeros((len(data), 0))))
    with pytest.raises(ValueError, match="one tail"):
        Magnitude(model)
    with pytest.raises(ValueError, match="one tail"):
        Magnitude(model.model)


# -- TFCE by PALM's rule ----------------------------------------------------------------------------------------------


def z_maps(grid, n_maps, seed=0):
    z = np.random.default_rng(seed).normal(size=(n_maps, grid.n_voxels)).astype(np.float32)
    z[0] = np.round(8 * z[0]) / 8
    z[1] = -np.abs(z[1])
    return z


def in_space(function, grid, z, *arguments):
    """A naive function of values in the order of a mask's array, of values in the order of the grid."""
    values = function(grid.to_volume(z.astype(float))[grid.mask], grid.mask, *arguments)
    volume = np.zeros(grid.shape)
    volume[grid.mask] = values
    return grid.to_vector(volume)


@pytest.mark.parametrize(("H", "E", "connectivity"), [(2, 0.5, 6), (1.5, 0.7, 18), (2, 1, 26), (0, 2, 6)])
@pytest.mark.parametrize("dh", [None, 0.125])
def test_tfce_agrees_with_the_definition(H, E, connectivity, dh):
    grid = Grid(np.random.default_rng(1).random((7, 6, 5)) < 0.85)
    z = z_maps(grid, 4)
    options = Tfce(H, E, connectivity, rule="palm", delta=dh)
    expected = np.array(
        [[in_space(naive.tfce, grid, s * each, H, E, connectivity, dh) for each in z] for s in (1, -1)]
    )
    if dh is None:
        maxima, maps = OwnSteps(grid, options, 2)._run(z, True)
        only, _ = OwnSteps(grid, options, 2)._run(z, False)
        one_sign, _ = OwnSteps(grid, options, 1)._run(z, True)
        np.testing.assert_array_equal(one_sign, [only[0], np.zeros(4)])
    else:
        enhancer = Enhancer(grid, options, (dh, dh), 64)
        maxima, maps = enhancer.to_float(enhancer.maxima(z)), enhancer.to_float(enhancer.enhance(z))
        only = np.stack([maps.max(axis=1), -maps.min(axis=1)]).clip(0)
    np.testing.assert_allclose(maps, expected[0] - expected[1], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(maxima, expected.max(axis=2), rtol=1e-7)
    np.testing.assert_array_equal(maxima, only)


@pytest.mark.parametrize("rule", ["randomise", "palm"])
def test_maps_above_the_tables_are_finished_with_the_same_thresholds(rule):
    grid = Grid(np.ones((4, 4, 4), bool))
    z = z_maps(grid, 2, 3)
    z[0, :3] = 900, 901.5, 700.0
    options = Tfce(delta=0.5, rule=rule)
    small, large = (Enhancer(grid, options, (0.5, 0.5), cap, most=most) for cap, most in ((64, 64), (2048, 2048)))
    np.testing.assert_allclose(
        small.to_float(small.enhance(z)), large.to_float(large.enhance(z)), rtol=1e-8, atol=1e-9
    )
    if rule == "palm":
        expected = in_space(naive.tfce, grid, z[0], 2.0, 0.5, 6, 0.5)
        np.testing.assert_allclose(np.maximum(small.to_float(small.enhance(z))[0], 0), expected, rtol=1e-6)


def test_powers_are_good():
    rng = np.random.default_rng(0)
    for x, power in zip(np.exp(rng.uniform(-30, 8, 300)), rng.uniform(0, 6, 300)):
        assert raised(x, power) == pytest.approx(x**power, rel=1e-12)


def test_options_that_exclude_each_other():
    with pytest.raises(InputError, match="robust"):
        Tfce(delta="robust", rule="palm")
    assert Tfce.of_dimension(2) == Tfce(2, 1, 26, rule="palm")
    assert Tfce.of_dimension(1, H=3.0) == Tfce(3, 2, 6, rule="palm")


def test_values_that_are_not_finite_are_refused():
    grid = Grid(np.ones((2, 2, 2), bool))
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match="not a number"):
            OwnSteps(grid, Tfce(rule="palm"))._run(np.full((1, 8), value, np.float32), False)


# -- whole tests, against what PALM wrote -----------------------------------------------------------------------------


SPATIAL = (
    "t_exhaustive",
    "tfce_options",
    "tfce_dh",
    "tfce_2d_nifti",
    "cluster_extent",
    "cluster_mass",
    "twotail_fdr_bh_logp",
)


def settings_of(command):
    """Statistics of a command of PALM."""
    tfce = None
    if "-T" in command:
        names = {"-tfce_H": "H", "-tfce_E": "E", "-tfce_C": "connectivity", "-tfce_dh": "delta"}
        given = {name: float(command.one(option)) for option, name in names.items() if option in command}
        given |= {"connectivity": int(given["connectivity"])} if "connectivity" in given else {}
        tfce = Tfce.of_dimension(2, **given) if "-tfce2D" in command else Tfce(rule="palm", **given)
    threshold = float(command.one("-C")) if "-C" in command else None
    mass = command.one("-Cstat") == "mass"
    return Statistics(
        True, tfce, extent=None if mass else threshold, mass=threshold if mass else None, uncorrected=True
    )


@cache
def case_of(name):
    return cases.Case(name)


def in_the_engine(case, number, device=None):
    """(observed, tally) of a t test of a case."""
    (Y, mask), test = case.modalities[0], case.tests[number]
    grid = Grid(mask)
    place = np.zeros(mask.shape, int)
    place[mask] = np.arange(Y.shape[1])
    order = grid.to_vector(place)
    data = np.ascontiguousarray(Y[:, order], dtype=np.float32)
    shuffler = ImportedShuffler(case.permutations(test))
    model = ZScale(Glm(data, partition(case.designs[0], test.weights[0]), shuffler.invariant, device=device))
    if "-twotail" in case.command:
        model = Magnitude(model)
    observed = PermutationTest(model, grid, shuffler, settings_of(case.command)).observe()
    return order, observed, observed.run(0, shuffler.n)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", SPATIAL)
def test_maps_maxima_and_p_are_those_that_palm_wrote(name, number):
    case = case_of(name)
    order, observed, result = in_the_engine(case, number)
    n, mask = observed.n, case.modalities[0][1]

    def written(unit, p="", last=""):
        path = case.folder / f"palm_{unit}_tstat{p}{last}_c{number + 1}.{'csv' if last else 'nii.gz'}"
        values = (
            np.loadtxt(path) if last else np.asanyarray(nib.load(path).dataobj).reshape(mask.shape)[mask][order]
        )
        return 10.0**-values if p and "-logp" in case.command else values

    units = {"vox": "vox", "tfce": "tfce", "clustere": "clustere", "clusterm": "clusterm"}
    for kind, statistic in observed.statistics.items():
        values, unit = statistic.of_sign(observed.observed[kind][0], 0), units[kind]
        null = result.maxima[kind][0]
        shown = statistic.in_units(values, 0)
        if kind == "vox":
            inner = observed.test.model
            while not isinstance(inner, Glm):
                inner = inner.model
            shown = inner.exact_map(np.arange(inner.n_rows))
        np.testing.assert_allclose(shown, written(unit), rtol=1e-5, atol=1e-6, err_msg=unit)
        np.testing.assert_allclose(
            statistic.in_units(null, 0), written(unit, last="_max"), rtol=1e-5, err_msg=unit
        )
        lost = 2.001 / n if name == "t_exhaustive" else 1e-6
        fwe = (null[:, None] >= statistic.least_tie(values)).mean(axis=0)
        assert (np.abs(fwe - written(unit, "_fwep")) <= lost).all(), unit
        if not kind.startswith("cluster"):
            p = 1 - result.below[kind][0] / n
            assert (np.abs(p - written(unit, "_uncp")) <= lost).all(), unit


@pytest.mark.parametrize("signs", [1, 2])
def test_counts_are_those_of_the_maps(signs):
    grid = Grid(np.random.default_rng(1).random((7, 6, 5)) < 0.85)
    z = z_maps(grid, 12, 5)
    z[3:6] = z[2]
    z[6] = 1e-3 * z[2]
    own = OwnSteps(grid, Tfce(H=1.5, rule="palm"), signs)
    maxima, maps = own._run(z, True)
    for observed in (maps[2], maps[0], np.nextafter(maps[2], np.inf), np.nextafter(maps[2], -np.inf), 0 * maps[0]):
        best, below = own.maxima_and_below(z, observed)
        np.testing.assert_array_equal(best, maxima)
        np.testing.assert_array_equal(below, count_below(maps, observed[None], True))
