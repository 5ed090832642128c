"""The synthetic cohort: what is printed is in it, the maps give it back, and randomise finds the study's pattern."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.cli import main
from gpuvox.grid import Grid
from gpuvox.qmri import FieldConversion, Inversion, TissueModel
from gpuvox.statistics import Statistics
from gpuvox.study.phantom import (
    N_CONTROLS,
    N_PATIENTS,
    NUCLEI,
    PRINTED,
    SCALES,
    STRUCTURES,
    Scanner,
    Template,
    _new_folder,
    design_of,
    draw_cohort,
)
from gpuvox.tfce import Tfce

KINDS = ("iron", "myelin", "ironmass", "myelinmass")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small cohort on disk and its maps, the truth put aside before they were made."""
    folder = tmp_path_factory.mktemp("phantom")
    assert main(["phantom", str(folder / "cohort"), "--scale", "small", "--seed", "3", "--quiet"]) == 0
    shutil.move(folder / "cohort" / "truth", folder / "truth")
    command = ["ironmyelin", "--table", str(folder / "cohort" / "participants.tsv"), "--out", str(folder / "maps")]
    assert main([*command, "--from-field", "3", "--field-method", "curve", "--quiet"]) == 0
    return folder


def maps(study, kind):
    return np.moveaxis(np.asarray(nib.load(study / "maps" / f"{kind}.nii.gz").dataobj), -1, 0)


def truth(study):
    table = pd.read_csv(study / "truth" / "parts.tsv", sep="\t")
    return {
        k: table.pivot_table(index="participant_id", columns="part", values=k)
        for k in ("volume", "iron", "myelin")
    }


# -- the truth ------------------------------------------------------------------------------------------------------


def test_the_cohort_has_the_printed_means_and_sds():
    """Over many cohorts; of one of them, within sampling error."""
    template = Template(SCALES["small"])
    found = {}
    for seed in range(40):
        cohort = draw_cohort(template, seed)
        patient = cohort.table["group"] == "MS"
        for structure in STRUCTURES:
            parts = [structure] if structure != "thalamus" else [f"thalamus_{n}" for n in NUCLEI]
            size = np.array([template.millilitres(part) for part in parts])
            for kind in ("volume", "iron", "myelin"):
                values = np.stack([cohort.truth[kind][part] for part in parts])
                whole = values.sum(axis=0) if kind == "volume" else size @ values / size.sum()
                for group in (True, False):
                    moments = whole[patient == group].mean(), whole[patient == group].std()
                    found.setdefault((structure, kind, group), []).append(moments)
    for (structure, kind, group), moments in found.items():
        mean, sd = PRINTED[structure][kind][0 if group else 1]
        n = 40 * (N_PATIENTS if group else N_CONTROLS)
        assert np.mean(moments, axis=0)[0] == pytest.approx(mean, abs=4 * sd / np.sqrt(n)), (structure, kind)
        assert np.mean(moments, axis=0)[1] == pytest.approx(sd, rel=0.06), (structure, kind)


def test_people(study):
    table = pd.read_csv(study / "cohort" / "participants.tsv", sep="\t")
    patients, controls = table[table.group == "MS"], table[table.group == "HC"]
    assert (len(patients), len(controls)) == (N_PATIENTS, N_CONTROLS)
    assert ((patients.sex == "F").sum(), (controls.sex == "F").sum()) == (54, 27)
    assert (patients.phenotype == "PMS").sum() == 20
    assert controls.edss.isna().all()
    assert table.age.between(18, 75).all()
    assert (patients.disease_duration < patients.age).all()
    assert 2.5 <= patients.edss.median() <= 4.5
    assert (2 * patients.edss == (2 * patients.edss).round()).all()
    assert 4 < patients.lesion_load.mean() < 25
    assert patients.lesion_load.skew() > 1
    true = truth(study)
    nuclei = [f"thalamus_{n}" for n in NUCLEI]
    volume = true["volume"][nuclei].sum(axis=1).loc[patients.participant_id].to_numpy()
    iron = true["iron"]["thalamus_pulvinar"].loc[patients.participant_id].to_numpy()
    assert np.corrcoef(patients.edss, volume)[0, 1] < -0.2
    assert np.corrcoef(patients.edss, iron)[0, 1] < 0
    assert np.corrcoef(patients.lesion_load, patients.disease_duration)[0, 1] > 0


