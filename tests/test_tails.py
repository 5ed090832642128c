"""Approximate p-values against naive functions, enumerations of all permutations, and PALM's files."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

import gpuvox
from gpuvox import files
from gpuvox.analysis import Inputs, Options, analyse
from gpuvox.application.outputs import OutputOptions
from gpuvox.cli.main import main
from gpuvox.device import Outcomes
from gpuvox.errors import DesignError
from gpuvox.executors import run
from gpuvox.findings.runs import read_run
from gpuvox.findings.tested import read_grid, read_tested
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.joint import JointNull
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.prepared import prepare
from gpuvox.pvalues import adaptive_false_discovery_rate, corrected, false_discovery_rate, shares
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import to_one
from gpuvox.statistics import Statistics
from gpuvox.tail_runs import FirstReached, PowerSums, Tail, run_approximated, run_negative_binomial
from gpuvox.tails import gamma, gamma_of, moments_of_sums, negative_binomial, pareto, without_permutations
from gpuvox.tfce import Tfce
from tests.palm import cases, naive

# -- the laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 101, 300, 1000])
def test_pareto_equals_the_naive_fit(n):
    rng = np.random.default_rng(n)
    null = np.column_stack(
        [
            rng.normal(size=n),
            rng.exponential(size=n),
            rng.uniform(size=n),
            rng.standard_t(2, n),
            rng.normal(size=n) ** 3,
        ]
        + [rng.normal(size=n) for _ in range(30)]
    )
    null[0] = np.quantile(null, 0.97, axis=0)
    p = naive.at_least(null, null[0])
    ours, fitted = pareto(null, null[0], p)
    theirs = [
        naive.pareto_tail(null[:, v], null[0, [v]], p[[v]])[0] if p[v] < 0.1 else p[v] for v in range(len(p))
    ]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert fitted.any()
    assert ((ours != p) <= fitted).all()
    observed = np.linspace(-1, 6, 50)
    p = naive.at_least(null[:, :1], observed)
    np.testing.assert_allclose(
        pareto(null[:, 0], observed, p).p, naive.pareto_tail(null[:, 0], observed, p), rtol=1e-9
    )


def test_where_no_law_fits_p_stays():
    n = 200
    two_values = np.repeat([0.0, 1.0], [190, 10])[:, None]
    constant = np.ones((n, 1))
    bimodal = np.concatenate([np.linspace(0, 1, 100), np.repeat([5.0, 9.0], 50)])[:, None]
    null = np.hstack([two_values, constant, bimodal])
    p = np.array([0.05, 0.05, 0.05])
    out, fitted = pareto(null, null.max(axis=0), p)
    assert not fitted.any()
    np.testing.assert_array_equal(out, p)
    for few in (1, 2, 3):
        assert pareto(np.arange(few, dtype=float), np.array([9.0]), np.array([0.01])).p[0] == 0.01


def test_pareto_tells_small_p_from_few_permutations():
    """299 normal values and one of 3.3: its p is 4.8e-4, which counting cannot tell from 1/300."""
    null = np.random.default_rng(3).normal(size=(300, 2000))
    null[0] = 3.3
    counted = naive.at_least(null, null[0])
    p, fitted = pareto(null, null[0], counted)
    assert fitted.mean() > 0.95
    assert (p > 0).all()
    error = np.abs(np.log(p / stats.norm.sf(3.3)))
    assert np.median(error) < np.log(4) < np.median(np.abs(np.log(counted / stats.norm.sf(3.3))))


def test_gamma_is_pearsons_type_iii():
    x = np.array([-1.0, 0.3, 2.5, 7.0])
    for skew in (-1.5, -0.2, 0.0, 0.4, 2.0):
        expected = stats.pearson3.sf(x, skew, loc=0.5, scale=1.5)
        np.testing.assert_allclose(gamma(x, 0.5, 2.25, skew), expected, rtol=1e-9, atol=1e-15)
    assert gamma(1.0, 1.0, 0.0, 0.0) == 1
    null = np.random.default_rng(0).gamma(2, size=400)
    np.testing.assert_allclose(gamma_of(null, x), naive.gamma_tail(null[:, None], x), rtol=1e-9)


def test_moments_from_sums():
    x = np.random.default_rng(0).gamma(2, size=(50, 4))
    x[:, 3] = 0.1
    mean, variance, skewness = moments_of_sums(50, *(np.sum(x**power, axis=0) for power in (1, 2, 3)))
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(variance[:3], x.var(axis=0, ddof=1)[:3])
    np.testing.assert_allclose(skewness[:3], stats.skew(x, axis=0, bias=False)[:3])
    assert (variance[3], skewness[3]) == (0, 0)


def test_negative_binomial_of_first_exceedances():
    n = 20
    reached = np.array([[3, 19, 20, 1], [7, 20, 20, 2]])
    np.testing.assert_allclose(negative_binomial(reached, n), [2 / 7, 2 / 20, 1 / 20, 2 / 2])


@pytest.mark.parametrize("columns", [1, 2])
def test_moments_without_permutations_are_those_over_all_of_them(columns):
    """r², or R², of every permutation of seven rows; the law has their mean, variance and skewness."""
    rng = np.random.default_rng(columns)
    n = 7
    X = rng.normal(size=(n, columns))
    design = partition(np.c_[X, np.ones(n)], np.eye(columns, columns + 1), is_f=True)
    Y = rng.normal(size=(n, 5)).astype(np.float32)
    statistic, p = without_permutations(Y, design)
    w = Y - Y.mean(axis=0, dtype=float)
    w /= np.sqrt((w**2).sum(axis=0))
    share = ((design.effect.T @ w) ** 2).sum(axis=0)
    every = np.array([((design.effect[list(order)].T @ w) ** 2).sum(axis=0) for order in permutations(range(n))])
    skewness = stats.skew(every, axis=0)
    np.testing.assert_allclose(statistic, share, rtol=1e-6)
    np.testing.assert_allclose(p, gamma(share, every.mean(axis=0), every.var(axis=0), skewness), rtol=1e-6)


def test_without_permutations_against_the_naive_function():
    rng = np.random.default_rng(5)
    n = 15
    M = np.c_[np.arange(n) % 2, rng.normal(size=(n, 2)), np.ones(n)]
    Y = rng.normal(size=(n, 150)).astype(np.float32)
    for C, is_f, two in (
        ([[1, 0, 0, 0]], False, False),
        ([[1, 0, 0, 0]], False, True),
        ([[1, 0, 0, 0], [0, 1, 0, 0]], True, False),
    ):
        ours = without_permutations(Y, partition(M, C, is_f=is_f), two)
        theirs = naive.without_permutations(Y.astype(float), naive.partition(M, np.array(C, float)), not is_f, two)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    demeaned = without_permutations(Y + 7, partition(M[:, :3], [[1, 0, 0]], demean=True))
    plain = without_permutations(Y, partition(M, [[1, 0, 0, 0]]))
    np.testing.assert_allclose(demeaned[1], plain[1], atol=1e-5)
    Y[:, 3] = 2
    statistic, p = without_permutations(Y, partition(M, [[1, 0, 0, 0]]))
    assert (statistic[3], p[3]) == (0, 1)


def test_without_permutations_needs_a_constant_in_the_nuisance():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(9, 3)).astype(np.float32)
    with pytest.raises(DesignError, match="need a constant in the nuisance"):
        without_permutations(Y, partition(np.ones((9, 1)), [[1]]))
    with pytest.raises(DesignError, match="at least 6 rows; the design has 5"):
        without_permutations(Y[:5], partition(np.c_[np.arange(5), np.ones(5)], [[1, 0]]))


# -- false discovery rates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_adaptive_rate_equals_the_naive_one(seed):
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.uniform(size=120), rng.uniform(size=30) ** 6, [1.0, 1.0, 0.05, 0.05]])
    p = np.round(p, 3).clip(1e-3) if seed % 2 else p
    np.testing.assert_allclose(adaptive_false_discovery_rate(p), naive.bky(p), rtol=1e-10)
    padded = np.concatenate([p, np.ones(50)])
    np.testing.assert_allclose(adaptive_false_discovery_rate(padded, len(p))[: len(p)], naive.bky(p), rtol=1e-10)
    np.testing.assert_allclose(false_discovery_rate(p), naive.bh(p), rtol=1e-10)


def test_adaptive_rate_of_certain_and_of_hopeless_tests():
    np.testing.assert_array_equal(adaptive_false_discovery_rate(np.zeros(3)), 0)
    np.testing.assert_array_equal(adaptive_false_discovery_rate(np.ones(3)), 1)
    np.testing.assert_array_equal(adaptive_false_discovery_rate(np.zeros(0)), np.zeros(0))


# -- runs -----------------------------------------------------------------------------------------------------------


def small_test(n=12, voxels=40, number=200, **choice):
    rng = np.random.default_rng(2)
    M = np.c_[np.arange(n) % 2, np.ones(n)]
    Y = rng.normal(size=(n, voxels)).astype(np.float32)
    Y[1::2, : voxels // 4] += 2.5
    shuffler = Shuffler(M[:, 0], Permutations(number, 3))
    model = Glm(Y, partition(M, [1, 0]), shuffler.invariant)
    grid = Grid(np.ones((voxels // 4, 4, 1), dtype=bool))
    choice = {"uncorrected": True} | choice
    two = choice.get("two_sided", False)
    return PermutationTest(
        model, grid, shuffler, Statistics(**choice), signs=2 if two else 1, joint_peak=0.0 if two else None
    )


def nulls_of(test: PermutationTest) -> dict[str, np.ndarray]:
    """(N, V) By statistic, as callbacks see them."""
    rows: dict[int, dict[str, np.ndarray]] = {}
    run(
        replace(test, shows_sizes=test.statistics.two_sided),
        threads=1,
        callback=lambda i, maps: rows.update({i: maps}),
    )
    return {name: np.array([rows[i][name] for i in range(len(rows))], dtype=float) for name in rows[0]}


@pytest.mark.parametrize("two_sided", [False, True])
def test_runs_gather_what_the_laws_need(two_sided):
    test = small_test(tfce=Tfce(), extent=2.0, two_sided=two_sided)
    nulls = nulls_of(test)
    if two_sided:
        assert (nulls["vox"] >= 0).all()
    by_pareto = run_approximated(test, Tail("pareto"), threads=2)
    by_gamma = run_approximated(test, Tail("gamma"), threads=2)
    assert set(by_pareto.uncorrected) == set(by_gamma.uncorrected) == {"vox", "tfce"}
    for name, (p, fitted) in by_pareto.uncorrected.items():
        counted = 1 - by_pareto.finished.tally.below[name][0] / 200
        expected, _ = pareto(nulls[name], nulls[name][0], counted)
        np.testing.assert_allclose(p, expected, rtol=1e-9)
        assert fitted.any()
        expected = naive.gamma_tail(nulls[name], nulls[name][0])
        varies = nulls[name].std(axis=0) > 0
        np.testing.assert_allclose(by_gamma.uncorrected[name].p[varies], expected[varies], rtol=1e-5, atol=1e-9)
    maxima = by_gamma.finished.tally.maxima
    for name, values in by_pareto.finished.tally.maxima.items():
        np.testing.assert_array_equal(values, maxima[name])


def test_neither_threads_nor_room_change_a_bit():
    test = small_test(tfce=Tfce())
    for method in ("pareto", "gamma"):
        one = run_approximated(test, Tail(method), threads=1)
        other = run_approximated(test, Tail(method), threads=2, room=8 * 200 * 3)
        for name, (p, fitted) in one.uncorrected.items():
            np.testing.assert_array_equal(p, other.uncorrected[name].p)
            np.testing.assert_array_equal(fitted, other.uncorrected[name].fitted)


def test_without_counts_nothing_is_approximated():
    assert not run_approximated(small_test(uncorrected=False), Tail("gamma"), threads=1).uncorrected


@pytest.mark.parametrize("r", [1, 2, 5])
def test_negative_binomial_runs_until_all_voxels_are_done(r):
    test = small_test(number=700, tfce=Tfce())
    nulls = nulls_of(test)
    observed, p, done = run_negative_binomial(test, r, threads=2)
    for name, values in p.items():
        np.testing.assert_allclose(values, naive.negative_binomial(nulls[name], nulls[name][0], r))
    assert done == 700  # some voxel has a true effect
    silent = replace(
        test,
        model=Glm(
            np.random.default_rng(8).normal(size=(12, 40)).astype(np.float32),
            partition(np.c_[np.arange(12) % 2, np.ones(12)], [1, 0]),
            test.shuffler.invariant,
        ),
        statistics=Statistics(),
    )
    nulls = nulls_of(silent)
    reported: list[int] = []
    observed, p, done = run_negative_binomial(silent, r, threads=1, progress=reported.append)
    np.testing.assert_allclose(p["vox"], naive.negative_binomial(nulls["vox"], nulls["vox"][0], r))
    assert reported[-1] == done
    assert observed.n == 700


def skewed_test(shuffler, voxels=30):
    """Two groups of five with skewed errors; some voxels have an effect."""
    data = np.random.default_rng(11).exponential(size=(10, voxels)).astype(np.float32)
    data[:5, :10] += 1.5
    model = Glm(data, partition(np.c_[GROUP, np.ones(10)], [1, 0]), shuffler.invariant)
    return PermutationTest(model, Grid(np.ones((voxels, 1, 1), bool)), shuffler, Statistics())


GROUP = np.repeat([1.0, 0.0], 5)
WHOLE = Shuffler(GROUP, Permutations(0))
DRAWN = Shuffler(GROUP, Permutations(150, 4))
SIGNS = Shuffler(np.ones(10), Permutations(0, flip=True))
PAIRS = Shuffler(np.tile([0.0, 1], 5), Permutations(0, blocks=np.repeat(np.arange(1, 6), 2)))


def listed(shuffler, order=None):
    """The shuffles of a run as a file has them."""
    table = to_one(shuffler.shuffles(0, shuffler.n))
    return table if order is None else table[np.concatenate([[0], 1 + order])]


ORDERED = {
    "all that are possible": (listed(WHOLE), WHOLE),
    "all that are possible, mixed": (listed(WHOLE, np.random.default_rng(0).permutation(251)), WHOLE),
    "all, of blocks that are not known": (
        listed(Shuffler(np.arange(10), Permutations(0, blocks=PAIRS.options.blocks))),
        WHOLE,
    ),
    "all flips": (listed(SIGNS), None),
    "flips, each followed by its opposite": (
        np.repeat(listed(Shuffler(np.arange(10.0), Permutations(100, 1, flip=True))), 2, axis=0)
        * np.tile([[1], [-1]], (100, 1)),
        None,
    ),
    "a part, sorted": (np.unique(listed(Shuffler(np.arange(10.0), Permutations(800, 1))), axis=0), None),
}


@pytest.mark.parametrize("name", ORDERED)
def test_an_ordered_list_is_counted_to_its_end(name):
    """A voxel that is done early in an order that begins near the unshuffled data has p far too large."""
    table, possible = ORDERED[name]
    shuffler = ImportedShuffler(table, 10, possible)
    assert not shuffler.in_random_order
    test = skewed_test(shuffler)
    nulls = nulls_of(test)["vox"]
    _, p, done = run_negative_binomial(test, 2, threads=1)
    assert done == len(table)
    np.testing.assert_allclose(p["vox"], naive.at_least(nulls, nulls[0]), atol=1e-12)


def test_the_negative_binomial_counts_where_all_permutations_are_made():
    """Their order is not random: the first ones exchange few subjects, which hardly changes the observed value."""
    test = skewed_test(WHOLE)
    nulls = nulls_of(test)["vox"]
    _, p, done = run_negative_binomial(test, 2, threads=1)
    assert done == 252
    np.testing.assert_allclose(p["vox"], naive.at_least(nulls, nulls[0]), atol=1e-12)
    early = naive.negative_binomial(nulls, nulls[0], 2)
    assert np.abs(early - p["vox"]).max() > 0.3


def test_a_random_list_ends_early():
    for seed in range(5):
        for labels, options in (
            (GROUP, Permutations(150, seed)),
            (np.arange(10), Permutations(400, seed)),
            (np.ones(10), Permutations(500, seed, flip=True)),
            (np.arange(10), Permutations(300, seed, permute_and_flip=True)),
            (np.arange(10), Permutations(100, seed, blocks=np.repeat([1, 2], 5))),
            (GROUP, Permutations(200, seed, repeats=True)),
        ):
            drawn = Shuffler(labels, options)
            given = ImportedShuffler(listed(drawn), 10, Shuffler(labels, replace(options, number=0)))
            assert given.in_random_order
            assert ImportedShuffler(listed(drawn)).in_random_order
    test = skewed_test(ImportedShuffler(listed(DRAWN), 10, WHOLE))
    nulls = nulls_of(test)["vox"]
    _, p, _ = run_negative_binomial(test, 2, threads=1)
    np.testing.assert_allclose(p["vox"], naive.negative_binomial(nulls, nulls[0], 2))


def test_beyond_the_end_of_a_gamma_law_p_are_counted():
    """A small group, and a subject far off in the other one: null distributions are skewed to the left."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(18, 40)).astype(np.float32)
    data[17] += 8
    data[:3] -= rng.uniform(0, 3, 40).astype(np.float32)
    group = np.repeat([0.0, 1.0], [3, 15])
    shuffler = Shuffler(group, Permutations(500, 1))
    model = ZScale(Glm(data, partition(np.c_[group, np.ones(18)], [1, 0]), shuffler.invariant))
    test = PermutationTest(model, Grid(np.ones((40, 1, 1), bool)), shuffler, Statistics(uncorrected=True))
    nulls = nulls_of(test)["vox"]
    law, counted = naive.gamma_tail(nulls, nulls[0]), naive.at_least(nulls, nulls[0])
    done = run_approximated(test, Tail("gamma"), threads=1)
    p, fitted = done.uncorrected["vox"]
    assert 5 < (~fitted).sum() < 35
    assert p.min() > 0
    np.testing.assert_allclose(p[~fitted], counted[~fitted], atol=1e-12)
    np.testing.assert_allclose(p[fitted], law[fitted], rtol=1e-3, atol=1e-9)
    maxima = done.finished.tally.maxima["vox"][0]
    counted = naive.at_least(maxima[:, None], nulls[0])
    p, fitted = Tail("gamma").of_null(maxima, nulls[0], counted)
    assert (~fitted).any()
    np.testing.assert_array_equal(p[~fitted], counted[~fitted])
    assert p.min() > 0


