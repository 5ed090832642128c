"""Settings and matrices from Python: what does not fit is one sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import gpuvox
from gpuvox.analysis import Options
from gpuvox.application.settings import OF_OPTIONS, make_options
from gpuvox.glm import Nuisance
from gpuvox.tfce import Tfce

N = 8
DATA = np.random.default_rng(0).normal(size=(4, 3, 2, N))
DESIGN = np.c_[np.ones(N), np.arange(N)]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"n_perm": 5}, TypeError, "unknown setting 'n_perm'; did you mean n_permutations?"),
        ({"random_state": 5}, TypeError, "unknown setting 'random_state'; did you mean seed?"),
        ({"tcfe": True}, TypeError, "unknown setting 'tcfe'; did you mean tfce?"),
        ({"zzz": 1}, TypeError, "unknown setting 'zzz'; there are blocks, checkpoint, client"),
        ({"statistics": None}, TypeError, "unknown setting 'statistics'"),
        ({"voxelwise": True}, TypeError, "voxelwise is True; a dict of image by column of the design"),
        (
            {"voxelwise": {5: DATA}},
            ValueError,
            "--vxl 6: the columns of the design are numbered from 1 to 2 (from 0 to 1 for voxelwise= from Python)",
        ),
        (
            {"voxelwise": {1: DATA[..., :3]}},
            ValueError,
            "EV of column 2 (counted from 1) has 3 volumes; the data have 8",
        ),
        ({"tfce": "yes"}, TypeError, "tfce is 'yes'; True, or a gpuvox.Tfce with its parameters, is expected"),
        ({"tfce": 2}, TypeError, "tfce is 2; True, or"),
        ({"voxel": 1}, TypeError, "voxel is 1; True or False is expected"),
        ({"two_pass": "no"}, TypeError, "two_pass is 'no'; True or False is expected"),
        ({"n_permutations": "100"}, TypeError, "n_permutations is '100'; a whole number is expected"),
        ({"n_permutations": 10.5}, ValueError, "n_permutations is 10.5; a whole number is expected"),
        ({"n_permutations": -1}, ValueError, "n_permutations is -1; a whole number of at least 0 is expected"),
        ({"n_permutations": True}, TypeError, "n_permutations is True; a whole number is expected"),
        ({"threads": 0}, ValueError, "threads is 0; a whole number of at least 1 is expected"),
        ({"seed": None}, TypeError, "seed is None; a whole number is expected"),
        ({"cluster_extent": True}, TypeError, "cluster_extent is True; a positive number is expected"),
        ({"cluster_mass": -2}, ValueError, "cluster_mass is -2; a positive number is expected"),
        ({"variance_mm": "5"}, TypeError, "variance_mm is '5'; a number of at least 0 is expected"),
        ({"variance_mm": float("nan")}, ValueError, "variance_mm is nan; a number of at least 0 is expected"),
        ({"nuisance": "draper"}, ValueError, "nuisance is 'draper'; one of kennedy, freedman_lane, none"),
        ({"permutations": [1]}, TypeError, "permutations is [1]; a dict of arrays by the names of the tests"),
        ({"device": 0}, TypeError, "device is 0; 'auto', 'cpu', 'cuda', 'cuda:i' or 'cuda:i,j' is expected"),
        ({"resume": True}, ValueError, "resume needs the name of a checkpoint"),
        (
            {"f_tests": [[1, 1]]},
            ValueError,
            "the matrix of F tests has 2 columns; there is 1 t contrast in the matrix of contrasts",
        ),
        (
            {"f_tests": [["a"]]},
            ValueError,
            "the values of the matrix of F tests hold values of type <U1; real numbers are expected",
        ),
        (
            {"blocks": ["a"] * N},
            ValueError,
            "the values of the exchangeability blocks hold values of type <U1; real numbers are expected",
        ),
    ],
)
def test_refusals(settings, error, words):
    with pytest.raises(error) as caught:
        gpuvox.randomise(DATA, DESIGN, [0, 1], **settings)
    assert str(caught.value).startswith(words) or words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("design", "contrasts", "words"),
    [
        (
            DESIGN,
            [0, 1, 0],
            r"the matrix of contrasts has 3 columns; there are 2 columns \(EVs\) in the design",
        ),
        (DESIGN, [[0], [1]], "the matrix of contrasts has 1 column; there are 2"),
        (DESIGN, [0, np.nan], "the values of the matrix of contrasts are not finite in 1 entries"),
        (DESIGN, [[0, 1], [1]], "the values of the matrix of contrasts are no array"),
        (DESIGN, "age", "age cannot be read"),
        (np.where(DESIGN == 3, np.inf, DESIGN), [0, 1], "the values of the design are not finite in 1 entries"),
        (DESIGN.astype(str), [0, 1], "the values of the design hold values of type <U32"),
        (
            pd.DataFrame({"a": 1.0, "sex": list("MFMFMFMF")}),
            [0, 1],
            "column 'sex' of the DataFrame is not of numbers",
        ),
        (DESIGN[:5], [0, 1], "the design has 5 rows; there are 8 volumes in the data"),
    ],
)
def test_matrices_that_do_not_fit(design, contrasts, words):
    with pytest.raises(ValueError, match=words):
        gpuvox.randomise(DATA, design, contrasts, n_permutations=2)


def test_settings_of_any_number_type():
    given = {"n_permutations": np.int64(7), "seed": 3.0, "cluster_extent": np.float32(2), "voxel": np.False_}
    options = make_options(given | {"tfce": Tfce(H=1.0), "nuisance": "Freedman-Lane"}, one_sample=True)
    assert (options.n_permutations, options.seed, options.statistics.extent, options.flip) == (7, 3, 2.0, True)
    assert (options.statistics.voxel, options.statistics.tfce.H) == (False, 1.0)
    assert options.nuisance is Nuisance.FREEDMAN_LANE
    assert make_options({"nuisance": 0}, one_sample=False).nuisance is Nuisance.KENNEDY
    assert make_options({}, one_sample=False) == Options()
    assert set(OF_OPTIONS) <= set(Options.__dataclass_fields__)
    frame = pd.DataFrame({"a": [True] * 4 + [False] * 4, "b": np.arange(N)})  # an array of it would be of objects
    settings = {"n_permutations": 3, "seed": 1}
    np.testing.assert_array_equal(
        gpuvox.randomise(DATA, frame, [1, 0], **settings)["tstat1"],
        gpuvox.randomise(DATA, frame.astype(float), [1, 0], **settings)["tstat1"],
    )


@pytest.mark.parametrize("name", ["n_permutations", "seed", "threads", "variance_mm", "cluster_extent"])
def test_numbers_of_hundreds_of_digits(name):
    for number in (10**400, -(10**400), 10**5000):
        with pytest.raises(ValueError, match=f"{name} is too large"):
            gpuvox.randomise(DATA, **({"n_permutations": 2} | {name: number}))
