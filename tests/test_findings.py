"""Tables, figures and the report of any run, against naive computations from the files of the run."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats

import gpuvox
from gpuvox.cli.main import main
from gpuvox.errors import SettingError
from gpuvox.findings import report, tested
from gpuvox.findings.atlas import read_atlas
from gpuvox.findings.methods import paragraphs
from gpuvox.findings.references import REFERENCES, bibtex
from gpuvox.findings.runs import Run, RunTest, read_run
from gpuvox.findings.scene import Scene
from gpuvox.findings.values import GroupValues, adjusted_values
from tests.conftest import save, vest

SHAPE, N = (14, 16, 12), 16
AFFINE = np.array([[-4.0, 0, 0, 26], [0, 4, 0, -30], [0, 0, 5, -20], [0, 0, 0, 1]])
AGE = np.random.default_rng(8).uniform(20, 60, N).round(1)
PATIENT = np.arange(N) < N // 2
PERMUTATIONS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images with two clusters of a difference between groups, and runs of randomise and voxelwise."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(3)
    place = np.stack(np.indices(SHAPE), axis=-1)
    effect = 2.5 * (np.linalg.norm(place - [4, 8, 6], axis=-1) < 2.3) + 2 * (
        np.linalg.norm(place - [10, 5, 5], axis=-1) < 1.8
    )
    data = 20 + rng.normal(size=(*SHAPE, N)) + effect[..., None] * PATIENT
    mask = np.linalg.norm((place - [6.5, 7.5, 5.5]) / [7, 8, 6], axis=-1) < 1
    save(folder / "all", (data * mask[..., None]).astype(np.float32), AFFINE)
    save(folder / "centred", ((data - 19.5) * mask[..., None]).astype(np.float32), AFFINE)
    save(folder / "mask", mask.astype(np.uint8), AFFINE)
    save(folder / "anat", (100 * mask + rng.normal(size=SHAPE)).astype(np.float32), AFFINE)
    (folder / "maps").mkdir()
    ids = [f"sub-{i:02d}" for i in range(N)]
    for i, who in enumerate(ids):
        save(folder / f"maps/{who}.nii.gz", (data[..., i] * mask).astype(np.float32), AFFINE)
    pd.DataFrame({"participant_id": ids, "group": np.where(PATIENT, "MS", "HC"), "age": AGE}).to_csv(
        folder / "participants.tsv", sep="\t", index=False
    )
    vest(folder / "d.mat", np.column_stack([PATIENT, ~PATIENT, AGE - AGE.mean()]).astype(float))
    vest(folder / "d.con", [[1, -1, 0], [-1, 1, 0]], ("NumWaves", "NumContrasts"))
    vest(folder / "d.fts", [[1, 0]], ("NumWaves", "NumContrasts"))
    (folder / "rd").mkdir()
    (folder / "one").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shared = ["-n", str(PERMUTATIONS), "--seed", "4", "--quiet", "-m", "mask", "-T"]
        run = ["randomise", "-i", "all", "-o", "rd/two", "-d", "d.mat", "-t", "d.con", "-f", "d.fts", "-x", "-N"]
        assert main([*run, *shared]) == 0
        assert main(["randomise", "-i", "centred", "-o", "one/mean", "-1", *shared]) == 0
        line = ["voxelwise", "participants.tsv", "--images", "maps/{participant_id}.nii.gz", "--mask", "mask"]
        line += ["--model", "group + age", "--test", "MS - HC", "--test", "HC - MS", "--test", "age", "--fdr"]
        assert main([*line, "--out", "vw", "-n", str(PERMUTATIONS), "--seed", "4", "--quiet", "-N"]) == 0
        assert main(["report", "rd", "--underlay", "anat", "--subpeaks", "1"]) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def read(name: Path | str) -> np.ndarray:
    return np.asarray(nib.load(name).dataobj)


def parts_of(page: Path | str) -> list[str]:
    """What the table of contents lists, and the sections that there are."""
    html = Path(page).read_text()
    listed = re.findall(r'<li><a href="#([\w-]+)">', html)
    assert listed == re.findall(r'<section id="([\w-]+)"', html)
    return listed


def said(page: Path | str) -> str:
    html = re.sub(r"<(script|style)\b.*?</\1>", "", Path(page).read_text(), flags=re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html)))


def check_clusters(table: pd.DataFrame, corrected: np.ndarray, statistic: np.ndarray) -> None:
    """A table of clusters against labels of scipy."""
    labels, n = ndimage.label(np.round((1 - corrected) * PERMUTATIONS) / PERMUTATIONS < 0.05, np.ones((3, 3, 3)))
    first = table[table.voxels.notna()]
    assert len(first) == n
    sizes = ndimage.sum_labels(np.ones(SHAPE), labels, range(1, n + 1))
    assert list(first.voxels) == sorted(sizes, reverse=True)
    np.testing.assert_allclose(first.mm3, first.voxels * 80)
    for row in first.itertuples():
        voxel = np.rint(np.linalg.solve(AFFINE, [row.x, row.y, row.z, 1]))[:3].astype(int)
        inside = labels == labels[tuple(voxel)]
        assert inside.sum() == row.voxels
        assert statistic[tuple(voxel)] == statistic[inside].max() == pytest.approx(row.statistic)
        assert row.p == pytest.approx(round((1 - corrected[inside].max()) * PERMUTATIONS) / PERMUTATIONS)


def test_the_report_of_randomise_has_the_parts_that_apply(here):
    parts = ["findings", "design", "maps", "viewer", "clusters", "nulls", "methods", "record"]
    assert parts_of("rd/two_report.html") == parts
    for test in ("tstat1", "fstat1"):
        table = pd.read_csv(f"rd/two_report/{test}_clusters.tsv", sep="\t")
        check_clusters(table, read(f"rd/two_tfce_corrp_{test}.nii.gz"), read(f"rd/two_{test}.nii.gz"))
        assert len(table[table.voxels.notna()]) == 2
    text = said("rd/two_report.html")
    assert "Two of three voxelwise tests found an effect with corrected p < .05." in text
    assert "contrast 2 Nothing survived correction" in text.replace("  ", " ")
    assert "“F test 1” is an F test with 1 and 13 degrees of freedom." in text
    assert "BibTeX" in text
    pictures = {path.name for path in Path("rd/two_report").iterdir()}
    for name in ("tstat1_and_tstat2_mosaic", "tstat1_and_tstat2_1-p", "tstat1_and_tstat2_glass", "fstat1_glass"):
        assert {f"{name}.png", f"{name}.svg"} <= pictures
    assert "tstat1_mosaic.png" not in pictures


def test_values_of_participants_against_svd(here):
    """Mean and first eigenvariate of each cluster; the images are found by the record."""
    table = pd.read_csv("rd/two_report/tstat1_values.tsv", sep="\t")
    numbers, data = read("rd/two_report/tstat1_clusters.nii.gz"), read("all.nii").astype(np.float64)
    for number in (1, 2):
        Y = data[numbers == number].T
        U, S, Vt = np.linalg.svd(Y, full_matrices=False)
        expected = U[:, 0] * S[0] / np.sqrt(Y.shape[1]) * np.sign(Vt[0].sum())
        rows = table[table.cluster == number]
        np.testing.assert_allclose(rows["mean"], Y.mean(axis=1), rtol=1e-6)
        np.testing.assert_allclose(rows.eigenvariate, expected, rtol=1e-6)


def test_the_maps_of_fsl_alone(here, capsys):
    """Without our record: the same clusters, and values where the user names images and design."""
    shutil.copytree("rd", "fsl", ignore=shutil.ignore_patterns("*.json", "*report*"))
    assert main(["report", "fsl", "--subpeaks", "1", "--out", "plain.html"]) == 0
    assert "the images that were analysed are not known" in capsys.readouterr().err
    assert parts_of("plain.html") == [
        "findings",
        "maps",
        "viewer",
        "clusters",
        "nulls",
        "notes",
        "methods",
        "record",
    ]
    names = ["tstat1_clusters.tsv", "tstat2_clusters.tsv", "fstat1_clusters.tsv"]
    for name in names:
        assert Path("plain", name).read_text() == Path("rd/two_report", name).read_text()
    gpuvox.report("fsl", "named.html", data="all", design="d.mat", contrasts=Path("d.con"))
    assert "design" not in parts_of("named.html")  # the F test is not in these files
    assert Path("named/tstat1_values.svg").read_bytes() == Path("rd/two_report/tstat1_values.svg").read_bytes()


def test_one_sample_and_a_level_that_nothing_reaches(here):
    assert main(["report", "one/mean"]) == 0
    assert parts_of("one/mean_report.html") == [
        "findings",
        "design",
        "maps",
        "viewer",
        "clusters",
        "methods",
        "record",
    ]
    table = pd.read_csv("one/mean_report/tstat1_clusters.tsv", sep="\t")
    check_clusters(table, read("one/mean_tfce_corrp_tstat1.nii.gz"), read("one/mean_tstat1.nii.gz"))
    assert "60 flips of the signs" in said("one/mean_report.html")
    Path("one/mean_report/my_values.tsv").write_text("not of the report")
    assert main(["report", "one/mean", "--p", "0.01"]) == 0
    assert "No result could be significant: with 60 permutations, p cannot be below 0.0167" in said(
        "one/mean_report.html"
    )
    assert sorted(path.name for path in Path("one/mean_report").iterdir()) == [
        "files.json", "my_values.tsv", "tstat1_clusters.tsv", "tstat1_mosaic.png", "tstat1_mosaic.svg",
    ]  # fmt: skip


def test_voxelwise_writes_its_report(here):
    parts = ["findings", "design", "maps", "viewer", "clusters", "nulls", "methods", "record"]
    assert parts_of("vw/report.html") == parts
    corrected = 1 - 10.0 ** -read("vw/contrast-MSMinusHC_stat-logp_desc-tfceFWE_statmap.nii.gz").astype(float)
    statistic = read("vw/contrast-MSMinusHC_stat-t_statmap.nii.gz")
    table = pd.read_csv("vw/report/MSMinusHC_clusters.tsv", sep="\t")
    check_clusters(table, corrected, statistic)
    maps = {"estimate": "effect", "se": "se", "d": "d", "d_low": "d_desc-CI95lower", "d_high": "d_desc-CI95upper"}
    for row in table.to_dict("records"):
        voxel = np.rint(np.linalg.solve(AFFINE, [row["x"], row["y"], row["z"], 1]))[:3].astype(int)
        for column, name in maps.items():
            value = read(f"vw/contrast-MSMinusHC_stat-{name}_statmap.nii.gz")[tuple(voxel)]
            assert row[column] == pytest.approx(value, rel=1e-6)
    values = pd.read_csv("vw/report/MSMinusHC_values.tsv", sep="\t")
    assert list(values.participant_id[:2]) == ["sub-00", "sub-01"]
    numbers = read("vw/report/MSMinusHC_clusters.nii.gz")
    first = read("maps/sub-00.nii.gz")[numbers == 1].astype(float).mean()
    assert values["mean"][0] == pytest.approx(first, rel=1e-6)
    assert "TFCE, false discovery rate" in said("vw/report.html")


def test_an_atlas_and_a_correction_are_chosen(here):
    save(Path("half"), np.ones((28, 32, 24), dtype=np.int16), AFFINE @ np.diag([0.5, 0.5, 0.5, 1]))
    run = read_run("vw")
    grid = tested.read_grid(run)
    atlas = read_atlas("half", grid)
    assert "half.nii is on another grid (28 × 32 × 24 voxels)" in atlas.note
    options = tested.ClusterOptions(subpeaks=2, distance=4)
    table = tested.read_tested(run.tests[0], grid).clusters(options, atlas)[1]
    assert set(table.columns) >= {"peak", "peak_region", "d", "d_low"}
    assert (table.peak_region.dropna() == "1").all()
    controlled = tested.read_tested(run.tests[0], grid, "tfceFDR")
    expected = 10.0 ** -read("vw/contrast-MSMinusHC_stat-logp_desc-tfceFDR_statmap.nii.gz").astype(float)
    np.testing.assert_allclose(grid.to_volume(controlled.p)[grid.mask], expected[grid.mask], atol=1e-6)
    options = report.options_of(correction="tfceFDR")
    analysed = report._analyse(run.tests[0], grid, None, options)
    shown = report._shown_test(0, analysed, Scene.around(grid), options)
    assert shown.p == pytest.approx(controlled.p.min(), abs=1e-6)  # no multiple of 1 / permutations
    with pytest.raises(SettingError, match="a report has no option 'level'; it takes p, extent"):
        gpuvox.report("vw", level=0.01)


WRONG = [
    ("report maps", "maps holds no run: neither voxelwise.json, nor ROOT_randomise.json, nor a map"),
    ("report nowhere", "there is no run nowhere"),
    ("report half_done", "holds a run of gpuvox voxelwise that is not finished: there is no voxelwise.json"),
    ("report stopped/r", "the run stopped/r is not finished; gpuvox randomise --resume finishes it"),
    ("report both", "both holds 2 runs; name the output root of one: a, b"),
    ("report rd --mask other", "they must be on the same grid"),
    ("report rd --underlay other", "the underlay cannot be shown: "),
    ("report rd --correction tfce", "contrast 1 has no map of tfce; there is tfceFWE, voxFWE"),
    ("report rd --data centred", "centred is not what rd/two analysed"),
    ("report rd --data few", "few has 3 volumes; the design of rd/two has 16 rows"),
    ("report rd --design d.mat", "rd/two has a record of its design"),
    ("report rd --out report.txt", "the report report.txt is not a name of HTML"),
    ("report rd --within maps", "--within is for the report of a study"),
    ("report rd --p 2", "the level is 2.0; it must be between 0 and 1"),
    ("report study.json --p 0.01", "--p is for the report of a run; a study has it in its configuration"),
    ("report swapped", "tfce_corrp_tstat1.nii.gz has values from"),
    ("report one --atlas all", "all.nii has 16 volumes; a label image, with one, is expected"),
]  # fmt: skip


@pytest.fixture(scope="module")
def with_wrong_files(folder):
    save(folder / "other", np.ones((5, 5, 5)), AFFINE)
    save(folder / "few", np.ones((*SHAPE, 3)), AFFINE)
    (folder / "half_done" / "randomise").mkdir(parents=True)
    (folder / "half_done" / "design.tsv").write_text("participant_id\tx\n")
    for name in ("stopped", "both", "swapped"):
        (folder / name).mkdir()
    (folder / "stopped" / "r_run.tally").write_text("")
    for name in ("a", "b", "a_tfce_corrp", "b_tfce_corrp"):
        shutil.copy(folder / "rd" / "two_tstat1.nii.gz", folder / "both" / f"{name}_tstat1.nii.gz")
    for name in ("tstat1", "tfce_corrp_tstat1"):
        shutil.copy(folder / "rd" / "two_tstat1.nii.gz", folder / "swapped" / f"s_{name}.nii.gz")


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_wrong_input_is_one_sentence(here, with_wrong_files, capsys, line, message):
    before = sorted(Path().rglob("*"))
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(Path().rglob("*")) == before


# -- values adjusted for the model ----------------------------------------------------------------------------------


def test_adjusted_values_of_groups_and_covariates():
    """Against the model refitted with the adjusted values, and textbook intervals of simple models."""
    rng = np.random.default_rng(1)
    group = np.arange(30) % 3
    age, sex = rng.normal(size=30), rng.integers(0, 2, 30).astype(float)
    X = np.column_stack([group == 0, group == 1, group == 2, age, sex]).astype(float)
    y = X @ [1, 2, 4, 0.7, -2] + rng.normal(size=30)
    names = ["a", "b", "c", "age", "sex"]
    found = adjusted_values(y, X, names, np.array([[1.0, -1, 0, 0, 0]]))
    assert isinstance(found, GroupValues)
    assert list(found.values) == ["a", "b"]
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(found.means["a"][0] - found.means["b"][0], beta[0] - beta[1])
    np.testing.assert_allclose(found.values["a"].mean() - found.values["b"].mean(), beta[0] - beta[1])
    plain = adjusted_values(y, X[:, :3], names[:3], np.eye(3)[:2])
    assert isinstance(plain, GroupValues)
    pooled = np.sqrt(sum(((y[group == g] - y[group == g].mean()) ** 2).sum() for g in range(3)) / 27)
    np.testing.assert_allclose(
        plain.means["b"], (y[group == 1].mean(), stats.t.ppf(0.975, 27) * pooled / np.sqrt(10))
    )
    mean = adjusted_values(y, np.ones((30, 1)), ["mean"], np.ones((1, 1)))
    assert isinstance(mean, GroupValues)
    np.testing.assert_allclose(mean.means["mean"], (y.mean(), stats.t.ppf(0.975, 29) * stats.sem(y)))
    (slope,) = adjusted_values(y, X, names, np.eye(5)[3:4], {"age": 40.0})
    assert slope.name == "age"
    np.testing.assert_allclose(np.polyfit(slope.x, slope.y, 1)[0], beta[3], rtol=1e-9)
    np.testing.assert_allclose((slope.mean[-1] - slope.mean[0]) / np.ptp(slope.x), beta[3])
    np.testing.assert_allclose(slope.x, age + 40)
    line = stats.linregress(age, y)
    (alone,) = adjusted_values(y, np.column_stack([np.ones(30), age]), ["one", "age"], np.array([[0.0, 1]]))
    s = np.sqrt(((y - line.intercept - line.slope * age) ** 2).sum() / 28)
    half = (
        stats.t.ppf(0.975, 28)
        * s
        * np.sqrt(1 / 30 + (alone.at - age.mean()) ** 2 / ((age - age.mean()) ** 2).sum())
    )
    np.testing.assert_allclose(alone.half, half)


def test_adjusted_values_beside_columns_of_large_numbers():
    rng = np.random.default_rng(5)
    group, tiv = np.arange(60) % 2 == 1, rng.normal(1.5e7, 1.2e6, 60)
    wm = 0.3 * tiv + rng.normal(0, 7e4, 60)
    y = 5 + group + tiv / 1.5e6 + rng.normal(0, 0.1, 60)
    small = np.column_stack([~group, group, tiv / 1e6 - 1.5, wm / 1e6 - 0.45]).astype(float)
    large = np.column_stack([~group, group, tiv, wm]).astype(float)
    names, weights = ["a", "b", "tiv", "wm"], np.array([[-1.0, 1, 0, 0]])
    mine, theirs = (adjusted_values(y, X, names, weights) for X in (large, small))
    for name in ("a", "b"):
        np.testing.assert_allclose(mine.means[name], theirs.means[name], rtol=1e-6)
        np.testing.assert_allclose(mine.values[name], theirs.values[name], rtol=1e-6)


def test_adjusted_values_of_indicators_beside_a_constant_show_the_group_that_they_differ_from():
    rng = np.random.default_rng(3)
    group, age = np.arange(30) % 3, rng.normal(size=30)
    y = np.array([1.0, 2, 4])[group] + 0.7 * age + rng.normal(size=30)
    X = np.column_stack([np.ones(30), group == 1, group == 2, age]).astype(float)
    beta, names = np.linalg.lstsq(X, y, rcond=None)[0], ["one", "b", "c", "age"]
    f = adjusted_values(y, X, names, np.eye(4)[1:3])
    assert {name: len(values) for name, values in f.values.items()} == {"b": 10, "c": 10, "others": 10}
    np.testing.assert_allclose(f.means["c"][0] - f.means["others"][0], beta[2])
    np.testing.assert_allclose(f.values["b"].mean() - f.values["others"].mean(), beta[1])
    two = group < 2
    t = adjusted_values(y[two], X[two][:, [0, 1, 3]], ["one", "b", "age"], np.array([[0.0, 1, 0]]))
    assert list(t.values) == ["b = 1", "b = 0"]
    own = np.linalg.lstsq(X[two][:, [0, 1, 3]], y[two], rcond=None)[0]
    np.testing.assert_allclose(t.means["b = 1"][0] - t.means["b = 0"][0], own[1])
    assert list(adjusted_values(y, X, names, np.array([[0.0, 1, -1, 0]])).values) == ["b", "c"]
    cells = np.column_stack([group == 0, group == 1, group == 2, age]).astype(float)
    assert list(adjusted_values(y, cells, ["a", "b", "c", "age"], np.eye(4)[1:2]).values) == ["b"]


def test_adjusted_values_of_slopes_by_group_and_of_what_cannot_be_shown():
    rng = np.random.default_rng(2)
    group, age = np.arange(24) < 10, rng.normal(size=24)
    X = np.column_stack([group, ~group, age * group, age * ~group]).astype(float)
    y = X @ [1, 2, 0.5, -0.5] + rng.normal(size=24)
    slopes = adjusted_values(y, X, ["a", "b", "age[a]", "age[b]"], np.array([[0.0, 0, 1, -1]]))
    for slope, inside in zip(slopes, (group, ~group)):
        line = stats.linregress(age[inside], y[inside])
        np.testing.assert_allclose(np.polyfit(slope.x, slope.y, 1)[0], line.slope)
        np.testing.assert_allclose(np.polyfit(slope.at, slope.mean, 1), [line.slope, line.intercept])
    mixed = np.column_stack([np.ones(24), age, rng.normal(size=24)])
    assert adjusted_values(y, mixed, ["one", "x", "z"], np.array([[0.0, 1, -1]])) is None


def test_values_of_a_run_without_means_have_the_slope_that_was_tested(tmp_path, monkeypatch):
    """-D subtracts the means of data and design: a line through the origin of what they were is another model."""
    rng, shown = np.random.default_rng(4), []
    age = rng.uniform(40, 60, 14)
    values = (100 - 2 * (age - 50) + rng.normal(size=(3, 3, 3, 14))).astype(np.float32)
    monkeypatch.setattr(
        "gpuvox.findings.report.adjusted_values", lambda *args: shown.append(adjusted_values(*args)) or shown[-1]
    )
    result = gpuvox.randomise(
        values, age[:, None], np.array([[-1.0]]), mask=np.ones((3, 3, 3)), demean=True, n_permutations=100, seed=1
    )
    result.report(tmp_path / "report.html")
    mean = values.reshape(27, 14).mean(axis=0)
    np.testing.assert_allclose(
        np.polyfit(shown[0][0].at, shown[0][0].mean, 1)[0], np.polyfit(age, mean, 1)[0], rtol=1e-4
    )


# -- methods --------------------------------------------------------------------------------------------------------


def test_methods_tell_of_every_test_of_a_run():
    """Counts, schemes and settings of all records, not of the first alone."""

    def record(h, seed):
        tfce = {"H": h, "E": 0.5, "connectivity": 6}
        return {"nuisance": "freedman_lane", "seed": seed, "variance_smoothing_mm": 0, "software": {"gpuvox": "9"},
                "statistics": {"t": {"tfce": tfce, "extent": 3.1}, "F": {"tfce": None, "extent": 8.0}}}  # fmt: skip

    tests = tuple(
        RunTest(
            name, name, kind, Path("x"), {"tfceFWE": None, "clusterSizeFWE": None}, permutations=n, method=method,
            repeats=repeats, exchangeability=moves,
        )
        for name, kind, n, method, repeats, moves in (
            ("a", "t", 500, "permutations", False, "all rows may trade places"),
            ("b", "F", 500, "permutations", False, "all rows may trade places"),
            ("c", "t", 64, "sign-flips", False, "the sign of each row may change by itself"),
            ("d", "t", 99, "permutations with sign-flips", True, "the sign of each row may change by itself"),
        )
    )  # fmt: skip
    run = Run(Path("r"), "gpuvox voxelwise", tests, {}, (record(2, 1), record(3, 7)))
    text = " ".join(paragraphs(run, tested.ClusterOptions()))
    assert (
        "500 permutations of the residuals of the nuisance model (Freedman–Lane [@freedman1983]) for “a” and “b”"
        in text
    )
    assert "H = 2, E = 0.5, 6 neighbours; of t: H = 3, E = 0.5, 6 neighbours" in text
    assert (
        ", 64 flips of the signs for “c” and 99 permutations of the residuals of the nuisance model (Freedman–Lane "
        "[@freedman1983]) with flips of their signs, drawn with repeats for “d”. The sign of each row may change by "
        "itself. They were corrected"
    ) in text
    assert "t > 3.1 and F > 8" in text
    assert "seed 1 and 7." in text
    braak = replace(run, records=({"nuisance": "ter_braak"},))
    assert "500 permutations of the residuals of the full model (ter Braak)" in " ".join(
        paragraphs(braak, tested.ClusterOptions())
    )


def test_every_reference_is_an_entry_of_bibtex():
    entries = bibtex(list(REFERENCES))
    assert entries.count("@") == len(REFERENCES)
    assert "author = {Smith, S. M. and Nichols, T. E.}" in entries
    assert "pages = {83--98}" in entries
    for key in REFERENCES:
        year = re.search(rf"{{{key},.*?year = {{(\d+)}}", entries, re.DOTALL)
        assert year is not None
        assert year[1] == key[-4:]


def test_clusters_of_a_two_sided_test_have_one_sign():
    """Positive and negative voxels that touch, against labels of scipy for each sign."""
    rng = np.random.default_rng(6)
    t = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) * 12
    p = np.where(np.abs(t) > 1.2, 0.02, 0.5)
    grid = gpuvox.Grid(np.ones(SHAPE, dtype=bool), (4.0, 4.0, 5.0), AFFINE)
    maps = tested.TestedMaps(grid, grid.to_vector(t).astype(np.float32), grid.to_vector(p), 50, two_sided=True)
    labels, table = maps.clusters(tested.ClusterOptions(subpeaks=0))
    sizes, peaks = [], []
    for sign in (1, -1):
        of_sign, n = ndimage.label((p < 0.05) & (sign * t > 0), np.ones((3, 3, 3)))
        sizes += [int((of_sign == number).sum()) for number in range(1, n + 1)]
        peaks += [sign * (sign * t[of_sign == number]).max() for number in range(1, n + 1)]
    assert list(table.voxels) == sorted(sizes, reverse=True)
    assert (table.statistic < 0).any()
    np.testing.assert_allclose(sorted(table.statistic), sorted(peaks), rtol=1e-6)
    image = grid.to_volume(labels)
    assert [np.count_nonzero(image == number) for number in table.cluster] == list(table.voxels)
    assert all(len(np.unique(np.sign(t[image == number]))) == 1 for number in table.cluster)


def test_runs_are_recognised_by_their_files(here):
    assert [test.label for test in read_run("rd/two_randomise.json").tests] == ["tstat1", "tstat2", "fstat1"]
    assert read_run("vw/voxelwise.json").ids[0] == "sub-00"
    assert read_run("one").maker == "gpuvox randomise"
