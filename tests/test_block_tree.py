"""Multi-level exchangeability blocks against all permutations that the tree allows, found by brute force."""

from __future__ import annotations

from collections import Counter
from itertools import permutations as orders
from itertools import product

import numpy as np
import pytest
from scipy import stats

import gpuvox
from gpuvox.block_tree import TreeShuffler, build_tree
from gpuvox.errors import InputError
from gpuvox.shuffle import Permutations, Shuffler
from tests.palm import cases

N = 6
INDIVIDUALS = np.arange(1, N + 1)
TREES = {
    "within": np.column_stack([np.full(N, -1), [1, 1, 2, 2, 2, 3], INDIVIDUALS]),
    "whole": np.column_stack([np.ones(N), -np.array([1, 2, 1, 3, 2, 3]), INDIVIDUALS]),
    "both": np.column_stack([np.ones(N), [1, 1, 2, 2, 3, 3], INDIVIDUALS]),
    "wholes of unequal parts": np.column_stack(
        [np.ones(N), [-1, -1, -1, -2, -2, -2], [1, 1, 2, 2, 1, 1], INDIVIDUALS]
    ),
    "families within sites": np.column_stack(
        [np.full(N, -1), [1, 1, 1, 1, 2, 2], [-1, -2, -1, -2, -3, -3], INDIVIDUALS]
    ),
    "nothing fixed": np.column_stack([np.ones(N), INDIVIDUALS]),
}
LABELS = {
    "all different": np.arange(N, dtype=float),
    "two groups": np.array([0.0, 1, 0, 1, 1, 0]),
    "equal": np.zeros(N),
    "three values": np.array([0.0, 0, 1, 2, 1, 0]),
}


def naive_group(blocks) -> set[tuple[int, ...]]:
    """Every permutation that the rules allow: what comes to each row."""
    blocks = np.asarray(blocks, int)

    def arrangements(rows: list[int], level: int) -> list[dict[int, int]]:
        if level == blocks.shape[1] - 1:
            return [{rows[0]: rows[0]}]
        children: dict[int, list[int]] = {}
        for row in rows:
            children.setdefault(abs(blocks[row, level + 1]), []).append(row)
        inside = [arrangements(child, level + 1) for child in children.values()]
        results = []
        parts = list(children.values())
        trades = blocks[rows[0], level] > 0
        for order in orders(range(len(parts))) if trades else [tuple(range(len(parts)))]:
            for chosen in product(*inside):
                result = {}
                for place, source in enumerate(order):
                    moved = [chosen[source][row] for row in sorted_rows(parts[source], level + 1)]
                    result |= dict(zip(sorted_rows(parts[place], level + 1), moved, strict=True))
                results.append(result)
        return results

    def sorted_rows(rows: list[int], level: int) -> list[int]:
        """Rows of a block in an order by which blocks of one shape correspond: larger parts later."""
        if level == blocks.shape[1] - 1:
            return rows
        children: dict[int, list[int]] = {}
        for row in rows:
            children.setdefault(abs(blocks[row, level + 1]), []).append(row)
        return [row for child in sorted(children.values(), key=len) for row in sorted_rows(child, level + 1)]

    return {
        tuple(result[row] for row in range(len(blocks))) for result in arrangements(list(range(len(blocks))), 0)
    }


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("tree", TREES)
def test_an_exhaustive_run_has_every_labelling_once_and_the_unpermuted_first(tree, labels):
    blocks, x = TREES[tree], LABELS[labels]
    group = naive_group(blocks)
    expected = {tuple(x[list(p)]) for p in group}
    shuffler = TreeShuffler(x, Permutations(0, 0, blocks))
    rows = shuffler.shuffles(0, shuffler.n)
    assert shuffler.n_distinct == len(expected)
    assert shuffler.exhaustive
    assert Counter(map(tuple, x[rows])) == Counter(expected)
    assert {tuple(p) for p in rows.tolist()} <= group
    assert (rows[0] == np.arange(N)).all()


