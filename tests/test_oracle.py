"""The oracle against FSL: with FSL's own permutations it reproduces every file that randomise v2.9 wrote.

Statistics agree within 1e-4 of the map's maximum, TFCE and null maxima within 1e-3, corrected and uncorrected
values exactly, except where an observed and a null value tie within rounding.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import oracle
import pytest
from naive import naive_components, naive_extent, naive_tfce

DATA = Path(__file__).parent / "data" / "fsl"
CASES = (
    "covariate_exhaustive", "demean_rank_deficient", "f_only", "f_test", "film_names", "group_exhaustive", "how_many",
    "kennedy", "no_mask", "no_unconfounding", "one_sample_exhaustive", "one_sample_random", "paired_exchangeability",
    "skip_to", "ter_braak", "tfce_2d_tbss", "tfce_c26_h1_e1", "tfce_delta", "two_group_ancova", "twopass",
    "variance_smoothing", "voxelwise_covariate", "whole_block",
)  # fmt: skip
# TFCE is slow: unless every permutation is needed, the first ones stand for all.
FIRST = 40
# Here the last step of TFCE falls on the maximum itself: the sum of a hundred steps in float32 ends above or
# below it by the last bit of delta, and FSL's smoothing, not all in float64, ends one bit below ours.
LAST_BIT = {("variance_smoothing", "tstat2")}


@functools.cache
def load(name):
    return oracle.load_case(DATA / name)


@functools.cache
def computed(name, statistic):
    """(maps, {kind: maps}, {kind: first-pass images}) with FSL's permutations; TFCE perhaps of some only."""
    case = load(name)
    maps = oracle.case_maps(case, statistic, case.shuffles(statistic))
    kinds, first = oracle.case_voxels_and_clusters(case, statistic, maps), {}
    if case.options.T or case.options.T2:
        every = len(maps) <= 256 and (case.options.uncorrp or case.options.twopass)
        delta = None
        if (name, statistic) in LAST_BIT:
            delta = np.nextafter(np.float32(maps[0].max() / 100), np.float32(0))
        kinds["tfce"] = oracle.case_tfce(case, statistic, maps if every else maps[:FIRST], delta)
    if case.options.twopass:
        second, first = oracle.case_second_pass(case, maps, kinds)
        kinds |= second
    return maps, kinds, first


def null_maxima(name, kind, statistic):
    """(ours, FSL's) of a kind, or None where FSL did not keep it; FSL's own where ours were not computed."""
    case, (_, kinds, _) = load(name), computed(name, statistic)
    if case.options.film and kind != "tfce":
        return None
    theirs = film_null(case, statistic) if case.options.film else case.null(kind, statistic)
    ours = kinds[kind].max(axis=1)
    return np.append(ours, theirs[len(ours) :]), theirs


def film_null(case, statistic):
    """With --film the kinds share one name, and TFCE, written last, is what is left."""
    return oracle.read_text(case.folder / f"fslp{statistic[1:]}.txt").ravel()


def film_p(case, statistic):
    return oracle.flat(oracle.read_image(case.folder / f"fslp{statistic[1:]}.nii.gz"), case.mask)


RUNS = [(name, statistic) for name in CASES for statistic in load(name).statistics if name != "how_many"]


def assert_close(ours, theirs, tolerance):
    scale = np.abs(theirs).max()
    assert scale > 0
    assert np.abs(ours - theirs).max() <= tolerance * scale


def assert_equal_but_for_ties(ours, theirs, tied):
    differs = np.abs(ours - theirs) > 1e-6
    assert not (differs & ~tied).any()
    assert differs.mean() <= 0.01


def near(null, observed):
    """Whether some null value is within rounding of each observed one."""
    null = np.sort(null)
    place = np.searchsorted(null, observed)
    gaps = [np.abs(null[np.clip(place + shift, 0, len(null) - 1)] - observed) for shift in (-1, 0)]
    return np.min(gaps, axis=0) <= 1e-5 * np.maximum(np.abs(observed), 1e-12)


def is_noise(name):
    """Ter Braak's unpermuted residuals hold no effect: FSL's map is rounding noise."""
    return name == "ter_braak"


