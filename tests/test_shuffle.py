"""Exchangeability: what is distinct, how many, in which order, and whether random shuffles are random.

| part | establishes |
|---|---|
| FSL | counts of every reference case; exhaustive runs list FSL's labellings in FSL's order; FSL's random shuffles are distinct under our notion of a labelling |
| enumeration | equality with brute force over itertools.permutations |
| invariants | blocks stay whole, rows stay in their block, block 0 stays, no labelling twice, shuffle 0 is the identity, pure in (seed, i) |
| randomness | Philox against its published vectors; chi-square of the bijection, of draws, of the order of equal rows |
"""  # noqa: E501

from __future__ import annotations

import itertools
import math
import pickle
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from gpuvox.errors import InputError
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.shuffle import (
    Permutations,
    Shuffler,
    _bijection,
    _philox,
    check_blocks,
    effective_labels,
)
from gpuvox.signed_rows import rows_of, signs_of

FSL = Path(__file__).parent / "data" / "fsl"
GROUPS = [0, 0, 0, 0, 1, 1, 1, 1]


def vest(path):
    return np.loadtxt(path.read_text().split("/Matrix")[1].splitlines(), ndmin=2)


def all_of(shuffler):
    return shuffler.shuffles(0, shuffler.n)


def labellings(permutations, labels):
    return [tuple(row) for row in np.asarray(labels)[permutations].tolist()]


# ---- FSL -----------------------------------------------------------------------------------------


def fsl_options(case):
    return (FSL / case / "command.txt").read_text().split()


def fsl_test(case, name):
    """Effective regressor, blocks and sign flipping of one test (tstat1, fstat2 …) of a reference case."""
    folder, options = FSL / case, fsl_options(case)
    blocks = vest(folder / "design.grp")[:, 0] if (folder / "design.grp").exists() else None
    if not (folder / "design.mat").exists():
        n = len(blocks) if blocks is not None else nib.load(folder / "data.nii.gz").shape[3]
        return np.zeros((n, 1)), blocks, True
    if any(option.startswith("--effective_design") for option in options):
        return vest(folder / "effective.mat"), blocks, False  # rows are alike if they are equal there
    number = int(name[5:]) - 1
    M, C = vest(folder / "design.mat"), vest(folder / "design.con")
    rows = vest(folder / "design.fts")[number] != 0 if name.startswith("f") else [number]
    regressor = (M - M.mean(0)) @ C[rows].T
    if "--detectNull" in options:
        still = np.abs(regressor).sum(axis=1) < 1e-10
        given = blocks[~still & (blocks > 0)]
        blocks = np.where(still | (blocks == 0), 0, np.searchsorted(np.unique(given), blocks) + 1)
    flips = {("voxelwise_covariate", "tstat2"), ("zero_contrast", "tstat1")}
    return regressor, blocks, (case, name) in flips


def fsl_shuffler(case, name, **options):
    regressor, blocks, flip = fsl_test(case, name)
    whole = "--permuteBlocks" in fsl_options(case)
    return Shuffler(regressor, Permutations(blocks=blocks, whole_blocks=whole, flip=flip, **options))


def fsl_counts():
    for out in sorted(FSL.glob("*/stdout.txt")):
        found = re.findall(r"(\S+) (?:permutations|sign-flips) required.*of ([ft])-test (\d+)", out.read_text())
        yield from ((out.parent.name, f"{kind}stat{number}", count) for count, kind, number in found)


def fsl_files():
    for file in sorted(FSL.glob("*/fsl*perm_?stat?.txt")):
        yield file.parent.name, file.stem[-6:], file


def test_there_are_reference_cases():
    assert len(list(fsl_counts())) >= 40
    assert len(list(fsl_files())) >= 39


@pytest.mark.parametrize(("case", "name", "count"), list(fsl_counts()))
def test_count_is_that_of_fsl(case, name, count):
    assert f"{float(fsl_shuffler(case, name).n_distinct):g}" == count


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, f"tstat{k}")
        for case in ("group_exhaustive", "covariate_exhaustive", "paired_exchangeability", "whole_block")
        for k in (1, 2)
    ],
)
def test_exhaustive_order_is_that_of_fsl(case, name):
    """Equal sequences of effective regressors, shuffle by shuffle.

    Which of several equal rows FSL takes depends on its shuffle before, and is left open.
    """
    shuffler = fsl_shuffler(case, name, number=0)
    ours, theirs = all_of(shuffler), np.loadtxt(FSL / case / f"fsl_perm_{name}.txt").astype(int) - 1
    regressor, blocks, _ = fsl_test(case, name)
    np.testing.assert_array_equal(regressor[ours], regressor[theirs])
    keys = effective_labels(regressor)
    if case == "whole_block":
        np.testing.assert_array_equal(np.diff(ours.reshape(-1, 6, 3), axis=2), 1)
    elif blocks is not None or len(set(keys)) == len(keys):  # no two equal rows trade places
        np.testing.assert_array_equal(ours, theirs)