@pytest.mark.parametrize("tree", [tree for tree in TREES if tree != "families within sites"])
def test_each_permutation_that_gives_a_labelling_is_equally_likely(tree):
    """Over many seeds, all permutations of the group occur at the rates that uniform draws have."""
    blocks, x = TREES[tree], LABELS["two groups"]
    group = naive_group(blocks)
    drawn: Counter[tuple[int, ...]] = Counter()
    for seed in range(600):
        drawn.update(map(tuple, TreeShuffler(x, Permutations(2, seed, blocks)).shuffles(1, 2).tolist()))
    possible = [p for p in group if tuple(x[list(p)]) != tuple(x)]
    assert set(drawn) <= set(possible)
    if len(possible) < 100:
        assert stats.chisquare([drawn[p] for p in possible]).pvalue > 1e-3


def test_a_random_run_repeats_no_labelling_and_any_range_of_it_is_the_same():
    rng = np.random.default_rng(1)
    families = np.repeat(np.arange(1, 13), 3)
    blocks = np.column_stack([np.full(36, -1), np.repeat([1, 2, 3], 12), families, np.arange(1, 37)])
    x = rng.normal(size=36)
    shuffler = TreeShuffler(x, Permutations(300, 5, blocks))
    rows = shuffler.shuffles(0, 300)
    assert shuffler.n_distinct == (24 * 6**4) ** 3
    assert len({tuple(p) for p in rows.tolist()}) == 300
    np.testing.assert_array_equal(np.vstack([shuffler.shuffles(a, a + 50) for a in range(0, 300, 50)]), rows)
    for p in rows:
        assert (blocks[p, 1] == blocks[:, 1]).all()
        moved = families[p].reshape(-1, 3)
        assert (moved == moved[:, :1]).all()


def test_beyond_what_can_be_ranked_permutations_are_drawn():
    blocks = np.column_stack([np.ones(90), np.repeat(np.arange(1, 46), 2), np.arange(1, 91)])
    shuffler = TreeShuffler(np.arange(90.0), Permutations(50, 3, blocks))
    rows = shuffler.shuffles(0, 50)
    assert shuffler.n_distinct > 2**63
    assert (np.sort(rows, axis=1) == np.arange(90)).all()
    pairs = (rows // 2).reshape(50, 45, 2)
    assert (pairs[..., 0] == pairs[..., 1]).all()
    assert len({tuple(p) for p in rows.tolist()}) == 50


def test_one_level_is_what_single_column_blocks_are():
    """The same number of permutations as the shuffler of one column has, within blocks, of wholes, and of flips."""
    x = np.random.default_rng(2).normal(size=12)
    block = np.repeat([1, 2, 3], 4)
    rows = np.arange(1, 13)
    for whole, top, sign in ((False, -1, 1), (True, 1, -1)):
        blocks = np.column_stack([np.full(12, top), sign * block, rows])
        for flip in (False, True):
            one = Shuffler(x, Permutations(0, 0, block, whole, flip))
            tree = TreeShuffler(x, Permutations(0, 0, blocks, flip=flip))
            assert tree.n_distinct == one.n_distinct
            assert tree.invariant.shape == one.invariant.shape
            np.testing.assert_allclose(
                tree.invariant @ tree.invariant.T, one.invariant @ one.invariant.T, atol=1e-12
            )
            if flip:
                signs = {tuple(row) for row in tree.shuffles(0, tree.n).tolist()}
                assert signs == {tuple(row) for row in one.shuffles(0, one.n).tolist()}


@pytest.mark.parametrize("tree", TREES)
def test_what_no_permutation_changes(tree):
    shuffler = TreeShuffler(np.arange(N), Permutations(0, 0, TREES[tree]))
    mean = np.mean([np.eye(N)[list(p)] for p in naive_group(TREES[tree])], axis=0)
    np.testing.assert_allclose(shuffler.invariant @ shuffler.invariant.T, mean, atol=1e-12)


PALM = ["eb_multilevel", "eb_multilevel_vg_auto"]
ONE_COLUMN = {"eb_within": (-1, 1), "eb_whole": (1, -1), "eb_whole_within": (1, 1), "eb_whole_ise": (1, -1)}


@pytest.mark.parametrize("name", [*PALM, *ONE_COLUMN])
def test_palm_counts_the_same_and_its_permutations_are_of_the_tree(name):
    case = cases.Case(name)
    blocks = cases.table(case.folder / "eb.csv")
    if name in ONE_COLUMN:
        top, sign = ONE_COLUMN[name]
        blocks = np.column_stack([np.full(len(blocks), top), sign * blocks[:, 0], np.arange(1, len(blocks) + 1)])
    summary = (case.folder / "summary.txt").read_text().splitlines()
    counted = [line.split()[-1] for line in summary if line.startswith("possible")]
    for test, count in zip(case.tests, counted, strict=False):
        x = case.designs[0][:, test.weights.any(axis=0)]
        shuffler = TreeShuffler(x, Permutations(0, 0, blocks, flip="-ise" in case.command))
        assert shuffler.n_distinct == int(count)
        root = build_tree(blocks, len(blocks))
        for p in case.permutations(test)[:40]:
            assert allowed(root, np.abs(p) - 1)


def allowed(node, p) -> bool:
    """Whether a permutation keeps the rules of a tree: each child's rows come from one child, or from itself."""
    for child in node.children:
        sources = {int(p[row]) for row in child.rows}
        origin = next((other for other in node.children if sources == set(other.rows)), None)
        if origin is None or (origin is not child and not node.trades):
            return False
        moved = {row: int(p[row]) for row in child.rows}
        back = dict(zip(origin.rows, child.rows, strict=True))
        inner = np.arange(len(p))
        for row, source in moved.items():
            inner[row] = back[source]
        if not allowed(child, inner):
            return False
    return True


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (np.ones((5, 2)), r"have shape \(5, 2\); expected 6 rows"),
        (np.ones((6, 1)), "at least two columns"),
        (np.column_stack([np.ones(N), np.arange(N)]), "have 0 in row 1, column 2"),
        (np.column_stack([np.ones(N), INDIVIDUALS + 0.5]), r"have 1.5 in row 1, column 2; expected integers"),
        (np.column_stack([INDIVIDUALS, INDIVIDUALS]), "several numbers in the first column"),
        (np.column_stack([np.ones(N), [1, 1, 2, 2, 3, 3]]), "the same in rows 1 and 2"),
        (
            np.column_stack([np.ones(N), [1, -1, 2, 2, 3, 3], INDIVIDUALS]),
            "both signs for block 1-1, in rows 1 and 2",
        ),
        (
            np.column_stack([np.ones(N), [1, 1, 1, 2, 2, 3], INDIVIDUALS]),
            "of 2 observations, trade places with block",
        ),
    ],
)
def test_blocks_that_are_no_tree_are_refused(blocks, message):
    with pytest.raises(InputError, match=message):
        TreeShuffler(np.arange(N), Permutations(0, 0, blocks))