def test_there_are_twenty_three_cases():
    assert len(CASES) == 23


@pytest.mark.parametrize(("name", "statistic"), RUNS)
class TestCase:
    def test_statistic(self, name, statistic):
        maps, _, _ = computed(name, statistic)
        theirs = load(name).image("", statistic)
        if is_noise(name):
            assert np.abs(maps[0]).max() < 1e-10
            assert np.abs(theirs).max() < 1e-10
        else:
            assert_close(maps[0], theirs, 1e-4)

    def test_null_maxima(self, name, statistic):
        _, kinds, _ = computed(name, statistic)
        for kind in kinds:
            both = null_maxima(name, kind, statistic)
            if both is None:
                continue
            ours, theirs = both
            if is_noise(name):
                assert np.abs([ours[0], theirs[0]]).max() < 1e-10
                ours, theirs = ours[1:], theirs[1:]
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)

    def test_corrected(self, name, statistic):
        _, kinds, _ = computed(name, statistic)
        case = load(name)
        for kind, maps in kinds.items():
            both = null_maxima(name, kind, statistic)
            if both is None:
                continue
            theirs = film_p(case, statistic) if case.options.film else case.image(f"{kind}_corrp", statistic)
            ours = oracle.corrected(maps[0], both[0])
            assert_equal_but_for_ties(ours, theirs, near(both[0], maps[0]))

    def test_uncorrected(self, name, statistic):
        if not load(name).options.uncorrp:
            return
        _, kinds, _ = computed(name, statistic)
        for kind, maps in kinds.items():
            theirs = load(name).image(f"{kind}_p", statistic)
            if kind.startswith("cluster"):
                assert not theirs.any()  # a defect of FSL
            elif len(maps) == len(load(name).shuffles(statistic)):
                gap = np.abs(maps[1:] - maps[0]).min(axis=0)
                tied = gap <= 1e-5 * np.abs(maps[0])
                assert_equal_but_for_ties(oracle.uncorrected(maps), theirs, tied)

    def test_raw_maps(self, name, statistic):
        if not load(name).options.R:
            return
        _, kinds, _ = computed(name, statistic)
        for kind in kinds.keys() - {"vox"}:
            assert_close(kinds[kind][0], load(name).image(kind, statistic), 1e-3)

    def test_printed_critical_values(self, name, statistic):
        for line in (DATA / name / "stdout.txt").read_text().splitlines():
            found = re.fullmatch(rf"Critical Value for: fsl_(\w+)_{statistic} is: (\S+)", line)
            if found:
                ours = oracle.critical_value(null_maxima(name, found[1], statistic)[0])
                assert ours == pytest.approx(float(found[2]), rel=1e-3)


def test_every_file_of_fsl_is_looked_at():
    """No output of any case is left without a test; the names are all accounted for."""
    known = re.compile(
        r"fsl_(perm|\w+_corrp|vox_p|tfce_p|cluster[em]_p|tfce|cluster[em])?_?[tf]stat\d+"
        r"|fsl__(cluster|tfce)norm_tstat\d+(sum|samp|post)"
        r"|fsl_glm_(pe|cope|varcope|sigmasqr)"
        r"|fsl(pe|cope|varcope|tstat|pstat|zstat|perm_tstat)\d+"
    )
    for path in (path for case in CASES for path in (DATA / case).glob("fsl*")):
        assert known.fullmatch(path.name.split(".")[0]), path.name


@pytest.mark.parametrize("statistic", ["tstat1", "tstat2"])
@pytest.mark.parametrize("kind", ["cluster", "tfce"])
def test_first_of_two_passes(statistic, kind):
    case = load("twopass")
    _, _, first = computed("twopass", statistic)
    for ours, name in zip(first[kind], ("sum", "samp", "post")):
        theirs = oracle.read_image(case.folder / f"fsl__{kind}norm_{statistic}{name}.nii.gz")
        assert not theirs[~case.mask].any()
        assert_close(ours, oracle.flat(theirs, case.mask), 1e-6)