def test_first_exceedances_come_in_any_order():
    observed = small_test(number=50).observe()
    values = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    parts = [range(start, min(start + 7, 50)) for start in range(0, 50, 7)]
    found = []
    for order in (parts, parts[::-1], parts[1::2] + parts[::2], [range(50)]):
        reached = FirstReached(observed, 3)
        for part in order:
            reached.add(part, gathered(reached, observed, part, values))
        found.append(reached.first["vox"])
    for each in found[1:]:
        np.testing.assert_array_equal(found[0], each)
    reaches = values[1:] >= reached._least["vox"]
    for v in range(40):
        numbers = [*(1 + np.flatnonzero(reaches[:, v])), 50, 50, 50][:3]
        np.testing.assert_array_equal(found[0][:, v], numbers)


def test_sums_do_not_count_a_permutation_twice():
    observed = small_test(number=50).observe()
    values = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    sums = PowerSums(observed)
    for part in (range(10, 50), range(0, 10)):
        sums.add(part, gathered(sums, observed, part, values))
    np.testing.assert_array_equal(sums.seen, True)
    with pytest.raises(ValueError, match="permutations 9 to 11 have been added already"):
        sums.add(range(9, 12), {})


def gathered(gatherer, observed, numbers, values):
    """What is gathered of the voxelwise values (N, V) of some permutations."""
    part, outcomes = values[numbers.start : numbers.stop], Outcomes(None)
    shown = observed.how_shown("vox", part)
    return {"vox": gatherer.of_batch("vox", shown, numbers, part, outcomes).value}