def test_randomise_takes_them(tmp_path, monkeypatch):
    """Families of two within sites: equal to the permutations given one by one, in Python and in the command."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    n = 12
    blocks = np.column_stack(
        [np.full(n, -1), np.repeat([1, 2], 6), -np.repeat(np.arange(1, 7), 2), np.arange(1, n + 1)]
    )
    x = np.repeat(rng.normal(size=6), 2)
    data = rng.normal(size=(n, 30))
    design = np.column_stack([x, np.ones(n)])
    result = gpuvox.randomise(data, design=design, contrasts=[[1, 0]], blocks=blocks, voxel=True, n_permutations=0)
    shuffler = result.tests[0].shuffler
    assert shuffler.n_distinct == 36
    null = []
    for p in shuffler.shuffles(0, 36):
        b, *_ = np.linalg.lstsq(design[p], data - data.mean(axis=0), rcond=None)
        rest = data - data.mean(axis=0) - design[p] @ b
        null.append(b[0] / np.sqrt((rest**2).sum(axis=0) / (n - 2) * np.linalg.inv(design.T @ design)[0, 0]))
    expected = np.mean(np.max(null, axis=1)[:, None] >= null[0] - 1e-9, axis=0)
    np.testing.assert_allclose(1 - result.tests[0].maps["vox_corrp"], expected, atol=1e-6)


def test_what_cannot_be_combined_with_them():
    """Options of single-column blocks are refused by their names."""
    blocks, data, design = (
        TREES["both"],
        np.random.default_rng(0).normal(size=(N, 5)),
        np.arange(N * 2.0).reshape(N, 2),
    )
    common = {"design": design, "contrasts": [[1, 0]], "blocks": blocks, "voxel": True}
    with pytest.raises(InputError, match=r"^--detectNull cannot be combined with multi-level") as caught:
        gpuvox.randomise(data, **common, detect_null=True)
    assert caught.value.option == "--detectNull"
    with pytest.raises(InputError, match="say by their signs which of them are permuted as wholes"):
        gpuvox.randomise(data, **common, whole_blocks=True)