def test_exhaustive_sign_flips_are_those_of_fsl():
    shuffler = fsl_shuffler("one_sample_exhaustive", "tstat1", number=0)
    theirs = np.loadtxt(FSL / "one_sample_exhaustive" / "fsl_perm_tstat1.txt")
    ours = all_of(shuffler)
    assert shuffler.flips
    assert not shuffler.permutes
    np.testing.assert_array_equal(signs_of(ours), theirs)


@pytest.mark.parametrize(("case", "name", "file"), list(fsl_files()))
def test_fsl_never_repeats_what_we_call_a_labelling(case, name, file):
    regressor, _, flip = fsl_test(case, name)
    imported = ImportedShuffler(np.loadtxt(file, ndmin=2), len(regressor))
    assert imported.flips == flip
    shuffles = all_of(imported)
    seen = signs_of(shuffles) if flip else effective_labels(regressor)[shuffles]
    assert len(np.unique(seen, axis=0)) == imported.n == len(shuffles)


# ---- counts and enumeration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "options", "count"),
    [
        ([0] * 100 + [1] * 100, {}, math.factorial(200) // math.factorial(100) ** 2),
        (np.arange(146), {}, math.factorial(146)),
        (np.arange(20), {}, math.factorial(20)),
        ([3] * 6, {}, 1),
        (np.zeros(146), {"flip": True}, 2**146),
        (np.zeros(7), {"flip": True, "blocks": [0, 1, 1, 2, 2, 3, 3]}, 2**6),
        (np.zeros(7), {"flip": True, "blocks": [0, 1, 1, 2, 2, 3, 3], "whole_blocks": True}, 2**3),
        ([1, 2, 1, 2, 1, 2], {"blocks": [1, 1, 2, 2, 3, 3]}, 2**3),
        ([1, 2, 1, 2, 2, 1], {"blocks": [1, 1, 2, 2, 3, 3], "whole_blocks": True}, 3),
        ([1, 1, 1, 2, 3, 4], {"blocks": [1, 1, 1, 0, 2, 2]}, 2),
        ([1, 2, 3], {"blocks": [0, 0, 0]}, 1),
        (np.arange(60) % 2, {"blocks": np.arange(60) // 6 + 1}, 20**10),
    ],
)
def test_counts_are_exact(labels, options, count):
    assert Shuffler(labels, Permutations(**options)).n_distinct == count


def test_run_is_exhaustive_when_it_can_be():
    for number, n, exhaustive in [
        (0, 70, True),
        (70, 70, True),
        (5000, 70, True),
        (69, 69, False),
        (1, 1, False),
    ]:
        shuffler = Shuffler(GROUPS, Permutations(number))
        assert (shuffler.n, shuffler.exhaustive, shuffler.n_distinct) == (n, exhaustive, 70)


def brute_force(labels, blocks):
    """Distinct sequences of labels over all permutations that keep to the blocks, sorted."""
    labels, blocks = np.asarray(labels), np.asarray(blocks)
    seen = set()
    for p in itertools.permutations(range(len(labels))):
        stays = blocks[list(p)] == blocks
        fixed = np.array(p)[blocks == 0] == np.flatnonzero(blocks == 0)
        if stays.all() and fixed.all():
            seen.add(tuple(labels[list(p)].tolist()))
    return seen


@pytest.mark.parametrize(
    ("labels", "blocks"),
    [
        ([0, 0, 1, 1, 2, 2], [1] * 6),
        ([5, 3, 5, 3, 4, 5], [1] * 6),
        ([0.5, -1.0, 2.0, 0.1, 0.2], [1] * 5),
        ([0, 1, 0, 1, 1, 2], [1, 1, 1, 2, 2, 2]),
        ([0, 1, 0, 1, 1, 2], [2, 1, 2, 1, 2, 1]),
        ([0, 1, 0, 1, 1, 2], [0, 1, 1, 0, 1, 1]),
        ([0, 1, 0, 1, 1, 2], [1, 2, 2, 1, 0, 2]),
        ([7, 7, 7, 7], [1] * 4),
    ],
)
def test_exhaustive_run_is_brute_force(labels, blocks):
    got = labellings(all_of(Shuffler(labels, Permutations(0, blocks=blocks))), labels)
    assert got[0] == tuple(labels)
    assert len(set(got)) == len(got)
    assert set(got) == brute_force(labels, blocks)


def test_ordered_labels_come_in_lexicographic_order():
    got = labellings(all_of(Shuffler([0, 0, 1, 1, 2, 2], Permutations(0))), [0, 0, 1, 1, 2, 2])
    assert got == sorted(set(itertools.permutations([0, 0, 1, 1, 2, 2])))


def test_interleaved_labels_are_ordered_label_by_label():
    """Rows 0, 2, 4 bear the first label: read in the order 0 2 4 1 3 5, labellings are lexicographic."""
    labels = np.array([8, 1, 8, 1, 8, 1])
    got = [row[[0, 2, 4, 1, 3, 5]] for row in labels[all_of(Shuffler(labels, Permutations(0)))]]
    assert [tuple(-row) for row in got] == sorted({*itertools.permutations([-8, -8, -8, -1, -1, -1])})


def test_first_block_is_the_fastest_digit():
    labels, blocks = np.array([0, 1, 5, 6, 7]), [1, 1, 2, 2, 2]
    got = labels[all_of(Shuffler(labels, Permutations(0, blocks=blocks)))]
    slow = list(itertools.permutations([5, 6, 7]))
    assert [tuple(row) for row in got] == [(*fast, *rest) for rest in slow for fast in ((0, 1), (1, 0))]


def test_whole_blocks_in_lexicographic_order():
    """Blocks scattered over the file and numbered otherwise than they appear; two of them equal."""
    blocks = np.array([2, 1, 3, 0, 3, 1, 2])
    labels = np.array([4, 0, 4, 9, 5, 1, 5])  # block 1: (0, 1); blocks 2 and 3: (4, 5)
    got = all_of(Shuffler(labels, Permutations(0, blocks=blocks, whole_blocks=True)))
    rows = {b: np.flatnonzero(blocks == b) for b in (1, 2, 3)}
    arranged = [[tuple(labels[p[rows[b]]]) for b in (1, 2, 3)] for p in got]
    one, other = (0, 1), (4, 5)
    assert arranged == [[one, other, other], [other, one, other], [other, other, one]]
    assert (got[:, 3] == 3).all()


def test_whole_blocks_differ_when_their_rows_come_in_another_order():
    assert Shuffler([0, 1, 1, 0], Permutations(0, blocks=[1, 1, 2, 2], whole_blocks=True)).n_distinct == 2


def test_sign_flips_count_in_binary():
    got = signs_of(all_of(Shuffler(np.zeros(4), Permutations(0, flip=True))))
    np.testing.assert_array_equal(got, list(itertools.product([1, -1], repeat=4)))


def test_sign_flips_with_blocks():
    blocks = [2, 0, 1, 2, 1]
    rows = signs_of(all_of(Shuffler(np.zeros(5), Permutations(0, blocks=blocks, flip=True))))
    assert len({tuple(r) for r in rows}) == 16
    assert (rows[:, 1] == 1).all()
    whole = signs_of(all_of(Shuffler(np.zeros(5), Permutations(0, blocks=blocks, whole_blocks=True, flip=True))))
    np.testing.assert_array_equal(
        whole, [[1, 1, 1, 1, 1], [-1, 1, 1, -1, 1], [1, 1, -1, 1, -1], [-1, 1, -1, -1, -1]]
    )


@pytest.mark.parametrize(
    ("labels", "last"),
    [(np.arange(20), np.arange(20)[::-1]), (np.arange(66) // 33, 1 - np.arange(66) // 33)],
)
def test_last_rank_of_a_number_near_2_to_the_63(labels, last):
    shuffler = Shuffler(labels, Permutations(0))
    assert 2**60 < shuffler.n_distinct < 2**63
    got = labels[shuffler.shuffles(shuffler.n - 3, shuffler.n)]
    np.testing.assert_array_equal(got[-1], last)
    assert len({tuple(row) for row in got}) == 3


def test_last_sign_flip_of_2_to_the_63():
    shuffler = Shuffler(np.zeros(63), Permutations(0, flip=True))
    assert shuffler.n == 2**63
    np.testing.assert_array_equal(shuffler.shuffles(shuffler.n - 1, shuffler.n), ~np.arange(63)[None])


# ---- invariants ----------------------------------------------------------------------------------


@st.composite
def problems(draw):
    """Labels and options of any kind."""
    n_blocks, size = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    whole, fixed = draw(st.booleans()), draw(st.integers(0, 3))
    sizes = [size] * n_blocks if whole else draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    blocks = np.repeat(np.arange(1, len(sizes) + 1), sizes).tolist() + [0] * fixed
    blocks = np.array(draw(st.permutations(blocks)))
    none = not whole and draw(st.booleans())
    labels = draw(st.lists(st.integers(0, 3), min_size=len(blocks), max_size=len(blocks)))
    options = Permutations(
        number=draw(st.integers(0, 60)),
        seed=draw(st.integers(0, 2**64 - 1)),
        blocks=None if none else blocks,
        whole_blocks=whole,
        flip=draw(st.booleans()),
    )
    return np.array(labels), options


def few(shuffler):
    """At most the first 60 shuffles of a run."""
    return shuffler.shuffles(0, min(shuffler.n, 60))


def seeded(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True)


@seeded(90)
@given(problems())
def test_permutations_keep_the_blocks(problem):
    labels, options = problem
    assume(not options.flip)
    shuffler = Shuffler(labels, options)
    got, n = few(shuffler), len(labels)
    blocks = np.ones(n, dtype=int) if options.blocks is None else options.blocks
    assert got.dtype == np.int32
    np.testing.assert_array_equal(np.sort(got, axis=1), np.tile(np.arange(n), (len(got), 1)))
    np.testing.assert_array_equal(got[0], np.arange(n))
    np.testing.assert_array_equal(got[:, blocks == 0], np.tile(np.flatnonzero(blocks == 0), (len(got), 1)))
    assert len(set(labellings(got, labels))) == len(got)
    if not options.whole_blocks:
        np.testing.assert_array_equal(blocks[got], np.tile(blocks, (len(got), 1)))
        return
    wholes = {tuple(np.flatnonzero(blocks == b)) for b in range(1, blocks.max() + 1)}
    for p in got:
        assert {tuple(p[list(rows)]) for rows in wholes} == wholes


@seeded(90)
@given(problems())
def test_flips_keep_the_blocks(problem):
    labels, options = problem
    assume(options.flip)
    got = few(Shuffler(labels, options))
    blocks = np.ones(len(labels), dtype=int) if options.blocks is None else options.blocks
    assert (rows_of(got) == np.arange(len(labels))).all()
    got = signs_of(got)
    assert (got[0] == 1).all()
    assert (got[:, blocks == 0] == 1).all()
    assert len({tuple(row) for row in got.tolist()}) == len(got)
    if options.whole_blocks:
        assert all((np.ptp(got[:, blocks == b], axis=1) == 0).all() for b in range(1, blocks.max() + 1))


@seeded(100)
@given(problems(), st.data())
def test_a_shuffle_depends_on_seed_and_index_alone(problem, data):
    shuffler = Shuffler(*problem)
    whole = few(shuffler)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    np.testing.assert_array_equal(Shuffler(*problem).shuffles(start, stop), whole[start:stop])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shuffler)).shuffles(start, stop), whole[start:stop])


@seeded(60)
@given(problems())
def test_nothing_but_the_invariant_vectors_is_invariant(problem):
    labels, options = problem
    labels = np.arange(len(labels))  # otherwise the few distinct labellings may move less than they could
    shuffler = Shuffler(labels, Permutations(400, 1, options.blocks, options.whole_blocks, options.flip))
    basis = shuffler.invariant
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-12)
    shuffles, eye = all_of(shuffler), np.eye(len(labels))
    matrices = signs_of(shuffles)[:, :, None] * eye[rows_of(shuffles)]
    np.testing.assert_allclose(matrices @ basis, np.broadcast_to(basis, (len(shuffles), *basis.shape)), atol=1e-12)
    mean = matrices.sum(0) - len(shuffles) * eye  # P v = v for all P, if and only if v'(ΣP)v = N v'v
    moved = np.linalg.matrix_rank(np.vstack([mean, (matrices - eye).reshape(-1, len(labels))]))
    assert basis.shape[1] == len(labels) - moved