# -- from the commands ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(9)
    design = np.c_[np.arange(14) % 2, 1 - np.arange(14) % 2]
    data = rng.normal(size=(4, 4, 3, 14)).astype(np.float32)
    data[:2, :2, 0, 1::2] += 2
    return data, design


def test_randomise_writes_approximations_and_says_so(study):
    data, design = study
    inside = np.ones(data.shape[:3], bool)
    settings = {"design": design, "contrasts": [[1, -1], [-1, 1]], "tfce": True, "uncorrected": True, "seed": 3}
    settings |= {"n_permutations": 300, "mask": inside, "threads": 1, "cluster_extent": 1.5}
    counted = gpuvox.randomise(data, **settings)
    for method in ("pareto", "gamma"):
        with pytest.warns(UserWarning, match="approximations"):
            result = gpuvox.randomise(data, tail=method, **settings)
        for test, other in zip(result.tests, counted.tests, strict=True):
            assert "approximations" in " ".join(test.warnings)
            assert test.records["approximation"] == Tail(method).title
            np.testing.assert_array_equal(test.maps["clustere_corrp"], other.maps["clustere_corrp"])
            for name in ("vox", "tfce"):
                np.testing.assert_array_equal(test.nulls[name], other.nulls[name])
                counts = 1 - other.maps[f"{name}_corrp"].astype(float)
                values = other.maps["stat" if name == "vox" else name]
                expected = Tail(method).of_null(other.nulls[name], values, counts).p
                np.testing.assert_allclose(1 - test.maps[f"{name}_corrp"], expected, atol=1e-6)
        first, other = result.tests[0], counted.tests[0]
        assert first.maps["vox_p"].max() > 1 - 1 / 400
        assert np.abs(first.maps["vox_p"] - other.maps["vox_p"]).max() < 0.1