def test_a_seed_is_a_cohort(tmp_path):
    template = Template(SCALES["tiny"])
    one, same, other = (draw_cohort(template, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.truth["iron"]["putamen"], same.truth["iron"]["putamen"])
    assert (one.truth["iron"]["putamen"] != other.truth["iron"]["putamen"]).all()
    images = [Scanner(template, one, 1).images(5) for _ in range(2)]
    np.testing.assert_array_equal(images[0].qsm, images[1].qsm)


def test_full_scale_is_of_the_promised_size():
    template = Template(SCALES["full"])
    assert np.prod(template.shape) < 600_000
    assert template.affine[0, 0] == 1
    for structure in STRUCTURES:
        assert template.millilitres(structure) == pytest.approx(PRINTED[structure]["volume"][1][0], rel=0.03)
    x = template.axes[0]
    np.testing.assert_allclose(x, -x[::-1])
    swapped = template.labels[::-1]
    sides = np.array([0, *(i if i % 2 else i + 2 for i in range(len(template.names)))])  # left is right
    right = x > 0
    np.testing.assert_array_equal(sides[template.labels][right], swapped[right])


# -- the maps -------------------------------------------------------------------------------------------------------


def test_the_maps_give_the_truth_back(study):
    """Means per structure and group: bias under 2 % of the truth's SD over subjects; volumes and contents too."""
    template, true = Template(SCALES["small"]), truth(study)
    table = pd.read_csv(study / "cohort" / "participants.tsv", sep="\t")
    jacobian = [np.asarray(nib.load(study / "cohort" / j).dataobj) for j in table.jacobian]
    millilitre = template.voxel_size**3 / 1000
    found = {kind: maps(study, kind) for kind in KINDS}
    for part, where in template.parts.items():
        volume = np.array([j[where].sum() * millilitre for j in jacobian])
        np.testing.assert_allclose(volume, true["volume"][part], rtol=0.01)
        for kind in ("iron", "myelin"):
            mean, expected = found[kind][:, where].mean(axis=1), true[kind][part].to_numpy()
            for group in ("MS", "HC"):
                chosen = (table.group == group).to_numpy()
                error = (mean - expected)[chosen]
                sampling = 3 * error.std() / np.sqrt(chosen.sum())  # noise of the voxels
                assert abs(error.mean()) < 0.02 * expected[chosen].std() + sampling, (part, kind, group)
            content = (found[f"{kind}mass"][:, where].sum(axis=1)) * millilitre
            expected = np.array([(m[where] * j[where]).sum() for m, j in zip(found[kind], jacobian)]) * millilitre
            np.testing.assert_allclose(content, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_every_r1_is_plausible(study):
    table = pd.read_csv(study / "cohort" / "participants.tsv", sep="\t")
    for name in table.r1[:20]:
        values = np.asarray(nib.load(study / "cohort" / name).dataobj)
        assert 0.18 < values.min() < values.max() < 2


def significant(study, kind, out):
    """Share of the voxels of each part with corrected p < .05, for MS > HC and MS < HC."""
    cohort = study / "cohort"
    command = ["randomise", "-i", study / "maps" / kind, "-o", out / kind, "-m", cohort / "template" / "deepgray"]
    command += [
        "-d",
        cohort / "design.mat",
        "-t",
        cohort / "design.con",
        "-n",
        "300",
        "-T",
        "--seed",
        "1",
        "--quiet",
    ]
    assert main(list(map(str, command))) == 0
    template = Template(SCALES["small"])
    p = [np.asarray(nib.load(out / f"{kind}_tfce_corrp_tstat{i}.nii.gz").dataobj) > 0.95 for i in (1, 2)]
    return [{part: found[template.where(part)].mean() for part in (*STRUCTURES, *template.parts)} for found in p]


def test_randomise_finds_the_pattern_of_the_study(study, tmp_path):
    found = {kind: significant(study, kind, tmp_path) for kind in KINDS}
    basal = ("caudate", "putamen", "pallidum")
    more, less = found["iron"]
    assert more["pallidum"] > 0.5
    assert sum(more[s] for s in basal) > 1.0
    assert less["thalamus_pulvinar"] > 0.5
    assert all(less[s] == 0 for s in basal)
    assert more["thalamus_pulvinar"] == 0
    more_content, less_content = found["ironmass"]
    assert sum(more_content[s] for s in basal) < 0.5 * sum(more[s] for s in basal)
    assert less_content["thalamus_pulvinar"] > 0.5
    assert found["myelinmass"][1]["thalamus_pulvinar"] > 0.3
    assert found["myelinmass"][0]["thalamus_pulvinar"] == 0
    assert all(share < 0.05 for direction in found["myelin"] for share in direction.values())


# -- nothing to be found --------------------------------------------------------------------------------------------


def survivors(seed: int) -> list[bool]:
    """Of a null cohort, whether anything survives: for four kinds of maps in two directions."""
    template = Template(SCALES["tiny"])
    cohort = draw_cohort(template, seed, null=True)
    scanner = Scanner(template, cohort, seed)
    inversion = Inversion(TissueModel.default(), FieldConversion(3, 7, "curve"))
    gray = np.flatnonzero(template.gray.ravel(order="F"))
    data = {kind: np.empty((cohort.n, len(gray)), dtype=np.float32) for kind in KINDS}
    for i in range(cohort.n):
        images = scanner.images(i)
        values = [a.ravel(order="F")[gray] for a in (images.qsm, images.r1, images.jacobian)]
        for kind, found in zip(KINDS, inversion.invert(*values[:2], (0.0, -1.0), values[2])):
            data[kind][i] = found
    design, contrasts = design_of(cohort)
    grid, found = Grid(template.gray), []
    for kind in KINDS:
        inputs = Inputs(data[kind], grid, design, contrasts, np.zeros((0, 2)))
        options = Options(Statistics(voxel=False, tfce=Tfce()), n_permutations=200, seed=seed, threads=1)
        found += [bool((result.maps["tfce_corrp"] > 0.95).any()) for result in analyse(prepare(inputs, options))]
    return found


@pytest.mark.parametrize(("seeds", "most"), [(6, 3), pytest.param(40, 7, marks=pytest.mark.long)])
def test_a_null_cohort_is_rejected_as_often_as_it_should(seeds, most):
    """Share of tests with any survivor; the tests of a seed share subjects, so seeds are the sample.

    In no kind and direction by itself either: 40 draws at 5 % exceed 7 in one of 400 cases, 6 exceed 3 in one of
    11,000.
    """
    by_seed = np.array([survivors(seed) for seed in range(seeds)])
    rate, error = by_seed.mean(), by_seed.mean(axis=1).std() / np.sqrt(len(by_seed))
    assert rate == pytest.approx(0.05, abs=3 * max(error, 0.05 / np.sqrt(seeds)))
    assert by_seed.sum(axis=0).max() <= most


def test_a_null_cohort_has_no_difference_given_age_and_sex():
    """Truth of every part, and the brain's volume, over 100 cohorts: t given the design is centred on 0."""
    template, t = Template(SCALES["tiny"]), {}
    for seed in range(100):
        cohort = draw_cohort(template, seed, null=True)
        design, contrasts = design_of(cohort)
        pinv = np.linalg.pinv(design)
        values = {f"{kind} {part}": v for kind, parts in cohort.truth.items() for part, v in parts.items()}
        for name, y in (*values.items(), ("brain", cohort.table["brain_volume"].astype(float))):
            b = pinv @ y
            variance = ((y - design @ b) ** 2).sum() / (len(y) - 4)
            t.setdefault(name, []).append(
                contrasts[0] @ b / np.sqrt(variance * contrasts[0] @ pinv @ pinv.T @ contrasts[0])
            )
    for name, values in t.items():
        assert abs(np.mean(values)) < 0.4, name
        assert 0.75 < np.std(values) < 1.25, name


def test_refusals(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert main(["phantom", str(tmp_path / "full"), "--scale", "tiny"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert list((tmp_path / "full").iterdir()) == [tmp_path / "full" / "notes.txt"]
    assert list(tmp_path.iterdir()) == [tmp_path / "full"]
    assert main(["phantom"]) == 2
    capsys.readouterr()
    assert main(["phantom", str(tmp_path / "x"), "--scale", "huge"]) == 2
    expected = "gpuvox phantom: --scale is 'huge'; expected full, small or tiny; see gpuvox phantom --help\n"
    assert capsys.readouterr().err == expected
    assert main(["phantom", str(tmp_path / "full" / "notes.txt" / "x")]) == 2
    assert Path(tmp_path / "x").exists() is False


def test_an_interrupted_phantom_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuvox.study.phantom._write_tables", interrupt)
    assert main(["phantom", str(tmp_path / "out"), "--scale", "tiny", "--quiet"]) == 130
    assert list(tmp_path.iterdir()) == []


def test_help_says_that_an_empty_folder_is_filled(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["phantom", "--help"])
    assert "folder to make, or an empty one" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "empty").mkdir()
    with _new_folder(str(tmp_path / "empty")) as folder:
        Path(folder, "file").touch()
    assert (tmp_path / "empty" / "file").exists()