def test_numbering_of_labels_does_not_matter():
    """A contrast and its negative have the same shuffles, so they can share every map."""
    labels = np.random.default_rng(0).integers(0, 3, (14, 2)).astype(float)
    for number in (50, 0):
        blocks = np.arange(14) // 7 + 1 if number == 0 else None
        a, b = (Shuffler(sign * labels, Permutations(number, 5, blocks)) for sign in (1, -1))
        np.testing.assert_array_equal(a.shuffles(0, 50), b.shuffles(0, 50))


@pytest.mark.parametrize("labels", [np.arange(8) // 4, np.arange(7), np.arange(80) // 40, np.arange(40)])
def test_seeds_differ(labels):
    runs = [Shuffler(labels, Permutations(20, seed)).shuffles(0, 20) for seed in (0, 1, 2**32, 2**63)]
    for a, b in itertools.combinations(runs, 2):
        np.testing.assert_array_equal(a[0], b[0])
        assert (a[1:] != b[1:]).any(axis=1).mean() > 0.9


def test_exhaustive_run_is_the_same_for_every_seed():
    runs = [all_of(Shuffler(GROUPS, Permutations(0, seed))) for seed in (0, 9)]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("number", [717, 718, 719])
def test_nearly_exhaustive_run_has_no_repeats(number):
    shuffler = Shuffler(np.arange(6), Permutations(number, 3))
    assert not shuffler.exhaustive
    assert len(set(map(tuple, all_of(shuffler).tolist()))) == number


@pytest.mark.parametrize(
    ("labels", "flip"),
    [
        (np.arange(30) // 15, False),
        (np.arange(21), False),
        (np.arange(200) // 100, False),
        (np.zeros(64), True),
    ],
)
def test_random_run_of_many(labels, flip):
    shuffler = Shuffler(labels, Permutations(3000, 8, flip=flip))
    got = all_of(shuffler)
    assert len(np.unique(got if flip else np.asarray(labels)[got], axis=0)) == 3000


# ---- randomness ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    """Vectors for philox4x32-10 published with Random123."""
    arguments = (key[0] | key[1] << 32, counter[0] | counter[1] << 32, counter[2], counter[3])
    assert " ".join(f"{int(w):08x}" for w in _philox(*map(np.uint64, arguments))) == words


@pytest.mark.parametrize("n", [2, 3, 4, 7, 16, 97, 1000, 12870])
def test_bijection(n):
    indices = np.arange(n, dtype=np.uint64)
    image = _bijection(np.uint64(11), indices, np.uint64(n))
    assert image[0] == 0
    np.testing.assert_array_equal(np.sort(image), indices)


def test_bijection_of_the_largest_size():
    n = 2**63
    indices = np.array([0, 1, 2, 12345, n - 2, n - 1], dtype=np.uint64)
    image = _bijection(np.uint64(5), indices, np.uint64(n)).tolist()
    assert image[0] == 0
    assert len(set(image)) == len(image)
    assert all(0 < x < n for x in image[1:])


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_every_bijection_is_equally_likely(n):
    seeds = 200 * math.factorial(n - 1)
    counts: dict = {}
    indices = np.arange(n, dtype=np.uint64)
    for seed in range(seeds):
        image = tuple(_bijection(np.uint64(seed), indices, np.uint64(n)).tolist())
        counts[image] = counts.get(image, 0) + 1
    assert len(counts) == math.factorial(n - 1)
    assert chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("n", [20, 71, 257])
def test_bijection_sends_an_index_anywhere_and_neighbours_apart(n):
    """Over seeds: image of 1, and distance between the images of neighbours, uniform."""
    pairs = [
        _bijection(np.uint64(seed), np.array([i, i + 1], np.uint64), np.uint64(n)).astype(int)
        for seed in range(50 * n)
        for i in (1,)
    ]
    first, second = np.array(pairs).T
    assert chisquare(np.bincount(first, minlength=n)[1:]).pvalue > 1e-3
    assert chisquare(np.bincount((second - first) % (n - 1), minlength=n - 1)[1:]).pvalue > 1e-3


@pytest.mark.parametrize("labels", [np.arange(21), np.arange(80) // 40])
def test_draws_send_every_row_anywhere(labels):
    n = len(labels)
    got = all_of(Shuffler(labels, Permutations(6000, 2)))[1:]
    for position in (0, 1, n // 2, n - 1):
        assert chisquare(np.bincount(got[:, position], minlength=n)).pvalue > 1e-3
    # Neither the neighbouring place nor the next shuffle follows from this one.
    for distance in (got[:, 1] - got[:, 0], got[:, n - 1] - got[:, 0]):
        assert chisquare(np.bincount(distance % n, minlength=n)[1:]).pvalue > 1e-3
    for place in (0, n - 1):
        assert chisquare(np.bincount((got[1:, place] - got[:-1, 0]) % n, minlength=n)).pvalue > 1e-3


@pytest.mark.parametrize("rows", [12, 70])
def test_signs_are_fair_and_independent(rows):
    number = 4000 if rows > 63 else 2000
    got = signs_of(all_of(Shuffler(np.zeros(rows), Permutations(number, 4, flip=True)))[1:]).astype(float)
    z = got.sum(0) / np.sqrt(len(got))
    assert np.abs(z).max() < 4.5
    between = got.T @ got / np.sqrt(len(got))
    assert np.abs(between[np.triu_indices(rows, 1)]).max() < 4.8
    assert abs((got[1:] * got[:-1]).sum()) / np.sqrt(got.size) < 4


def test_equal_rows_come_in_random_order():
    """Shuffle 1 of many seeds: each of the 5! − 2!·3! permutations of another labelling equally likely."""
    labels = [0, 0, 1, 1, 1]
    counts: dict = {}
    for seed in range(3000):
        p = tuple(Shuffler(labels, Permutations(2, seed)).shuffles(1, 2)[0].tolist())
        counts[p] = counts.get(p, 0) + 1
    assert len(counts) == 108
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_equal_rows_come_in_random_order_in_an_exhaustive_run():
    """A nuisance regressor sorted within groups is not left nearly in place."""
    labels = np.arange(16) // 8
    got = all_of(Shuffler(labels, Permutations(0)))[1:]
    assert len(got) == 12869
    for position in (0, 5, 15):
        assert chisquare(np.bincount(got[:, position], minlength=16)).pvalue > 1e-3


# ---- labels, blocks, import, errors --------------------------------------------------------------


@pytest.mark.parametrize(
    ("regressors", "numbers"),
    [
        ([3.0, 1.0, 3.0, 2.0], [0, 1, 0, 2]),
        ([[1, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 0, 2]),
        ([1.0, 1.0 + 9e-11, 1.0 - 9e-11, 1.0 + 1e-9], [0, 0, 0, 1]),
        ([1e6, 1e6 + 5e-5, 1e6 + 5e-4], [0, 0, 1]),
        ([[1e6, 1e-5], [1e6, 2e-5]], [0, 1]),  # regressors in other units
        ([0.0, 0.0, -0.0], [0, 0, 0]),
        (np.zeros((3, 0)), [0, 0, 0]),
    ],
)
def test_effective_labels(regressors, numbers):
    np.testing.assert_array_equal(effective_labels(regressors), numbers)


def test_labels_ignore_rounding_wherever_it_falls():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, 300)
    values = rng.normal(size=(6, 2))[truth] + rng.uniform(-2e-11, 2e-11, (300, 2))
    _, first = np.unique(truth, return_index=True)
    order = {int(truth[i]): k for k, i in enumerate(sorted(first))}
    np.testing.assert_array_equal(effective_labels(values), [order[int(t)] for t in truth])


def test_scale_tells_rounding_error_from_a_regressor():
    """Three demeaned group columns summed: constant, but for rounding."""
    groups = np.eye(3)[np.arange(7) % 3]
    residue = (groups - groups.mean(0)).sum(1)
    assert 0 < np.ptp(residue) < 1e-15
    assert len(set(effective_labels(residue))) > 1
    assert Shuffler(residue, scale=1.0).n_distinct == 1


@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.zeros((2, 2, 2)), [1.0, np.nan], [np.inf, 1.0]])
def test_bad_regressors(bad):
    with pytest.raises(ValueError, match="effective regressors"):
        effective_labels(bad)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([1, 1, 3, 3], "no row is in exchangeability block 2, though 3 exists"),
        ([2, 2, 3, 3], "block 1, though 3"),
        ([1, -1, 1, 1], "-1 is negative"),
        ([1, 1.5, 2, 2], "not an integer"),
        ([1, np.nan, 2, 2], "not an integer"),
        ([1, 1, 1], "expected 4 numbers"),
        ([[1, 1], [1, 1]], "expected 4 numbers"),
    ],
)
def test_bad_blocks(blocks, message):
    with pytest.raises(InputError, match=message):
        Shuffler(np.arange(4), Permutations(blocks=blocks))


def test_blocks_may_be_a_column_of_floats():
    np.testing.assert_array_equal(check_blocks([[1.0], [0.0], [2.0]], 3), [1, 0, 2])


def test_whole_blocks_must_be_of_equal_size():
    with pytest.raises(InputError, match="block 2 has 1 rows and block 1 has 2"):
        Shuffler(np.arange(3), Permutations(blocks=[1, 1, 2], whole_blocks=True))


def test_whole_blocks_need_blocks():
    with pytest.raises(InputError, match="no exchangeability blocks"):
        Shuffler(np.arange(3), Permutations(whole_blocks=True))


@pytest.mark.parametrize(
    ("options", "name"), [({"number": -1}, "-n"), ({"seed": -1}, "--seed"), ({"seed": 2**64}, "--seed")]
)
def test_bad_numbers(options, name):
    with pytest.raises(InputError, match="expected") as raised:
        Shuffler(np.arange(3), Permutations(**options))
    assert raised.value.option == name


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 7), (7, 7)])
def test_range_must_be_of_the_run(start, stop):
    for shuffler in (Shuffler(np.arange(3), Permutations(0)), ImportedShuffler(np.ones((6, 2)))):
        with pytest.raises(ValueError, match="this run has 0 to 6"):
            shuffler.shuffles(start, stop)