def test_glm_output():
    case = load("two_group_ancova")
    for name, ours in oracle.glm(case.data, case.design, case.contrasts).items():
        theirs = oracle.flat(oracle.read_image(case.folder / f"fsl_glm_{name}.nii.gz"), case.mask)
        assert theirs.shape == ours.shape
        assert_close(ours, theirs, 1e-6)


def test_film_files():
    case = load("film_names")
    images = oracle.glm(case.data, case.design, case.contrasts)
    for name in ("pe", "cope", "varcope"):
        for k, ours in enumerate(images[name]):
            theirs = oracle.read_image(case.folder / f"fsl{name}{k + 1}.nii.gz")
            assert_close(ours, oracle.flat(theirs, case.mask), 1e-6)
    for k in (1, 2):
        maps, _, _ = computed("film_names", f"tstat{k}")
        theirs = oracle.flat(oracle.read_image(case.folder / f"fslzstat{k}.nii.gz"), case.mask)
        np.testing.assert_allclose(oracle.film_z(oracle.uncorrected(maps)), theirs, atol=1e-5)


def test_outside_the_mask_all_is_zero():
    for path in (path for case in CASES for path in (DATA / case).glob("fsl*.nii.gz")):
        image = nib.load(path)
        assert image.get_data_dtype() == np.float32
        values = np.asarray(image.dataobj)
        assert not values[~load(path.parent.name).mask].any(), path


def test_automatic_mask():
    case = load("no_mask")
    assert case.options.m is None
    assert case.mask.sum() == 888
    written = oracle.read_image(case.folder / "fsl_tstat1.nii.gz")
    assert ((written != 0) == case.mask).all()


@pytest.mark.parametrize("name", CASES)
def test_number_of_labellings(name):
    case = load(name)
    printed = re.findall(
        r"(\S+) (permutations|sign-flips) required for exhaustive test of ([tf])-test (\d+)",
        (DATA / name / "stdout.txt").read_text(),
    )
    assert printed
    for count, what, letter, k in printed:
        ours, flips = oracle.number_of_labellings(
            case.design,
            case.contrast(f"{letter}stat{k}"),
            case.groups,
            whole=case.options.permuteBlocks,
            force_flips=vars(case.options)["1"],
            is_f=letter == "f",
        )
        assert flips == (what == "sign-flips")
        assert f"{ours:g}" == count


# --- the oracle against other truths than FSL ---------------------------------------------------------------


@pytest.fixture
def rng():
    return np.random.default_rng(20140501)


def test_components_and_tfce_are_the_naive_ones(rng):
    for connectivity in (6, 18, 26):
        mask = rng.random((7, 6, 5)) < 0.8
        statistic = rng.normal(0.3, 1, mask.sum())
        image = oracle.unflat(statistic, mask)
        inside = mask & (image > 0.4)
        labels, sizes = oracle.components(inside, connectivity)
        assert (sizes[labels] == naive_extent(inside, connectivity)).all()
        assert naive_components(inside, connectivity)[1] == len(sizes) - 1
        delta = statistic.max() / 20
        for H, E in ((2, 0.5), (1, 1)):
            ours = oracle.tfce(statistic, mask, delta, H, E, connectivity)
            theirs = naive_tfce(image, delta, H, E, connectivity)
            np.testing.assert_allclose(ours, oracle.flat(theirs, mask), rtol=1e-12)


def test_refitting_shuffled_data_is_regressing_on_the_shuffled_design(rng):
    """Winkler et al. 2014: the two ways to write Freedman & Lane give one t."""
    n = 12
    M, Y, C = rng.normal(size=(n, 4)), rng.normal(size=(n, 5)), np.array([[1.0, -1, 0, 0]])
    X, Z = oracle.partition(M, C)
    residuals = Y - Z @ Z.T @ Y
    for flips in (False, True):
        shuffle = rng.choice([-1, 1], n) if flips else rng.permutation(n) + 1
        shuffled = shuffle[:, None] * np.hstack([X, Z]) if flips else np.hstack([X, Z])[shuffle - 1]
        t = oracle.t_map(residuals, oracle.LeastSquares(shuffled), n - 4)
        np.testing.assert_allclose(oracle.statistic_maps(Y, M, C, [shuffle])[0], t, rtol=1e-9)


