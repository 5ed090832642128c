"""A statistic that gpuvox does not have, in one class: computed, counted, tied, normalised and written like its own."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import oracle
import pytest
from naive import naive_steps
from numpy.typing import NDArray

import gpuvox
from gpuvox.analysis import Inputs, Options, analyse, list_tests, prepare
from gpuvox.application import outputs
from gpuvox.application.settings import need_places
from gpuvox.errors import InputError
from gpuvox.executors import run
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.pvalues import corrected
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Normalisable, Normalised, Statistic, StatisticInfo, Statistics
from gpuvox.statistics.base import SUM_TIE
from gpuvox.tfce import Tfce

SHAPE = (4, 4, 3)
GROUP = np.repeat([1.0, 0.0], 4)
DESIGN, CONTRAST = np.c_[GROUP, 1 - GROUP], np.array([[1.0, -1]])


class Energy(Statistic):
    """Sum of the squares of a voxel's t and of its six neighbours' of the same sign, with that sign."""

    info: ClassVar = StatisticInfo("energy", "local energy", precedence=35)

    def evaluate(self, batch):
        padded = batch.grid.padded
        values = np.zeros(batch.maps.shape)
        for sign in (1, -1):
            square = np.zeros((len(batch.maps), padded.size))
            square[:, padded.index] = np.maximum(sign * batch.maps, 0).astype(np.float64) ** 2
            near = sum(square[:, padded.index + step] for step in (0, *padded.offsets(6)))
            values += np.where(sign * batch.maps > 0, sign * near, 0)
        return values

    def least_tie(self, values):
        return values * (1 - SUM_TIE)


@dataclass(frozen=True, eq=False)
class NormalisedEnergy(Normalised):
    energy: MeanEnergy
    local_mean: NDArray

    info: ClassVar = StatisticInfo("energyn", "normalised energy", precedence=70, local_means="energynorm")
    source: ClassVar = "energy"

    def evaluate(self, batch):
        values = self.energy.evaluate(batch)
        mean = np.where(values > 0, *self.local_mean)
        return np.divide(values, mean, out=np.zeros_like(values), where=mean > 0)


class MeanEnergy(Energy, Normalisable):
    """The same with a second pass."""

    normalised_info: ClassVar = NormalisedEnergy.info

    def normalised_by(self, local_mean):
        return NormalisedEnergy(self, local_mean)


class WithEnergy(Statistics):
    """A user's choice that has it."""

    energy: ClassVar = Energy()

    @property
    def settings(self):
        return (*super().settings, self.energy)


class WithMeanEnergy(WithEnergy):
    energy: ClassVar = MeanEnergy()


def naive_energy(image, mask):
    """Energy of the positive part of an image, voxel by voxel."""
    energy = np.zeros(image.shape)
    for place in np.argwhere(mask & (image > 0)):
        for step in ((0, 0, 0), *naive_steps(6)):
            other = tuple(place + step)
            inside = all(0 <= i < size for i, size in zip(other, image.shape))
            if inside and mask[other] and image[other] > 0:
                energy[tuple(place)] += image[other] ** 2
    return energy


def make():
    """Data, in which one image stands in both groups: to exchange the two changes nothing."""
    rng = np.random.default_rng(4)
    grid = Grid(rng.random(SHAPE) < 0.8)
    Y = rng.normal(size=(8, grid.n_voxels)).astype(np.float32)
    Y[5] = Y[1]
    return Y, grid


def make_test(statistics):
    Y, grid = make()
    shuffler = Shuffler(DESIGN @ CONTRAST.T, Permutations(0))
    model = Glm(Y, partition(DESIGN, CONTRAST), shuffler.invariant)
    return PermutationTest(model, grid, shuffler, statistics, signs=2)


@pytest.fixture(scope="module")
def energies():
    """(2, 70, V) Of all 70 permutations, and of their negatives, by the plain definition."""
    Y, grid = make()
    shuffles = Shuffler(DESIGN @ CONTRAST.T, Permutations(0)).shuffles(0, 70)
    maps = oracle.statistic_maps(Y, DESIGN, CONTRAST, shuffles + 1)
    return np.array([
        [oracle.flat(naive_energy(oracle.unflat(sign * t, grid.mask), grid.mask), grid.mask) for t in maps]
        for sign in (1, -1)
    ])  # fmt: skip


def test_it_is_computed_counted_and_tied_in_both_signs(energies):
    done = run(make_test(WithEnergy(extent=1.0, uncorrected=True)), threads=2)
    assert set(done.tally.maxima) == {"vox", "clustere", "energy"}
    statistic, observed = done.observed.statistics["energy"], done.observed.observed["energy"][0]
    for row, values in enumerate(energies):
        np.testing.assert_allclose(statistic.of_sign(observed, row), values[0], rtol=1e-5)
        maxima = values.max(axis=1)
        np.testing.assert_allclose(done.tally.maxima["energy"][row], maxima, rtol=1e-5)
        below = values < values[0] * (1 - 1e-6)
        np.testing.assert_array_equal(done.tally.below["energy"][row], below.sum(axis=0))
        p = corrected(done.tally.maxima["energy"][row], statistic.least_tie(statistic.of_sign(observed, row)))
        expected = (maxima[:, None] < values[0] * (1 - 1e-6)).mean(axis=0)
        np.testing.assert_allclose(p, expected, atol=1e-7)
        assert (np.isclose(maxima, maxima[0], rtol=1e-9)).sum() >= 2, "the exchange of equal images ties"