def test_exhaustive_run_that_nobody_can_make():
    shuffler = Shuffler(np.arange(30), Permutations(0))
    assert shuffler.n == math.factorial(30)
    with pytest.raises(InputError, match="ask for a number"):
        shuffler.shuffles(0, 1)


def test_imported_permutations():
    table = [[1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 3, 4]]
    shuffler = ImportedShuffler(np.array(table, dtype=float), 4)
    assert (shuffler.n, shuffler.n_rows, shuffler.flips, shuffler.exhaustive) == (3, 4, False, False)
    got = shuffler.shuffles(1, 3)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, np.array(table)[1:] - 1)
    h = np.sqrt(0.5)
    np.testing.assert_allclose(shuffler.invariant, [[h, 0, 0], [h, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_invariant_of_imported_permutations_follows_chains():
    cycle = [5, 3, 4, 2, 6, 1]  # 1 → 5 → 6 → 1 and 2 → 3 → 4 → 2
    basis = ImportedShuffler([[1, 2, 3, 4, 5, 6], cycle]).invariant
    want = np.array([[1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0]]).T / np.sqrt(3)
    np.testing.assert_allclose(basis, want)


def test_imported_signs():
    shuffler = ImportedShuffler([[1, 1, 1], [-1, 1, 1]])
    assert shuffler.flips
    assert not shuffler.permutes
    np.testing.assert_array_equal(all_of(shuffler), [[0, 1, 2], [~0, 1, 2]])
    np.testing.assert_array_equal(shuffler.invariant, [[0, 0], [1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[1, 2, 3], [1, 2, 2]], "row 2 of the imported permutations is not a permutation of 1 to 3"),
        ([[1, 2, 3], [3, 2, 1], [0, 1, 2]], "row 3"),
        ([[1, 2], [1.5, 2]], "row 2"),
        ([[2, 1], [1, 2]], "row 1 .* in its place"),
        ([[1, 1], [1, -1], [1, 0]], "row 3 of the imported sign flips"),
        ([[1, -1], [1, 1]], "row 1 of the imported sign flips must be 1"),
        ([1, 2, 3], "expected a row a permutation"),
        (np.zeros((0, 4)), "expected a row a permutation"),
    ],
)
def test_bad_import(table, message):
    with pytest.raises(InputError, match=message):
        ImportedShuffler(table)


def test_import_must_fit_the_design():
    with pytest.raises(InputError, match="3 columns; the design has 4 rows"):
        ImportedShuffler([[1, 2, 3]], 4)


def test_what_is_returned_can_be_changed_without_harm():
    for shuffler in (Shuffler(np.arange(5), Permutations(9)), ImportedShuffler([[1, 2], [2, 1]])):
        before = all_of(shuffler)
        all_of(shuffler)[:] = 0
        np.testing.assert_array_equal(all_of(shuffler), before)
