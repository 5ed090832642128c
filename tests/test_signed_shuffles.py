"""Permutations and sign flips together, and PALM's sets of shuffles, against brute force and against PALM's files."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from gpuvox import files
from gpuvox.block_tree import TreeShuffler, is_multi_level, shuffler_of
from gpuvox.cli.main import main
from gpuvox.errors import InputError
from gpuvox.executors import run
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler, misplaced
from gpuvox.movement import extent, movement
from gpuvox.partitioning import effective_regressor, partition
from gpuvox.permtest import PermutationTest
from gpuvox.pvalues import corrected
from gpuvox.shuffle import Permutations
from gpuvox.signed_rows import from_one, from_signs, rows_of, shuffled, signs_of, to_one
from gpuvox.statistics import Statistics
from tests.palm import cases
from tests.test_block_tree import INDIVIDUALS, TREES, naive_group

N = 6
LABELS = {"all different": np.arange(N, dtype=float), "three values": np.array([0.0, 0, 1, 2, 1, 0])}
LABELS["two groups"] = np.array([0.0, 1, 0, 1, 1, 0])
BLOCKS = {
    "none": {},
    "within": {"blocks": [1, 1, 2, 2, 2, 0]},
    "whole": {"blocks": [1, 2, 1, 3, 2, 3], "whole_blocks": True},
    "both": {"blocks": [1, 2, 1, 3, 2, 3], "whole_blocks": True, "within_blocks": True},
}


def as_tree(options: dict) -> np.ndarray:
    """What blocks of one level are as a tree; a row of block 0 is a block of its own, that cannot change."""
    blocks = np.asarray(options.get("blocks", np.ones(N)), int)
    top = 1 if options.get("whole_blocks") else -1
    sign = -1 if options.get("whole_blocks") and not options.get("within_blocks") else 1
    return np.column_stack([np.full(N, top), sign * np.where(blocks, blocks, 9), np.arange(1, N + 1)])


def naive_units(blocks: np.ndarray) -> list[tuple[int, ...]]:
    """Rows that change sign together, by the rules of the signs of a tree."""

    def units(rows: list[int], level: int) -> list[tuple[int, ...]]:
        children: dict[int, list[int]] = {}
        for row in rows:
            children.setdefault(abs(blocks[row, level + 1]), []).append(row)
        if blocks[rows[0], level] > 0:
            return [tuple(child) for child in children.values()]
        if level == blocks.shape[1] - 2:
            return [tuple(rows)]
        return [unit for child in children.values() for unit in units(child, level + 1)]

    return units(list(range(len(blocks))), 0)


def naive_signs(units: list[tuple[int, ...]], n: int) -> list[np.ndarray]:
    found = []
    for chosen in product([1, -1], repeat=len(units)):
        signs = np.ones(n, int)
        for rows, sign in zip(units, chosen, strict=True):
            signs[list(rows)] = sign
        found.append(signs)
    return found


PROBLEMS = {name: {"blocks": tree} for name, tree in TREES.items()} | BLOCKS


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        *product(PROBLEMS, ["two groups"]),
        *product(["whole", "within", "families within sites"], ["all different", "three values"]),
    ],
)
def test_all_permutations_come_with_all_flips(name, labels):
    options, x = PROBLEMS[name], LABELS[labels]
    tree = np.asarray(options["blocks"]) if is_multi_level(options.get("blocks")) else as_tree(options)
    group = naive_group(tree)
    units = naive_units(tree.astype(int))
    if name == "within":
        units.remove((5,))
    signs = naive_signs(units, N)
    shuffler = shuffler_of(x, Permutations(0, 0, permute_and_flip=True, **options))
    shuffles = shuffler.shuffles(0, shuffler.n)
    labellings = {tuple(x[list(p)]) for p in group}
    assert (shuffler.n_orders, shuffler.n_signs) == (len(labellings), len(signs))
    assert shuffler.n_distinct == shuffler.n == len(labellings) * len(signs)
    found = Counter(
        (tuple(x[rows]), tuple(sign))
        for rows, sign in zip(rows_of(shuffles), signs_of(shuffles).tolist(), strict=True)
    )
    assert found == Counter(product(labellings, map(tuple, signs)))
    assert {tuple(rows) for rows in rows_of(shuffles).tolist()} <= group
    np.testing.assert_array_equal(shuffles[0], np.arange(N))
    of_one = signs_of(shuffles).reshape(len(labellings), len(signs), N)
    np.testing.assert_array_equal(of_one, np.broadcast_to(of_one[0], of_one.shape))
    assert (x[rows_of(shuffles)].reshape(of_one.shape) == x[rows_of(shuffles)][:: len(signs), None]).all()


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_neither_permutations_nor_flips_change(name):
    shuffler = shuffler_of(np.arange(N), Permutations(0, 0, permute_and_flip=True, **PROBLEMS[name]))
    shuffles = shuffler.shuffles(0, min(shuffler.n, 3000)) if shuffler.n < 50_000 else shuffler.shuffles(0, 200)
    matrices = shuffled(np.eye(N), shuffles).mean(axis=0)
    basis = shuffler.invariant
    np.testing.assert_allclose(matrices @ basis, basis, atol=1e-12)
    assert basis.shape[1] == (1 if name == "within" else 0)


@pytest.mark.parametrize("name", ["none", "whole", "both", "families within sites"])
def test_a_random_run_of_both_repeats_nothing_and_each_range_is_the_same(name):
    x, options = LABELS["two groups"], PROBLEMS[name]
    shuffler = shuffler_of(x, Permutations(0, 0, permute_and_flip=True, **options))
    number = max(2, shuffler.n_distinct * 2 // 3)
    shuffler = shuffler_of(x, Permutations(number, 5, permute_and_flip=True, **options))
    assert not shuffler.exhaustive
    shuffles = shuffler.shuffles(0, number)
    seen = [(*x[rows], *signs) for rows, signs in zip(rows_of(shuffles), signs_of(shuffles), strict=True)]
    assert len(set(seen)) == number
    middle = number // 2
    np.testing.assert_array_equal(
        np.vstack([shuffler.shuffles(0, middle), shuffler.shuffles(middle, number)]), shuffles
    )


def test_beyond_what_can_be_ranked_rows_and_signs_are_independent():
    shuffler = shuffler_of(np.arange(30.0), Permutations(4001, 3, permute_and_flip=True))
    assert shuffler.n_distinct > 2**63
    shuffles = shuffler.shuffles(1, 4001)
    assert len(np.unique(shuffles, axis=0)) == 4000
    flipped, rows = shuffles < 0, rows_of(shuffles)
    assert stats.binomtest(int(flipped.sum()), flipped.size).pvalue > 1e-4
    table = [[np.sum(flipped[:, i] & (rows[:, i] == r)) for r in range(30)] for i in range(30)]
    counts = np.concatenate([np.ravel(table), 4000 / 30 * 2 - np.ravel(table)])
    assert 0.8 < np.var(table) / (4000 / 60) < 1.2
    assert counts.min() > 0


def test_repeats_are_drawn_independently_and_the_unpermuted_one_may_come_again():
    x = np.array([0.0, 0, 1, 1])
    shuffler = shuffler_of(x, Permutations(5, 1, repeats=True))
    assert (shuffler.n_distinct, shuffler.exhaustive) == (6, False)
    drawn: Counter[tuple[float, ...]] = Counter()
    for seed in range(400):
        drawn.update(map(tuple, x[shuffler_of(x, Permutations(5, seed, repeats=True)).shuffles(1, 5)]))
    assert len(drawn) == 6
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-3
    assert shuffler_of(x, Permutations(0, 1, repeats=True)).exhaustive


def test_rows_may_all_be_told_apart():
    shuffler = shuffler_of(np.zeros(4), Permutations(0, distinct_rows=True))
    assert shuffler.n_distinct == 24
    assert len(np.unique(shuffler.shuffles(0, 24), axis=0)) == 24


def test_blocks_that_are_shuffled_as_wholes_and_within():
    shuffler = shuffler_of(np.arange(N), Permutations(0, **BLOCKS["both"]))
    assert isinstance(shuffler, TreeShuffler)
    expected = naive_group(as_tree(BLOCKS["both"]))
    assert {tuple(p) for p in shuffler.shuffles(0, shuffler.n).tolist()} == expected
    both = {"whole_blocks": True, "within_blocks": True}
    with pytest.raises(InputError, match="row 3 is in exchangeability block 0"):
        shuffler_of(np.arange(3), Permutations(0, blocks=[1, 1, 0], **both))
    with pytest.raises(InputError, match="block 2 has 1 rows and block 1 has 2"):
        shuffler_of(np.arange(3), Permutations(0, blocks=[1, 1, 2], **both))
    with pytest.raises(InputError, match="no exchangeability blocks"):
        shuffler_of(np.arange(3), Permutations(0, **both))


DEEP = np.column_stack([np.full(N, -1), [1, 1, 1, 1, -2, -2], [-1, -2, -1, -2, -3, -4], INDIVIDUALS])
MOVES = [
    ({}, "all rows may trade places"),
    ({"flip": True}, "the sign of each row may change by itself"),
    ({"permute_and_flip": True}, "all rows may trade places; the sign of each row may change by itself"),
    (
        BLOCKS["within"],
        "rows may trade places within their exchangeability block; the row of block 0 stays as it is",
    ),
    (
        {"blocks": [1, 1, 0, 2, 2, 0], "flip": True},
        "the sign of each row may change by itself; the 2 rows of block 0 stay as they are",
    ),
    ({"blocks": np.zeros(N), "flip": True}, "the 6 rows of block 0 stay as they are"),
    (
        BLOCKS["whole"] | {"permute_and_flip": True},
        "exchangeability blocks may trade places as wholes, with the order of their rows kept; the rows of an "
        "exchangeability block may change their sign together",
    ),
    (BLOCKS["both"], "the blocks may trade places as wholes; the rows may trade places within each block"),
    ({"blocks": TREES["nothing fixed"]}, "the rows may trade places"),
    ({"blocks": TREES["within"]}, "the blocks stay in place; the rows may trade places within each block"),
    (
        {"blocks": TREES["families within sites"]},
        "the blocks of level 2 stay in place; the blocks of level 3 may trade places as wholes within each block of "
        "level 2; the rows stay in place within each block of level 3",
    ),
    (
        {"blocks": DEEP},
        "the blocks of level 2 stay in place; the blocks of level 3 may trade places as wholes within 1 of the 2 "
        "blocks of level 2, and stay in place within the others; the rows stay in place within each block of level 3",
    ),
    (
        {"blocks": TREES["whole"], "flip": True},
        "signs may change in 3 units of 2 rows, those of all rows of a unit together",
    ),
    (
        {"blocks": TREES["wholes of unequal parts"], "permute_and_flip": True},
        "the blocks of level 2 may trade places as wholes; the blocks of level 3 stay in place within each block of "
        "level 2; the rows may trade places within each block of level 3; signs may change in 2 units of 3 rows, those "
        "of all rows of a unit together",
    ),
]


@pytest.mark.parametrize(("options", "words"), MOVES)
def test_words_say_what_may_move(options, words):
    assert movement(shuffler_of(np.arange(N), Permutations(0, **options))) == words


def test_words_of_a_single_row():
    """No level has two children, so that there is nothing but a sign."""
    tree = np.array([[1, 1, 1]])
    assert movement(shuffler_of([1.0], Permutations(0, blocks=tree, permute_and_flip=True))) == (
        "the sign of each row may change by itself"
    )
    single = shuffler_of([1.0], Permutations(0, blocks=tree))
    assert (movement(single), extent(single)) == (
        "no two rows may trade places",
        "there is nothing to shuffle",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"number": 0}, "20 distinct permutations, of which all are used"),
        ({"number": 7, "flip": True}, "64 distinct sign flips, of which 7 are used"),
        (
            {"number": 9, "permute_and_flip": True, "distinct_rows": True, "repeats": True},
            "46,080 distinct permutations with sign flips, of which 9 drawn with repeats are used",
        ),
    ],
)
def test_words_say_how_many_there_are(options, words):
    assert extent(shuffler_of([0.0, 1, 0, 1, 1, 0], Permutations(**options))) == words


def test_words_of_given_shuffles():
    rows, both = ImportedShuffler([[1, 2], [2, 1]]), ImportedShuffler([[1, 2], [-2, 1]])
    assert movement(rows) == "rows trade places as in the given file"
    assert movement(both) == "rows trade places and signs change as in the given file"
    assert extent(both) == "2 permutations with sign flips, all of which are used"


# -- given sets -----------------------------------------------------------------------------------------------------


def test_signed_rows_there_and_back():
    table = np.array([[1, 2, 3], [-3, 1, -2]])
    shuffles = from_one(table)
    np.testing.assert_array_equal(shuffles, [[0, 1, 2], [~2, 0, ~1]])
    np.testing.assert_array_equal(to_one(shuffles), table)
    np.testing.assert_array_equal(shuffled(np.array([[5.0], [6], [7]]), shuffles)[:, 0], [[5, 6, 7], [-7, 5, -6]])
    np.testing.assert_array_equal(from_signs([[1, -1]]), [[0, ~1]])


@pytest.mark.parametrize("name", PROBLEMS)
def test_given_shuffles_keep_blocks_if_they_could_have_been_drawn(name):
    """Of all permutations with all flips of six rows, those that an exhaustive run of different rows has."""
    options = Permutations(0, permute_and_flip=True, distinct_rows=True, **PROBLEMS[name])
    possible = shuffler_of(np.zeros(N), options)
    orders = np.array(list(permutations(range(N))), dtype=np.int32)
    signs = np.array(list(product([False, True], repeat=N)))
    every = np.where(signs, ~orders[:, None], orders[:, None]).reshape(-1, N)
    right = every[~misplaced(every, possible).any(axis=1)]
    np.testing.assert_array_equal(
        np.unique(right, axis=0), np.unique(possible.shuffles(0, possible.n), axis=0), strict=True
    )
    assert len(right) == possible.n


@pytest.mark.parametrize(
    ("blocks", "table", "words"),
    [
        (
            "within",
            [[1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 5, 6], [3, 2, 1, 4, 5, 6]],
            "row 3 of the imported permutations",
        ),
        ("within", [[1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 5, -6]], "do not allow -6 in column 6"),
        (
            "whole",
            [[1] * 6, [-1, 1, -1, 1, 1, 1], [1, 1, 1, -1, 1, 1]],
            "row 3 of the imported sign-flips .* do not allow 1 in column 6",
        ),
        ("whole", [[1, 2, 3, 4, 5, 6], [3, 2, 1, 4, 5, 6]], "row 2 of .* exchangeability blocks"),
    ],
)
def test_given_shuffles_that_break_blocks_are_refused(blocks, table, words):
    possible = shuffler_of(np.arange(N), Permutations(0, **BLOCKS[blocks]))
    ImportedShuffler(table[:-1], N, possible)
    with pytest.raises(InputError, match=words):
        ImportedShuffler(table, N, possible)


def test_invariant_vectors_of_given_shuffles_with_signs():
    """Rows 1 and 2 trade places with a change of sign, row 3 comes back with another sign, row 4 stays."""
    shuffler = ImportedShuffler([[1, 2, 3, 4], [-2, -1, 3, 4], [1, 2, -3, 4]])
    assert (shuffler.permutes, shuffler.flips, shuffler.kind) == (True, True, "permutations with sign-flips")
    h = np.sqrt(0.5)
    np.testing.assert_allclose(shuffler.invariant, [[h, 0], [-h, 0], [0, 0], [0, 1]])
    assert ImportedShuffler([[1, 2], [-2, 1]]).invariant.shape == (2, 0)


@pytest.mark.parametrize("name", ["ise", "ee_ise", "cmcx", "cmcp", "eb_whole_within", "eb_whole_ise", "eb_within"])
def test_there_are_as_many_as_palm_counts(name):
    case = cases.Case(name)
    command, summary = case.command, (case.folder / "summary.txt").read_text().splitlines()
    counts = [line.split()[-1] for line in summary if line.startswith("possible")]
    path = case.folder / "eb.csv"
    options = Permutations(
        0,
        blocks=cases.table(path)[:, 0] if path.exists() else None,
        flip="-ise" in command,
        permute_and_flip="-ee" in command,
        whole_blocks="-whole" in command,
        within_blocks="-within" in command and "-whole" in command,
        distinct_rows="-cmcx" in command,
    )
    test = case.tests[0]
    shuffler = shuffler_of(effective_labels_of(case, test), options)
    ours = [shuffler.n_orders] * shuffler.permutes + [shuffler.n_signs] * shuffler.flips
    assert [f"{count:.6g}" for count in ours] == [f"{float(count):.6g}" for count in counts[: len(ours)]]


def image(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).squeeze()


def effective_labels_of(case, test):
    return case.designs[test.design][:, test.weights.any(axis=0)]


@pytest.mark.parametrize("name", ["ise", "ee_ise", "eb_whole_ise", "cmcp", "cmcx"])
def test_palms_shuffles_give_palms_p(name):
    """The maps by the engine, FWE-corrected by PALM's own shuffles; within 2 / N for the ties that PALM loses."""
    case = cases.Case(name)
    Y, mask = case.modalities[0]
    for test in case.tests:
        stem = case.folder / "palm"
        path = files.find_permidx(str(stem), test.number)
        assert path is not None
        shuffler = ImportedShuffler(files.read_permutations(path), len(Y))
        model = Glm(Y.astype(np.float32), partition(case.designs[0], test.weights), shuffler.invariant)
        done = run(PermutationTest(model, Grid(mask), shuffler, Statistics(uncorrected=True)), threads=1)
        observed = done.observed.observed["vox"][0]
        suffix = case.suffix(test)
        theirs = image(str(case.folder / f"palm_vox_tstat{suffix}.nii.gz"))[mask]
        np.testing.assert_allclose(done.observed.statistic, theirs, rtol=1e-5, atol=1e-6)
        p = 1 - corrected(done.tally.maxima["vox"][0], observed)
        fwe = image(str(case.folder / f"palm_vox_tstat_fwep{suffix}.nii.gz"))[mask]
        assert np.abs(p - fwe).max() <= 2 / shuffler.n + 1e-6
        assert np.mean(np.abs(p - fwe) < 1e-6) > 0.6


