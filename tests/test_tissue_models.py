"""Iron and myelin from any contrasts: weighted least squares and errors, against statsmodels and simulation.

Coefficients here are simulated; they are of no tissue.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from gpuvox.cli.main import main
from gpuvox.errors import FileError, InputError
from gpuvox.qmri import TissueModel
from gpuvox.tissue_models import Contrast, LinearModel

SIMULATED = (Path(__file__).parent.parent / "examples" / "simulated_model.toml").read_text()
SIMULATED = re.sub(r"(?m) *#.*$", "", SIMULATED)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text(SIMULATED)
    return LinearModel.read(path)


def test_weighted_least_squares_are_those_of_statsmodels(model):
    rng = np.random.default_rng(0)
    y = rng.normal([[0.05], [15.0], [1.5]], [[0.02], [3.0], [0.3]], (3, 20))
    found = model.solve(y)
    weights = [1 / 0.004**2, 1 / 1.5**2, 1 / 0.1**2]
    A = [[1.5e-4, -0.05], [0.05, 30], [-1e-4, 6]]
    for v in range(20):
        fit = sm.WLS(y[:, v] - [-0.02, 4, 0.3], A, weights=weights).fit()
        np.testing.assert_allclose(found[:, v], fit.params, rtol=1e-9)
    np.testing.assert_allclose(
        np.sqrt(model.noise_variance([0.004, 1.5, 0.1])), np.sqrt(np.diag(fit.normalized_cov_params))
    )


def test_two_contrasts_are_solved_exactly():
    """QSM and R1 as `TissueModel` has them, whatever the weights."""
    stueber, rng = TissueModel.default(), np.random.default_rng(0)
    qsm, r1 = rng.normal(0.05, 0.03, 50), rng.normal(0.9, 0.2, 50)
    np.testing.assert_allclose(LinearModel.of(stueber).solve([qsm, r1]), stueber.inverse(qsm, r1), rtol=1e-9)
    variances = stueber.inverse_variance(0.004**2, 0.01**2)
    np.testing.assert_allclose(LinearModel.of(stueber).noise_variance([0.004, 0.01]), variances, rtol=1e-9)


def test_noise_and_errors_of_coefficients_are_propagated(model):
    """10,000 draws of noise; derivatives of the solution by the coefficients, by differences."""
    rng, tissue = np.random.default_rng(1), np.array([300.0, 0.2])
    noise, constants = np.array([0.004, 1.5, 0.1]), np.array([-0.02, 4, 0.3])
    y = model.design @ tissue + constants
    drawn = model.solve(y[:, None] + noise[:, None] * rng.standard_normal((3, 10000)))
    np.testing.assert_allclose(drawn.var(axis=1), model.noise_variance(noise), rtol=0.05)
    variance = np.zeros(2)
    for j, contrast in enumerate(model.contrasts):
        slopes = []
        for name in ("iron", "myelin"):
            step = 1e-5 * getattr(contrast, name)
            ends = [replace(contrast, **{name: getattr(contrast, name) + sign * step}) for sign in (1, -1)]
            of = [replace(model, contrasts=(*model.contrasts[:j], end, *model.contrasts[j + 1 :])) for end in ends]
            slopes.append((of[0].solve(y) - of[1].solve(y)) / (2 * step))
        J = np.column_stack(slopes)
        variance += np.diag(J @ contrast.covariance @ J.T)
    np.testing.assert_allclose(model.coefficient_variance(tissue), variance, rtol=1e-5)


def test_conclusions_over_the_errors_of_three_contrasts(model):
    """Each draw solved by its own weighted least squares of what the model explains, and compared by statsmodels."""
    from gpuvox.study.statistics.coefficients import _changes, dependence, drawn_models, error_roots
    from gpuvox.study.statistics.csf import Comparison

    rng = np.random.default_rng(0)
    people = pd.DataFrame({"participant_id": [f"s{i}" for i in range(40)], "group": np.repeat(["MS", "HC"], 20)})
    people["putamen.iron"] = rng.normal(250, 40, 40) + 40 * (people["group"] == "MS")
    people["putamen.myelin"] = rng.normal(0.2, 0.03, 40)
    roots = error_roots(model, 0.1)
    np.testing.assert_allclose(roots @ np.swapaxes(roots, 1, 2), [each.covariance for each in model.contrasts])
    models = drawn_models(model, roots, 30, seed=3)
    row = dependence(Comparison(people, "group", ("MS", "HC"), ()), ["putamen.iron"], model, models).iloc[0]
    tissue = people[["putamen.iron", "putamen.myelin"]].to_numpy().T
    y, d = model.design @ tissue, []
    assert _changes(model, model.design[None])[0] == pytest.approx(np.eye(2), abs=1e-9)
    for drawn in models:
        contrasts = (replace(c, iron=a, myelin=b, constant=0) for c, (a, b) in zip(model.contrasts, drawn))
        iron = replace(model, contrasts=tuple(contrasts)).solve(y)[0]
        fit = sm.OLS(iron, sm.add_constant((people["group"] == "MS").to_numpy(float))).fit()
        d.append(2 * fit.tvalues[1] / np.sqrt(38))
    assert (row["d_low"], row["d_high"]) == pytest.approx(tuple(np.quantile(d, [0.025, 0.975])), rel=1e-6)


AFFINE = np.diag([1.0, 1, 2, 1])
SHAPE = (5, 4, 3)


@pytest.fixture
def cohort(tmp_path, model, monkeypatch):
    """Three participants whose contrasts fit the model; the truth is returned."""
    rng = np.random.default_rng(0)
    truth = np.stack([rng.uniform(0, 500, (3, *SHAPE)), rng.uniform(0.05, 0.4, (3, *SHAPE))])
    csf = np.zeros(SHAPE, np.uint8)
    csf[0] = 1
    truth[:, :, csf > 0] = 0
    rows = []
    for i in range(3):
        row = {"participant_id": f"sub-{i}", "csf": "csf.nii"}
        for c in model.contrasts:
            values = c.iron * truth[0, i] + c.myelin * truth[1, i] + c.constant
            values[-1, -1, -1] = 0  # outside
            nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), tmp_path / f"{c.name}{i}.nii")
            row[c.name] = f"{c.name}{i}.nii"
        rows.append(row)
    nib.save(nib.Nifti1Image(csf, AFFINE), tmp_path / "csf.nii")
    pd.DataFrame(rows).to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    monkeypatch.chdir(tmp_path)
    truth[:, :, -1, -1, -1] = 0
    return truth


COMMAND = ["ironmyelin", "--table", "participants.tsv", "--out", "out", "--model", "model.toml", "--quiet"]


def read(name):
    return np.moveaxis(nib.load(f"out/{name}.nii.gz").get_fdata(), -1, 0)


def test_the_truth_is_recovered_with_its_uncertainty(cohort, model):
    assert main([*COMMAND, "--uncertainty"]) == 0
    for i, name in enumerate(("iron", "myelin")):
        np.testing.assert_allclose(read(name), cohort[i], atol=1e-4 * cohort[i].max())
        inside = np.ones(SHAPE, bool)
        inside[-1, -1, -1] = False
        expected = np.sqrt(model.noise_variance([0.004, 1.5, 0.1])[i]) * inside
        np.testing.assert_allclose(read(f"{name}_sd_noise"), np.broadcast_to(expected, (3, *SHAPE)), rtol=1e-5)
        expected = np.sqrt(model.coefficient_variance(cohort)[i])
        np.testing.assert_allclose(
            read(f"{name}_sd_coefficients"), expected, rtol=1e-2, atol=1e-3 * expected.max()
        )
    about = json.loads(Path("out/iron.json").read_text())
    assert about["Model"]["citation"] == "Simulated coefficients, of no tissue"
    assert about["Model"]["r2star"] == [0.05, 30, 4]
    assert json.loads(Path("out/iron_sd_noise.json").read_text())["Noise"]["mtsat"] == 0.1


def test_uncertainty_of_qsm_and_r1_includes_the_conversion_between_fields(cohort):
    """R1 at 3 T: its noise grows by the slope of the conversion."""
    from gpuvox.qmri import FieldConversion, Inversion

    stueber = TissueModel.default().relative_to(-0.02, 1 / 4.329)
    conversion = FieldConversion(7, 3)
    for i in range(3):
        qsm, r1 = stueber.forward(*cohort[:, i])
        for name, values in (("qsm", qsm), ("r1", conversion(r1))):
            nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), f"{name}{i}.nii")
    table = pd.read_csv("participants.tsv", sep="\t").assign(r1=[f"r1{i}.nii" for i in range(3)])
    table.to_csv("participants.tsv", sep="\t", index=False)
    words = [
        "--from-field",
        "3",
        "--uncertainty",
        "--noise",
        "qsm=0.004",
        "--noise",
        "r1=0.02",
        "--coefficient-error",
        "0.1",
    ]
    assert main(["ironmyelin", "--table", "participants.tsv", "--out", "out", "--quiet", *words]) == 0
    r1 = np.stack([nib.load(f"r1{i}.nii").get_fdata() for i in range(3)])
    iron, myelin = Inversion(TissueModel.default(), FieldConversion(3, 7)).variances(r1, 0.004**2, 0.02**2)
    np.testing.assert_allclose(read("iron_sd_noise"), np.sqrt(iron), rtol=1e-4)
    np.testing.assert_allclose(read("myelin_sd_noise"), np.sqrt(myelin), rtol=1e-4)
    linear = LinearModel.of(TissueModel.default())
    expected = np.sqrt(linear.coefficient_variance(cohort, linear.relative_errors(0.1)))
    np.testing.assert_allclose(read("iron_sd_coefficients"), expected[0], rtol=1e-3, atol=1e-3 * expected[0].max())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("noise = 1.5\n", "", "has no noise of r2star; with more than two contrasts their noise is their weight"),
        ('citation = "Simulated coefficients, of no tissue"', 'citation = ""', "the citation is empty"),
        ('citation = "Simulated coefficients, of no tissue"\n', "", "'citation' is missing"),
        ("iron = 0.05\n", "", "'iron' is missing"),
        ("iron_error", "iron_eror", "the key 'iron_eror' of the contrast qsm is unknown"),
        ('units = "ppm"', 'units = "ppb"', "the contrast qsm is in 'ppb'; in models it is in 'ppm'"),
        ("[contrasts.r2star]", "[contrasts.csf]", "'csf' cannot name a contrast"),
        (
            "[contrasts.mtsat]",
            "[contrasts.r1]\nunits='1/s'\niron=1\nmyelin=2\nconstant=0\n[contrasts.mtsat]",
            "the contrast r1 has no field",
        ),
        ("myelin_error = 0.004", "error_correlation = 2", "Cannot overwrite a value"),
        ("error_correlation = -0.3", "error_correlation = 2", "a correlation beyond 1"),
    ],
)
def test_what_is_no_model(tmp_path, old, new, said):
    (tmp_path / "model.toml").write_text(SIMULATED.replace(old, new, 1))
    with pytest.raises(FileError) as caught:
        LinearModel.read(tmp_path / "model.toml")
    assert said in str(caught.value)


def test_what_cannot_be_solved():
    with pytest.raises(InputError, match="singular"):
        LinearModel((Contrast("a", 1e-4, 0.1, 0, "1"), Contrast("b", 2e-4, 0.2, 0, "1")), "collinear")
    with pytest.raises(InputError, match="two or more are needed"):
        LinearModel((Contrast("a", 1e-4, 0.1, 0, "1"),), "single")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--uncertainty", "--fwhm", "1"], "--fwhm: smoothing changes the uncertainty of noise"),
        (
            ["--uncertainty", "--reference", "none"],
            "--reference: the errors of the constants cancel only relative to CSF",
        ),
        (["--uncertainty", "--noise", "r1=1"], "--noise: r1=1 is not a positive SD of qsm or r2star or mtsat"),
        (["--noise", "qsm=1"], "--noise: is for --uncertainty, which is not requested"),
        (["--coefficient-error", "0.1"], "--coefficient-error: is for --uncertainty"),
    ],
)
def test_what_uncertainty_cannot_be(cohort, capsys, words, said):
    assert main([*COMMAND, *words]) == 2
    assert said in capsys.readouterr().err


def test_images_in_other_units_or_of_another_field_are_refused(cohort, capsys, tmp_path):
    (tmp_path / "mtsat1.json").write_text('{"Units": "%"}')
    assert main(COMMAND) == 2
    assert "mtsat1.nii is in '%'; the model has mtsat in 'p.u.'" in capsys.readouterr().err
    (tmp_path / "mtsat1.json").unlink()
    (tmp_path / "model.toml").write_text(SIMULATED)
    (tmp_path / "r2star2.json").write_text('{"MagneticFieldStrength": 7}')
    assert main(COMMAND) == 2
    assert "r2star2.nii was acquired at 7 T, and the coefficients of r2star are for 3 T" in capsys.readouterr().err


def test_a_study_shows_maps_in_the_units_of_the_model(tmp_path):
    from gpuvox.study.pipeline.config import read_config
    from gpuvox.study.pipeline.inputs import StudyInputs

    (tmp_path / "model.toml").write_text(
        SIMULATED.replace('"mg/kg"', '"g/kg"').replace('myelin = "1"', 'myelin = "%"')
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tjacobian\ns1\tj.nii\ns2\tj.nii\n")
    units, of_tables = [], []
    for model in ("", 'model = "model.toml"'):
        (tmp_path / "study.toml").write_text(f'[study]\ntable = "participants.tsv"\n[ironmyelin]\n{model}\n')
        inputs = StudyInputs(read_config(tmp_path / "study.toml"))
        maps = inputs.maps
        of_tables.append(inputs.units)
        units.append([maps[name].unit for name in ("iron", "myelin", "ironmass")])
    assert units == [["mg/kg", "volume fraction", "mg/kg × J"], ["g/kg", "%", "g/kg × J"]]
    assert of_tables == [{"iron": "mg/kg", "myelin": ""}, {"iron": "g/kg", "myelin": "%"}]