def test_the_command_says_that_p_are_approximations(study, tmp_path, monkeypatch, capsys):
    data, design = study
    monkeypatch.chdir(tmp_path)
    cases.nib.save(cases.nib.Nifti1Image(data, np.eye(4)), "data.nii.gz")
    files.write_vest("design.mat", design)
    files.write_vest("design.con", [[1, -1]])
    command = [
        "randomise",
        "-i",
        "data.nii.gz",
        "-o",
        "out",
        "-d",
        "design.mat",
        "-t",
        "design.con",
        "-x",
        "-n",
        "200",
    ]
    assert main([*command, "--uncorrp", "--tail", "gamma", "--seed", "1"]) == 0
    assert "p-values of voxels and of TFCE are approximations" in capsys.readouterr().err
    record = files.read_json("out_randomise.json")
    assert record["tests"][0]["approximation"] == Tail("gamma").title
    about = record["maps"]["out_vox_p_tstat1.nii.gz"]
    assert about["approximation"] == Tail("gamma").title
    assert "smallest_possible_p" not in about
    assert about["smallest_p"] < 1 / 200
    for option in (["--permout"], ["--shard", "1/2", "--seed", "1"]):
        assert main([*command, "--tail", "gamma", *option]) == 2
        assert f"cannot be used with {option[0]}" in capsys.readouterr().err