def test_a_command_reads_palms_set_and_a_set_is_written(tmp_path, monkeypatch):
    case = cases.Case("ee_ise")
    monkeypatch.chdir(tmp_path)
    files.write_vest("design.mat", case.designs[0])
    files.write_vest("design.con", case.tests[0].weights)
    given = f"{case.folder}/palm"
    inputs = [
        "-i",
        f"{case.folder}/data1.nii",
        "-m",
        f"{case.folder}/mask.nii",
        "-d",
        "design.mat",
        "-t",
        "design.con",
    ]
    assert main(["randomise", *inputs, "-o", "out", "-x", "--quiet", "--permutations", given]) == 0
    mask = case.modalities[0][1]
    p = 1 - image("out_vox_corrp_tstat1.nii.gz")[mask]
    theirs = image(f"{given}_vox_tstat_fwep.nii.gz")[mask]
    assert np.abs(p - theirs).max() <= 2 / 100 + 1e-6
    table = files.read_permutations(f"{given}_permidx.csv")
    files.write_permidx("again_c1_permidx.csv", table)
    np.testing.assert_array_equal(files.read_permutations("again_c1_permidx.csv"), table)
    assert files.find_permidx("again", 1) == "again_c1_permidx.csv"
    assert files.find_permidx("again", 2) is None


def test_a_design_of_palm_has_interchangeable_rows_like_ours():
    """Rows alike in the columns with weight; ours are alike in the effective regressor, which is what is tested."""
    case = cases.Case("cmcp")
    test = case.tests[0]
    ours = shuffler_of(effective_regressor(case.designs[0], test.weights), Permutations(0))
    assert ours.n_distinct == 126