def test_it_has_a_second_pass(energies):
    done = run(make_test(WithMeanEnergy(voxel=False, two_pass=True)), threads=1)
    for row, values in enumerate(energies):
        total, n_nonzero, mean = oracle.local_mean(values)
        np.testing.assert_allclose(done.observed.sums(done.tally)["energy"][0][row], total, rtol=1e-5)
        np.testing.assert_array_equal(done.tally.nonzero["energy"][row], n_nonzero)
        np.testing.assert_allclose(done.second.local_means["energy"][row], mean, rtol=1e-5)
        normalised = oracle.ratio(values, mean).max(axis=1)
        np.testing.assert_allclose(done.second_tally.maxima["energyn"][row], normalised, rtol=1e-5)


def test_it_is_written_under_its_name(tmp_path, energies):
    Y, grid = make()
    inputs = Inputs(Y, grid, DESIGN, np.array([[1.0, -1], [-1, 1]]), np.zeros((0, 2)))
    options = Options(WithMeanEnergy(voxel=False, two_pass=True, uncorrected=True), n_permutations=0, threads=1)
    parts = outputs.OutputOptions(raw=True, nulls=True)
    writer = outputs.Writer(str(tmp_path / "out"), grid, None, parts)
    for result in analyse(prepare(inputs, options)):
        assert result.critical("energy") == np.sort(result.nulls["energy"])[-4]
        writer.result(result)
    for row, test in enumerate(("tstat1", "tstat2")):
        image = nib.load(tmp_path / f"out_energy_{test}.nii.gz")
        np.testing.assert_allclose(grid.to_vector(image.get_fdata()), energies[row, 0], rtol=1e-5)
        assert "energy" in bytes(image.header["descrip"]).decode()
        about = writer.written[f"out_energy_corrp_{test}.nii.gz"]
        assert (about["statistic"], about["correction"], about["permutations"]) == (
            "energy",
            "family-wise error",
            70,
        )
        null = np.loadtxt(tmp_path / f"out_energy_corrp_{test}.txt")
        np.testing.assert_allclose(null, energies[row].max(axis=1), rtol=1e-5)
        assert (tmp_path / f"out_energyn_corrp_{test}.nii.gz").is_file()
        assert (tmp_path / f"out__energynorm_{test}post.nii.gz").is_file()
    expected = outputs.expected_names(list_tests(inputs, options), options, parts)
    assert all((tmp_path / f"out{stem}.nii.gz").is_file() for stem in expected[0])
    assert {"_energy_p_tstat1", "_energyn_corrp_tstat2", "__energynorm_tstat1samp"} <= set(expected[0])
    assert "_energy_corrp_tstat1.txt" in expected[1]


def test_film_has_one_file_a_test_and_the_statistic_of_highest_precedence_in_it(tmp_path):
    Y, grid = make()
    inputs = Inputs(Y, grid, DESIGN, CONTRAST, np.zeros((0, 2)))
    statistics = WithEnergy(extent=1.0, tfce=Tfce(), uncorrected=True)
    (result,) = analyse(prepare(inputs, Options(statistics, n_permutations=0, threads=1)))
    writer = outputs.Writer(str(tmp_path / "out"), grid, None, outputs.OutputOptions(film=True, uncorrected=False))
    writer.result(result)
    assert set(writer.written) == {"outtstat1.nii.gz", "outpstat1.nii.gz", "outzstat1.nii.gz"}
    written = nib.load(tmp_path / "outpstat1.nii.gz").get_fdata()
    np.testing.assert_array_equal(grid.to_vector(written), result.maps["tfce_corrp"])


def test_a_statistic_of_neighbours_is_refused_where_there_are_none():
    with pytest.raises(ValueError, match="which local energy needs"):
        need_places(Options(WithEnergy()), (8, 40))
    need_places(Options(Statistics()), (8, 40))


def test_settings_are_listed_and_named_as_fsl_does():
    everything = Statistics(tfce=Tfce(), extent=2.0, mass=2.0, two_pass=True)
    assert everything.kinds == ("vox", "clustere", "clusterm", "tfce")
    assert everything.normalised == ("clustern", "tfcen")
    assert Statistics(tfce=Tfce()).normalised == ()
    assert everything.is_portable
    assert not Statistics(tfce=Tfce(exact=True, H=1.5)).is_portable
    for threshold in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="cluster-forming threshold"):
            Statistics(mass=threshold)


def test_no_module_compares_names_of_statistics():
    """What a statistic is like, its object says; a new one would be forgotten where names are compared."""
    names = {"vox", "clustere", "clusterm", "clustern", "tfce", "tfcen", "clusternorm", "tfcenorm"}
    for path in Path(gpuvox.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare | ast.Match):
                compared = {
                    n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                }
                assert not compared & names, f"{path}:{node.lineno}"