def test_data_shuffled_back_are_the_transpose(rng):
    shuffle = rng.permutation(6) + 1
    P = np.eye(6)[shuffle - 1]
    Y = rng.normal(size=(6, 3))
    assert (oracle.back(shuffle, Y, flips=False) == P.T @ Y).all()


def test_f_is_the_wald_statistic_and_t_squared(rng):
    n = 15
    M, Y = rng.normal(size=(n, 4)), rng.normal(size=(n, 6))
    C = np.array([[1.0, -1, 0, 0], [0, 1, -1, 0]])
    identity = [np.arange(n) + 1]
    whole = oracle.LeastSquares(M)
    B, sse = whole.fit(Y)
    precision = np.linalg.inv(C @ whole.covariance @ C.T)
    wald = np.einsum("iv,ij,jv->v", C @ B, precision, C @ B) / 2 / (sse / (n - 4))
    np.testing.assert_allclose(oracle.statistic_maps(Y, M, C, identity)[0], wald, rtol=1e-9)
    one = oracle.statistic_maps(Y, M, C[:1], identity)[0]
    one_row = oracle.statistic_maps(Y, M, C[:1], identity, is_f=True)[0]
    np.testing.assert_allclose(one_row, one**2, rtol=1e-9)
    # A dependent row changes nothing: F is divided by the rank.
    dependent = np.vstack([C, C.sum(axis=0)])
    np.testing.assert_allclose(oracle.statistic_maps(Y, M, dependent, identity)[0], wald, rtol=1e-9)


def test_f_to_z():
    """One numerator degree of freedom: F = t^2, two-sided p of t, one-sided z; 0 and below give 0."""
    z = oracle.F_to_z(np.array([4.0, 0.0, -1.0]), 1, 10**7)
    np.testing.assert_allclose(z[1:], 0)
    assert z[0] == pytest.approx(1.690, abs=1e-3)


def test_rank_deficient_design_gives_the_full_rank_answer(rng):
    """Group columns that sum to the intercept: the same t as without the intercept."""
    n = 14
    groups = np.repeat(np.eye(2), 7, axis=0)
    redundant = np.column_stack([groups, np.ones(n)])
    Y = rng.normal(size=(n, 4))
    shuffles = [rng.permutation(n) + 1 for _ in range(5)]
    ours = oracle.statistic_maps(Y, redundant, [1, -1, 0], shuffles)
    np.testing.assert_allclose(ours, oracle.statistic_maps(Y, groups, [1, -1], shuffles), rtol=1e-8)


def test_ties_are_not_below():
    assert oracle.corrected([1.0, 2.0, 3.0], [2.0, 2.0, 1.0, 4.0]).tolist() == [0, 0.25, 0.75]
    assert oracle.uncorrected(np.array([[1.0, 2], [1, 1], [0, 5]])).tolist() == pytest.approx([1 / 3, 1 / 3])


def test_critical_value_is_an_order_statistic():
    assert oracle.critical_value(np.arange(1, 101)) == 95
    assert oracle.critical_value(np.arange(1, 51)) == 48


def test_rules_of_counting_labellings():
    groups = np.repeat(np.eye(2), 3, axis=0)
    assert oracle.number_of_labellings(np.ones((6, 1)), [1.0]) == (64, True)
    assert oracle.number_of_labellings(np.ones((6, 1)), [1.0], is_f=True) == (1, False)
    # Constant rows, but two weights, or two blocks: no flips, and nothing to permute.
    assert oracle.number_of_labellings(groups, [1.0, 1]) == (1, False)
    assert oracle.number_of_labellings(np.ones((6, 1)), [1.0], groups=[1, 1, 1, 2, 2, 2]) == (1, False)
    assert oracle.number_of_labellings(groups, [1.0, -1]) == (20, False)
    # Rows of block 0 stay where they are.
    assert oracle.number_of_labellings(groups, [1.0, -1], groups=[0, 1, 1, 1, 1, 0]) == (6, False)
    in_pairs = {"groups": [1, 1, 2, 2, 3, 3], "whole": True}
    assert oracle.number_of_labellings(np.repeat([[0.0], [0], [1]], 2, axis=0), [1.0], **in_pairs) == (3, False)