def test_approximations_are_not_taken_for_shares(study, tmp_path, monkeypatch):
    """Without the record of the run, of which null distributions tell the number of permutations, and from Python."""
    data, design = study
    monkeypatch.chdir(tmp_path)
    inside = np.ones(data.shape[:3], bool)
    settings = {"mask": inside, "n_permutations": 40, "seed": 1, "threads": 1, "tail": "gamma"}
    data = data + np.where(np.arange(14) % 2, 6, 0) * (np.indices(inside.shape).sum(axis=0) < 2)[..., None]
    with pytest.warns(UserWarning, match="approximations"):
        result = gpuvox.randomise(data.astype(np.float32), design, [[1, -1], [-1, 1]], **settings)
    smallest = 1 - float(result.tests[0].maps["vox_corrp"].max())
    assert 0 < smallest < 0.75 / 40
    result.save("out", OutputOptions(nulls=True))
    assert "t approximate 1-p" in str(cases.nib.load("out_vox_corrp_tstat1.nii.gz").header["descrip"])
    first = result.clusters("tstat1")
    (tmp_path / "out_randomise.json").unlink()
    run_again = read_run("out")
    test = run_again.tests[0]
    assert test.permutations == 40
    maps = read_tested(test, read_grid(run_again))
    assert (maps.permutations, maps.p.min()) == (0, round(smallest, 6))
    for table in (first, maps.clusters()[1]):
        assert table["p"].min() == pytest.approx(smallest, rel=5e-3)


