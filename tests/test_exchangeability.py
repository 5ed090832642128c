"""Exchangeability by columns of the table: wholes within other blocks."""

import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import gpuvox
from gpuvox.block_tree import TreeShuffler
from gpuvox.cohort.exchangeability import Columns, find_blocks, in_order_of_visits
from gpuvox.cohort.table import as_cohort
from gpuvox.shuffle import Permutations
from tests.front_door import Cohort, dummy, exceeding, people, read


def families():
    """Site a has three families of 2, site b two of 3 and site c one of 2, in no order."""
    members = {"f1": ("a", 2), "f2": ("b", 3), "f3": ("a", 2), "f4": ("b", 3), "f5": ("a", 2), "f6": ("c", 2)}
    rows = [(family, site) for family, (site, size) in members.items() for _ in range(size)]
    table = people(len(rows), family=[f for f, _ in rows], site=[s for _, s in rows])
    return table.iloc[np.random.default_rng(2).permutation(len(table))].reset_index(drop=True)


def test_families_trade_places_within_their_site():
    table = families()
    found = find_blocks(Columns(blocks=("site",), whole="family"), as_cohort(table))
    assert found.multi_level
    assert found.sentence.startswith(
        "the 6 blocks of family are permuted as wholes, each with its rows, within each site"
    )
    assert found.warnings == ("c has one family only, which is never permuted",)
    rows = {family: np.flatnonzero(table.family == family) for family in set(table.family)}
    expected = set()
    for a in permutations(["f1", "f3", "f5"]):
        for b in permutations(["f2", "f4"]):
            order = np.arange(len(table))
            for old, new in zip(["f1", "f3", "f5", "f2", "f4"], [*a, *b]):
                order[rows[old]] = rows[new]
            expected.add(tuple(order))
    shuffler = TreeShuffler(np.arange(len(table)), Permutations(0, 0, found.blocks))
    assert shuffler.n_distinct == 6 * 2
    assert set(map(tuple, shuffler.shuffles(0, 12).tolist())) == expected
    flips = TreeShuffler(np.zeros(len(table)), Permutations(0, 0, found.blocks, flip=True))
    assert flips.n_distinct == 2**6
    assert found.exchanged([True]) == "the signs of the 6 blocks of family are flipped, each with its rows"


def test_what_cannot_be_permuted_as_wholes_within_blocks():
    table = families()
    for change, columns, said in (
        ({"site": ["a", *table.site[1:-1], "z"]}, Columns(blocks=("site",), whole="family"), "its rows are in"),
        ({"site": "a"}, Columns(blocks=("site",), whole="family"), "in a must have the same number of rows"),
        ({"site": table.family}, Columns(blocks=("site",), whole="family"), "has one family only, so nothing"),
        ({}, Columns(blocks=("family",), whole="family"), "cannot be among the blocks"),
        ({}, Columns(paired="family", whole="family"), "one of them is expected"),
    ):
        with pytest.raises(ValueError, match=said):
            find_blocks(columns, as_cohort(table.assign(**change)))


def test_visits_of_wholes_are_matched_by_name(tmp_path):
    """Rows in any order have the t and p of rows in the order of visits."""
    table = people(8).merge(pd.DataFrame({"session": ["post", "pre"]}), how="cross")
    table["group"] = np.where(table.participant_id < "sub-05", "HC", "MS")
    mixed = table.iloc[[1, 0, *range(2, 16)]].reset_index(drop=True)
    values = np.random.default_rng(3).normal(size=(16, 5, 4, 3))
    found = [
        gpuvox.voxelwise(
            list(images),
            rows,
            "participant_id + session + session:group",
            "MS:post - MS:pre - HC:post + HC:pre",
            exchangeability={"whole": "participant_id"},
            n_permutations=30,
            seed=1,
            voxel=True,
        )
        for images, rows in ((values, table), (values[[1, 0, *range(2, 16)]], mixed))
    ]
    assert [each.analysis.cohort.cells("session")[:4] for each in found] == [
        ["post", "pre"] * 2,
        ["pre", "post"] * 2,
    ]
    for kind in ("t", "voxFWE"):
        a, b = (each.maps[found[0].analysis.hypotheses[0].name, kind] for each in found)
        np.testing.assert_allclose(a, b, rtol=1e-5)
    alike = as_cohort(table)
    assert in_order_of_visits(Columns(whole="participant_id"), alike) == list(range(16))
    assert in_order_of_visits(Columns(whole="group"), as_cohort(mixed))[:3] == [0, 1, 2]
    assert in_order_of_visits(Columns(within=("group",), whole="participant_id"), as_cohort(mixed)) == [
        0, 1, 3, 2, 5, 4, 7, 6, *range(8, 16)
    ]  # fmt: skip
    other = as_cohort(table.assign(session=["a", "b", *table.session[2:]]))
    with pytest.raises(ValueError, match="need the same session; sub-01 has a, b, sub-02 has post, pre"):
        find_blocks(
            Columns(whole="participant_id"), other.at(in_order_of_visits(Columns(whole="participant_id"), other))
        )


def test_the_command_permutes_families_within_sites(tmp_path):
    """Against `gpuvox.randomise` with a tree of blocks that is written here."""
    table = people(
        24, family=np.repeat([f"f{i:02d}" for i in range(12)], 2), site=np.repeat(["a", "b"], 12),
        treated=np.repeat(np.resize(["no", "yes"], 12), 2),
    )  # fmt: skip
    cohort = Cohort(tmp_path, table)
    cohort.write()
    t = cohort.table
    words = ["--model", "treated + site", "--test", "yes - no", "--whole", "family", "--blocks", "site", "-x"]
    assert cohort.voxelwise(*words) == 0
    record = json.loads((tmp_path / "out" / "voxelwise.json").read_text())
    assert record["runs"][0]["tests"][0]["distinct"] == str(20 * 20)
    design = np.column_stack([dummy(t.treated, "no"), dummy(t.treated, "yes"), dummy(t.site, "b")])
    tree = np.column_stack([
        np.full(24, -1), t.site.map({"a": 1, "b": 2}), -1 - t.family.str[1:].astype(int), np.arange(1, 25)
    ])  # fmt: skip
    result = gpuvox.randomise(
        np.moveaxis(cohort.values, 0, -1), design, [[-1.0, 1, 0]], mask=read(tmp_path / "mask"), blocks=tree,
        n_permutations=60, seed=7,
    )  # fmt: skip
    mine = read(tmp_path / "out" / "contrast-yesMinusNo_stat-logp_desc-voxFWE_statmap")
    inside = result.grid.mask
    theirs = np.round((1 - result.volume("vox_corrp_tstat1")[inside].astype(float)) * 60)
    stat = read(tmp_path / "out" / "contrast-yesMinusNo_stat-t_statmap")[inside]
    assert_array_equal(stat, result.volume("tstat1")[inside])
    assert_array_equal(exceeding(mine)[inside], theirs)
    saved = np.loadtxt(tmp_path / "out" / "randomise" / "t_blocks.csv", delimiter=",")
    for column in range(4):  # the same blocks by other numbers
        assert len(np.unique(np.c_[saved[:, column], tree[:, column]], axis=0)) == len(np.unique(saved[:, column]))
