"""An analysis is prepared once per run, whichever front door it comes through."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import gpuvox
from gpuvox import prepared
from gpuvox.analysis import Inputs, Options, prepare
from gpuvox.application import inputs
from gpuvox.cli import main, main_randomise
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler

BASE = "-i data -o out -m mask -d design.mat -t design.con -x -n 20 --quiet --device cpu".split()


@pytest.fixture
def calls(monkeypatch):
    """Counts of the calls that make tests."""
    counts: Counter[str] = Counter()

    def counted(owner, name):
        function = getattr(owner, name)

        def call(*arguments, **settings):
            counts[name] += 1
            return function(*arguments, **settings)

        monkeypatch.setattr(owner, name, call)

    counted(inputs, "prepare")
    for name in ("list_tests", "make_shuffler", "partition"):
        counted(prepared, name)
    return counts


def once(n_tests):
    return {"prepare": 1, "list_tests": 1, "make_shuffler": n_tests, "partition": n_tests}


@pytest.mark.parametrize(
    "extra", [[], ["--checkpoint", "c.tally"], ["--seed", "1", "--shard", "1/2"], ["--plan"], ["-q"], ["-Q"]]
)
def test_commands_prepare_once(extra, study, calls):
    assert main_randomise([*BASE, *extra]) == 0
    assert calls == once(3)


def test_merging_prepares_once(study, calls):
    for i in "12":
        assert main_randomise([*BASE, "--seed", "1", "--shard", f"{i}/2"]) == 0
    calls.clear()
    assert main(["merge", "out_shard1of2.tally", "out_shard2of2.tally", "--device", "cpu", "--quiet"]) == 0
    assert calls == once(3)


@pytest.mark.filterwarnings("ignore")
def test_python_prepares_once(study, calls):
    for data, mask in (("data", "mask"), (np.random.default_rng(0).normal(size=(4, 3, 2, 10)), None)):
        calls.clear()
        gpuvox.randomise(data, "design.mat", "design.con", mask=mask, n_permutations=5, checkpoint="p.tally")
        assert calls == once(3)


def few(contrasts, **options):
    data = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    design = np.c_[np.repeat([1.0, 0], 3), np.repeat([0, 1.0], 3)]
    grid = Grid(np.ones((4, 1, 1), dtype=bool))
    return prepare(
        Inputs(data, grid, design, np.array(contrasts), np.zeros((0, len(contrasts)))), Options(**options)
    )


def test_a_contrast_shares_its_maps_with_one_negative():
    analysis = few([[1.0, -1], [1, -1], [-1, 1], [1, 0], [-1, 1]], n_permutations=5)
    assert [prepared.negative for prepared in analysis.tests] == [2, 4, None, None, None]
    assert list(analysis.permutation_counts()) == ["tstat1+tstat3", "tstat2+tstat5", "tstat4"]
    assert [len(group) for group in analysis.groups(joined=False)] == [1] * 5


def test_imported_permutations_of_a_negative_are_its_own():
    table = np.array([np.arange(1, 7), np.arange(6, 0, -1)])
    analysis = few([[1.0, -1], [-1, 1]], permutations={"tstat1": table, "tstat2": table[:1]})
    assert all(isinstance(prepared.shuffler, ImportedShuffler) for prepared in analysis.tests)
    assert analysis.permutation_counts() == {"tstat1": 2, "tstat2": 1}


def test_data_must_fit_the_tests_that_were_prepared():
    analysis = few([[1.0, -1]], n_permutations=5)
    with pytest.raises(ValueError, match="do not fit tests that were prepared for 6 volumes"):
        analysis.with_data(analysis.inputs.data[:5], analysis.inputs.grid, {})
    with pytest.raises(ValueError, match="voxelwise EVs"):
        analysis.with_data(analysis.inputs.data, analysis.inputs.grid, {0: analysis.inputs.data})