def test_approximations_over_several_tests(study):
    data, design = study
    rows = data.reshape(-1, 14, order="F").T.copy()
    contrasts = np.array([[1.0, -1], [-1, 1]])
    inputs = Inputs(rows, Grid(np.ones(data.shape[:3], bool)), design, contrasts, np.zeros((0, 2)))
    options = Options(Statistics(), n_permutations=200, joint_steps=True, tail=Tail("pareto"), threads=1)
    results = list(analyse(prepare(inputs, options)))
    null = JointNull(results)
    for result in results:
        counted = 1 - corrected(null.maxima["vox"], result.least_ties["vox"])
        expected = pareto(null.maxima["vox"], result.least_ties["vox"], counted).p
        np.testing.assert_allclose(1 - null.corrected(result)["vox"], expected, atol=1e-6)


@pytest.mark.parametrize("folder", ["run", pytest.param("saved", marks=pytest.mark.long)])
def test_small_approximate_p_keep_their_digits(folder, tmp_path, monkeypatch):
    """−log10 p and false discovery rates are those of p itself, not of 1 − p in float32: in memory and in files."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    group, names = np.arange(40) % 2, [f"sub-{i:02d}" for i in range(40)]
    data = rng.normal(size=(5, 1, 1, 40)) + np.array([0, 0, 2, 2.5, 3]).reshape(5, 1, 1, 1) * group
    cases.nib.save(cases.nib.Nifti1Image(data.astype(np.float32), np.eye(4)), "all.nii.gz")
    cases.nib.save(cases.nib.Nifti1Image(np.ones((5, 1, 1), np.uint8), np.eye(4)), "mask.nii.gz")
    rows = "".join(f"{name}\t{'BA'[g]}\n" for name, g in zip(names, group, strict=True))
    for name in ("all.tsv", "table.tsv"):
        (tmp_path / name).write_text("participant_id\tgroup\n" + rows)
    settings = {"voxel": True, "tfce": False, "tail": "gamma", "fdr": True, "across_tests": True}
    with pytest.warns(UserWarning, match="approximations"):
        found = gpuvox.voxelwise(
            "all.nii.gz", "table.tsv", "group", ["A - B", "B - A"], mask="mask.nii.gz", n_permutations=200, seed=1,
            threads=1, **settings,
        )  # fmt: skip
    result = found.runs[0][1].tests[0]
    expected = naive.gamma_tail(result.nulls["vox"][:, None], result.maps["stat"])
    assert expected.min() < 1e-3
    np.testing.assert_allclose(found.maps["A - B", "voxFWE"], -np.log10(expected), rtol=1e-6)
    rates = false_discovery_rate(result.approximated["vox_p"])
    np.testing.assert_allclose(found.maps["A - B", "voxFDR"], -np.log10(rates), rtol=1e-6)
    if folder == "saved":
        found.save(folder)
    else:
        words = (
            "--model group -n 200 --seed 1 -x --tail gamma --fdr --across-tests --uncorrp --no-report --threads 1"
        )
        paths = ["--images", "all.nii.gz", "--mask", "mask.nii.gz", "--out", folder]
        assert main(["voxelwise", "table.tsv", *paths, "--test", "A - B", "--test", "B - A", *words.split()]) == 0
    for kind in ("voxFWE", "voxFDR", "voxFWEacross", "voxUnc"):
        [path] = (tmp_path / folder).glob(f"contrast-AMinusB_stat-logp_desc-{kind}_statmap.nii.gz")
        np.testing.assert_array_equal(cases.nib.load(path).get_fdata()[:, 0, 0], found.maps["A - B", kind])


def test_p_of_more_permutations_than_float32_counts_are_above_0():
    few = corrected(np.zeros(4), np.ones(2))
    assert few.tolist() == [1, 1]
    assert shares(np.array([10**8 - 1, 10**8]), 10**8).tolist() == [1 - 2.0**-24, 1]


# -- PALM's files ---------------------------------------------------------------------------------------------------

APPROXIMATED = ["accel_tail", "accel_tail_twotail", "accel_gamma", "accel_gamma_tfce"]


def test_of_palm(case: cases.Case) -> tuple[PermutationTest, cases.Contrast]:
    """The z scale, with PALM's TFCE, and PALM's own permutations."""
    (Y, mask), test = case.modalities[0], case.tests[0]
    path = files.find_permidx(str(case.folder / "palm"), test.number)
    shuffler = ImportedShuffler(files.read_permutations(path), len(Y))
    model = ZScale(Glm(Y.astype(np.float32), partition(case.designs[0], test.weights), shuffler.invariant))
    if "-twotail" in case.command:
        model = Magnitude(model)
    statistics = Statistics(tfce=Tfce(rule="palm") if "-T" in case.command else None, uncorrected=True)
    return PermutationTest(model, Grid(mask), shuffler, statistics), test


test_of_palm.__test__ = False


def close_to(ours: np.ndarray, case: cases.Case, name: str) -> None:
    theirs = np.asanyarray(cases.nib.load(case.folder / f"{name}.nii.gz").dataobj).squeeze()[case.modalities[0][1]]
    assert np.mean(np.abs(ours - theirs) <= 2e-3) >= 0.99, name


@pytest.mark.parametrize("name", APPROXIMATED)
def test_palms_approximations(name):
    case = cases.Case(name)
    test, _ = test_of_palm(case)
    tail = Tail("gamma" if "gamma" in name else "pareto")
    done = run_approximated(test, tail, threads=1)
    for unit, (p, _) in done.uncorrected.items():
        close_to(p, case, f"palm_{unit}_tstat_uncp")
        statistic = done.finished.observed.statistics[unit]
        values = done.finished.observed.observed[unit][0]
        null = done.finished.tally.maxima[unit][0]
        counted = 1 - corrected(null, statistic.least_tie(values))
        fwe = tail.of_null(statistic.in_units(null, 0), statistic.in_units(values, 0), counted)
        close_to(fwe.p, case, f"palm_{unit}_tstat_fwep")
        if "-fdr" in case.command:
            close_to(false_discovery_rate(p), case, f"palm_{unit}_tstat_fdrp")


def test_palms_negative_binomial():
    case = cases.Case("accel_negbin")
    test, _ = test_of_palm(case)
    _, p, _ = run_negative_binomial(test, 5, threads=1)
    close_to(p["vox"], case, "palm_vox_tstat_uncp")
    close_to(false_discovery_rate(p["vox"]), case, "palm_vox_tstat_fdrp")


@pytest.mark.parametrize("name", ["accel_noperm", "accel_noperm_twotail"])
def test_palms_moments(name):
    case = cases.Case(name)
    Y = case.modalities[0][0].astype(np.float32)
    for test in case.tests:
        design = partition(case.designs[0], test.weights, is_f=not test.is_t)
        statistic, p = without_permutations(Y, design, "-twotail" in case.command)
        kind = case.statistic_name(test)
        close_to(p, case, f"palm_vox_{kind}_uncp{case.suffix(test)}")
        close_to(statistic, case, f"palm_vox_{kind}{case.suffix(test)}")


def test_palms_false_discovery_rates():
    for name, rate in (
        ("fdr_bky_save1p", adaptive_false_discovery_rate),
        ("twotail_fdr_bh_logp", false_discovery_rate),
    ):
        case = cases.Case(name)
        mask = case.modalities[0][1]
        for path in sorted(case.folder.glob("palm_vox_tstat_uncp*.nii.gz")):
            p, q = (
                np.asanyarray(cases.nib.load(case.folder / path.name.replace("uncp", kind)).dataobj).squeeze()[
                    mask
                ]
                for kind in ("uncp", "fdrp")
            )
            scale = (lambda p: 1 - p) if "save1p" in name else (lambda p: 10.0**-p)
            np.testing.assert_allclose(rate(scale(p)), scale(q), rtol=1e-6, atol=1e-9)
