"""`gpuvox study` on the phantom: findings, what runs again, and what is said of mistakes."""

import hashlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpuvox import files
from gpuvox.cli.main import main
from gpuvox.reporter import Reporter
from gpuvox.study import phantom
from gpuvox.study.pipeline.config import read_config
from gpuvox.study.pipeline.pipeline import Pipeline, execute
from gpuvox.study.pipeline.steps.cohort import participants_stage
from gpuvox.study.report.own import own_ledger, way_out

FEW = 32
"""Participants of studies that need no more: most of their time goes into reading headers."""


def write_study(folder, **changes):
    """The example with few permutations, and other changes of lines."""
    text = (folder / "study.toml").read_text()
    for key, value in ({"permutations": "200", "bootstrap": "200", "threads": "1"} | changes).items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
    (folder / "study.toml").write_text(text)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "cohort"
    phantom.write(folder, seed=0, scale="tiny")
    write_study(folder, device='"cpu"')
    return folder


@pytest.fixture(scope="module")
def finished(cohort):
    assert main(["study", str(cohort / "study.toml"), "--quiet"]) == 0
    return cohort / "results"


@pytest.fixture
def copy(finished, tmp_path):
    """A study that is done, to be changed."""
    shutil.copytree(finished.parent, tmp_path / "cohort", copy_function=shutil.copy2)
    return tmp_path / "cohort"


@pytest.fixture
def fresh(cohort, tmp_path):
    """The cohort's first participants without results; their images are links."""
    for name in ("template", *(f"sub-{i:03d}" for i in range(1, FEW + 1))):
        (tmp_path / name).symlink_to(cohort / name)
    rows = (cohort / "participants.tsv").read_text().splitlines()
    (tmp_path / "participants.tsv").write_text("\n".join(rows[: FEW + 1]) + "\n")
    shutil.copy(cohort / "study.toml", tmp_path)
    return tmp_path


def only(folder, *sections):
    """Keep these sections of a study."""
    parts = re.split(r"(?m)^(?=\[)", (folder / "study.toml").read_text())
    kept = [part for part in parts if part.startswith(tuple(f"[{name}]" for name in sections))]
    assert len(kept) == len(sections)
    (folder / "study.toml").write_text("".join(kept))


@pytest.fixture
def given_maps(cohort, finished, tmp_path):
    return study_of_one_image(cohort, finished, tmp_path)


@pytest.fixture(scope="module")
def small(cohort, finished, tmp_path_factory):
    """The results of such a study of regions alone."""
    folder = study_of_one_image(cohort, finished, tmp_path_factory.mktemp("small"))
    only(folder, "study", "groups", "maps.fa", "template", "rois")
    assert main(["study", str(folder / "study.toml"), "--quiet"]) == 0
    return folder / "results"


def study_of_one_image(cohort, finished, tmp_path):
    """A study of one 4D image of everybody, groups coded 0 and 1, and no covariates."""
    (tmp_path / "template").symlink_to(cohort / "template")
    shutil.copy(finished / "maps" / "iron.nii.gz", tmp_path / "fa.nii.gz")
    people = table(cohort / "participants.tsv")
    people["group"] = (people["group"] == "MS").astype(int)
    people[["participant_id", "group", "age", "edss"]].to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "study.toml").write_text("""
[study]
table = "people.csv"
device = "cpu"
[groups]
order = ["1", "0"]
[maps.fa]
image = "fa.nii.gz"
[template]
mask = "template/deepgray.nii.gz"
labels = "template/labels.nii.gz"
names = "template/labels.tsv"
[voxelwise]
permutations = 60
[clusters]
[rois]
[[regression]]
title = "adjusted"
outcome = "edss"
each = ["putamen.fa", "fa_1_lt_0.7"]
adjusted = ["putamen.fa"]
subset = "group == 1"
bootstrap = 0
[report]
zscores = ["putamen.*"]
""")
    return tmp_path


def table(path):
    return pd.read_csv(path, sep="\t", na_values="n/a")


def run(capsys, folder, *options):
    capsys.readouterr()
    status = main(["study", str(folder / "study.toml"), "--quiet", *options])
    out, err = capsys.readouterr()
    return status, out, err


def ran(out):
    return [re.sub(r"^\[.*?\] ", "", line) for line in out.splitlines() if re.match(r"\[.*\]", line)]


def again(out):
    """Names of the stages that were not skipped."""
    return [line.split(":")[0] for line in ran(out) if not line.endswith(": unchanged")]


def test_other_columns_with_paths_are_relative_to_the_results(fresh):
    """Also those that no stage reads."""
    people = pd.read_csv(fresh / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    people["other"] = people["r1"]
    people.to_csv(fresh / "participants.tsv", sep="\t", index=False)
    pipeline = Pipeline(read_config(fresh / "study.toml"), ())
    (fresh / "results").mkdir()
    participants_stage(pipeline.inputs).work(Reporter(print, print))
    written = table(fresh / "results" / "participants.tsv")
    assert written["other"][0] == f"../{people['r1'][0]}"
    for column in ("other", "r1", "qsm"):
        assert all((fresh / "results" / path).is_file() for path in written[column])
    same = [name for name in people.columns if name not in ("other", "qsm", "r1", "jacobian", "csf")]
    pd.testing.assert_frame_equal(written[same], table(fresh / "participants.tsv")[same])


# -- the report of one's own study ----------------------------------------------------------------------------------


def report(capsys, study, out, *options):
    capsys.readouterr()
    status = main(["report", str(study), "--out", str(out), *options])
    return status, capsys.readouterr().err


@pytest.mark.long
def test_the_report_of_ones_own_study_needs_no_option(small, tmp_path, capsys, monkeypatch):
    """The mask lies beside the results. Of a study of another user it is not read."""
    study, out = small / "study.json", tmp_path / "report.html"
    assert json.loads(study.read_text())["mask"].startswith("..")
    assert report(capsys, study, out) == (0, "")
    assert "The mask has" in out.read_text()
    out.unlink()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    status, err = report(capsys, study, out)
    assert (status, out.exists()) == (2, False)
    assert "mask names ../template/" in err


@pytest.mark.parametrize(
    "way",
    [
        "copied", "edited",
        *(pytest.param(way, marks=pytest.mark.long) for way in ("ledger fitted", "another file", "no ledger")),
        pytest.param("linked ledger", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_study_that_was_not_left_as_it_was_run_is_taken_for_one_from_others(small, tmp_path, capsys, way):
    folder = tmp_path / "received"
    shutil.copytree(small.parent, folder, copy_function=shutil.copy2)
    study, ledger = folder / "results" / "study.json", folder / "results" / ".gpuvox-study.json"
    if way in ("edited", "another file"):  # the last stage runs there: it is the user's own until then
        (folder / "results" / "report.html").unlink()
        assert run(capsys, folder)[0] == 0
        assert report(capsys, study, tmp_path / "own.html") == (0, "")
    before = study.read_text()
    if way == "ledger fitted":  # to the place, as one who knows where it will lie could
        content = json.loads(ledger.read_text())
        kept = content["hashes"]
        for path in small.parent.rglob("*"):
            there = folder / path.relative_to(small.parent)
            old, new = (hashlib.sha256(os.fsencode(os.path.realpath(each))).hexdigest() for each in (path, there))
            kept |= {new: kept[old]} if old in kept else {}
        assert hashlib.sha256(os.fsencode(os.path.realpath(study))).hexdigest() in kept
        ledger.write_text(json.dumps(content))
    if way == "no ledger":
        ledger.unlink()
    if way == "linked ledger":
        ledger.rename(tmp_path / "ledger")
        ledger.symlink_to(tmp_path / "ledger")
    if way == "edited":
        study.write_text(before.replace('"Iron and', '"Lead and'))
    if way == "another file":
        (tmp_path / "secret.tsv").write_text("index\tname\n")
        study.write_text(json.dumps(json.loads(before) | {"names": str(tmp_path / "secret.tsv")}))
    status, err = report(capsys, study, tmp_path / "out.html")
    assert (status, (tmp_path / "out.html").exists()) == (2, False)
    assert "which is outside" in err
    words = shlex.split(err.split("if the study is yours or you trust it: gpuvox report ")[1])
    assert words == [str(study), "--within", os.path.relpath(folder)]
    assert report(capsys, words[0], tmp_path / "out.html", *words[1:])[0] == (2 if way == "another file" else 0)


def test_no_folder_of_all_that_one_has_is_proposed(tmp_path, monkeypatch):
    """A study from others that lies in the home folder and names what lies there."""
    study, named = tmp_path / "results" / "study.json", tmp_path / "notes.tsv"
    study.parent.mkdir()
    assert "--within" in way_out(study, named).split(": ")[1]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert way_out(study, named) == "give --within a folder that holds all, if you trust the study"
    assert "gpuvox report" not in way_out(study, Path("/etc/passwd"))


def test_a_study_of_ones_own_reads_what_it_read_and_nothing_else(finished, tmp_path):
    (tmp_path / "secret").write_text("")
    ledger = own_ledger(finished / "study.json")
    assert ledger.knows(finished.parent / "template" / "labels.tsv")
    assert not ledger.knows(tmp_path / "secret")
    assert not ledger.knows("/etc/passwd")


# -- findings -------------------------------------------------------------------------------------------------------


def test_the_findings_of_the_study_are_recovered(finished):
    found = {path.stem: table(path) for path in (finished / "clusters").glob("*C.tsv")}
    assert len(found) == 8
    where = {name: " ".join(each["regions"].fillna("")) for name, each in found.items()}
    assert "pallidum" in where["iron_MS_gt_HC"]
    assert "putamen" in where["iron_MS_gt_HC"]
    assert "caudate" in where["iron_MS_gt_HC"]
    assert "thalamus_pulvinar" in where["iron_MS_lt_HC"]
    assert "thalamus_pulvinar" in where["ironmass_MS_lt_HC"]
    assert "pulvinar" in where["myelinmass_MS_lt_HC"]
    for name in ("myelin_MS_gt_HC", "myelin_MS_lt_HC", "myelinmass_MS_gt_HC"):
        assert not len(found[name])
    bulk = table(finished / "groups" / "deep_gray_matter_structures.tsv").set_index("variable")
    for structure in ("thalamus", "caudate", "putamen", "pallidum"):
        assert bulk.loc[f"{structure}.volume", "d"] < 0
        assert bulk.loc[f"{structure}.volume", "p_corrected"] < 0.05
    assert bulk.loc["pallidum.iron", "d"] > 0
    nuclei = table(finished / "groups" / "nuclei_of_the_thalamus.tsv").set_index("variable")
    assert nuclei.loc["thalamus_pulvinar.iron", "d"] < 0
    assert nuclei["d"].idxmin() == "thalamus_pulvinar.volume"


def test_tables_agree_with_each_other(finished):
    features = table(finished / "features.tsv")
    rois = table(finished / "rois.tsv")
    one = rois[(rois["structure"] == "putamen") & rois["side"].isin(["both", "none"]) & (rois["map"] == "iron")]
    np.testing.assert_allclose(features["putamen.iron"], one.set_index("participant_id")["mean"].to_numpy())
    subjects = table(finished / "clusters" / "iron_MS_lt_HC_subjects.tsv")
    first = subjects[subjects.cluster == 1]["eigenvariate_z"].to_numpy()
    np.testing.assert_allclose(features["iron_MS_lt_HC.1"], first)
    z = table(finished / "zscores.tsv")
    controls = z[z["group"] == "HC"].drop(columns=["participant_id", "group"])
    n = len(controls)
    np.testing.assert_allclose(controls.mean(), 0, atol=1e-6)
    np.testing.assert_allclose((controls**2).sum() / (n - 3), 1, rtol=1e-6)


def test_z_scores_by_their_definition(finished):
    features, z = table(finished / "features.tsv"), table(finished / "zscores.tsv")
    hc = (features["group"] == "HC").to_numpy()
    X = np.column_stack([np.ones(len(features)), features["age"], features["sex"] == "M"]).astype(float)
    y = features["thalamus_medial.iron"].to_numpy()
    b = np.linalg.solve(X[hc].T @ X[hc], X[hc].T @ y[hc])
    residual = y - X @ b
    np.testing.assert_allclose(
        z["thalamus_medial.iron"], residual / np.sqrt(residual[hc] @ residual[hc] / (hc.sum() - 3)), rtol=1e-5
    )


def test_the_underlay_is_the_mean(finished):
    image = files.read_header(finished / "underlay")
    grid = image.grid(np.ones(image.shape[:3], dtype=bool))
    names = table(finished.parent / "participants.tsv")["participant_id"]
    every = [files.read_map(finished.parent / name / "r1", grid) for name in names]
    np.testing.assert_allclose(files.read_map(finished / "underlay", grid), np.mean(every, axis=0), rtol=1e-5)


@pytest.mark.long
def test_odd_maps_are_told(copy, capsys):
    header = files.read_header(copy / "sub-003" / "qsm")
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    values = files.read_map(copy / "sub-003" / "qsm", grid)
    mask = files.read_map(copy / "template" / "deepgray", grid) > 0
    values[np.flatnonzero(mask)[:7]] = 0  # background
    values[~mask] *= 1.0
    (copy / "sub-003" / "qsm.nii").unlink()
    files.write_map(copy / "sub-003" / "qsm", values, grid, header)
    for path in (copy / "sub-003").glob("qsm.nii.gz"):
        rows = (copy / "participants.tsv").read_text().replace("sub-003/qsm.nii", f"sub-003/{path.name}")
        (copy / "participants.tsv").write_text(rows)
    status, _, err = run(capsys, copy)
    assert status == 0
    assert "iron of sub-003 is 0 in" in err
    assert "sub-003 is 0 in" in (copy / "results" / "report.html").read_text()


# -- what runs again --------------------------------------------------------------------------------------------------


def test_nothing_runs_twice(copy, capsys):
    # Not even where the folder was moved.
    status, out, _ = run(capsys, copy)
    assert status == 0
    assert again(out) == []
    status, out, _ = run(capsys, copy, "--dry-run")
    assert all(line.startswith("skip") for line in out.splitlines())


@pytest.mark.long
def test_a_corrected_outcome_leaves_the_voxels_alone(copy, capsys):
    path = copy / "participants.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    at = rows[0].index("edss")
    rows[1][at] = "6.5" if rows[1][at] != "6.5" else "2"
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    status, out, _ = run(capsys, copy)
    assert status == 0
    assert "voxelwise iron" not in again(out)
    assert "regression edss_and_iron" in again(out)
    assert "report" in again(out)


def test_other_permutations_leave_the_maps_alone(copy, capsys):
    write_study(copy, permutations="150")
    _, out, _ = run(capsys, copy, "--dry-run")
    for name in ("iron", "myelin", "ironmass", "myelinmass"):
        assert f"run   voxelwise {name}: permutations changed" in out
    assert "skip  iron and myelin" in out
    assert "skip  regions" in out


def test_parts_can_be_left_out(fresh, capsys):
    """Maps and regions only; nothing is left of what was there before."""
    kept = re.split(r"(?m)^(?=\[)", (fresh / "study.toml").read_text())
    wanted = ("[study]", "[groups]", "[ironmyelin]", "[rois]", "[template]")
    (fresh / "study.toml").write_text("".join(part for part in kept[1:] if part.startswith(wanted)))
    status, _, err = run(capsys, fresh)
    assert status == 0, err
    assert (fresh / "results" / "rois.tsv").exists()
    assert (fresh / "results" / "report.html").exists()
    assert not (fresh / "results" / "voxelwise").exists()


@pytest.mark.long
def test_a_subset(fresh, capsys):
    text = (fresh / "study.toml").read_text().replace('subset = ""  ', 'subset = "age <= 45"  ', 1)
    (fresh / "study.toml").write_text(text)
    status, _, err = run(capsys, fresh)
    assert status == 0, err
    people = table(fresh / "participants.tsv")
    expected = people[people["age"] <= 45]["participant_id"].tolist()
    assert table(fresh / "results" / "participants.tsv")["participant_id"].tolist() == expected
    assert files.count_volumes(fresh / "results" / "maps" / "iron") == len(expected)


@pytest.mark.long
def test_a_null_cohort(tmp_path, capsys):
    phantom.write(tmp_path / "null", seed=3, scale="tiny", null=True)
    write_study(tmp_path / "null", device='"cpu"')
    status, out, err = run(capsys, tmp_path / "null")
    assert status == 0, err
    for path in (tmp_path / "null" / "results" / "clusters").glob("*C.tsv"):
        assert not len(table(path)), path
    assert out.lower().count("nothing survived") == 8
    page = (tmp_path / "null" / "results" / "report.html").read_text()
    assert page.lower().count("nothing survived") >= 8
    assert "no cluster of iron_MS_lt_HC survived" in err


def test_what_names_clusters_that_are_not_there_is_a_note(given_maps, capsys):
    """Tests have run by then: that nothing survived must not be the end of them."""
    text = (given_maps / "study.toml").read_text()
    text = text.replace("[clusters]", "[clusters]\nextent = 5000").split("[report]")[0]
    clusters = '"fa_1_lt_0.1", "fa_1_lt_0.*"'
    text += f"""
[demographics]
variables = ["age", "fa_1_lt_0.1"]

[[group_table]]
title = "mixed"
variables = [{clusters}, "putamen.fa"]
families = {{ clusters = [{clusters}], regions = ["putamen.fa"] }}

[[group_table]]
title = "clusters"
variables = [{clusters}]

[[regression]]
title = "of a cluster"
outcome = "fa_1_lt_0.1"
each = ["putamen.fa"]

[report]
zscores = [{clusters}, "putamen.fa"]
"""
    (given_maps / "study.toml").write_text(text)
    status, _, err = run(capsys, given_maps)
    assert status == 0, err
    results = given_maps / "results"
    assert table(results / "groups" / "mixed.tsv")["variable"].tolist() == ["putamen.fa"]
    assert not (results / "groups" / "clusters.tsv").exists()
    assert "nothing to compare" in json.loads((results / "groups" / "clusters.json").read_text())["note"]
    (model,) = results.glob("models/of?a?cluster/regression.json")
    assert "nothing to model" in json.loads(model.read_text())["note"]
    assert "putamen.fa" in table(results / "zscores.tsv")
    assert "group table clusters: nothing to compare" in err
    assert (results / "report.html").exists()


def test_a_report_never_tells_of_what_is_no_longer_there(given_maps, capsys, monkeypatch):
    """It goes as soon as another stage runs, and comes back only at the end."""
    from gpuvox.errors import InputError
    from gpuvox.study.measures import rois

    def fails(*arguments):
        raise InputError("a failure")

    only(given_maps, "study", "groups", "maps.fa", "template", "rois")
    assert run(capsys, given_maps)[0] == 0
    assert (given_maps / "results" / "report.html").exists()
    change(given_maps / "study.toml", "[rois]", '[rois]\nmerge = { back = "thalamus_p*" }')
    with monkeypatch.context() as patch:
        patch.setattr(rois, "execute", fails)
        assert run(capsys, given_maps)[0] == 2
    assert not (given_maps / "results" / "report.html").exists()
    assert not (given_maps / "results" / "study.json").exists()
    status, _, err = run(capsys, given_maps)
    assert status == 0, err
    assert (given_maps / "results" / "report.html").exists()


def test_other_labels_make_another_report(copy, capsys):
    names = copy / "template" / "labels.tsv"
    names.write_text(names.read_text().replace("thalamus_lamina", "thalamus_laminae"))
    _, out, _ = run(capsys, copy, "--dry-run")
    assert "run   report" in out
    assert "run   regions: names" in out


def without_clusters(folder):
    """Remove what takes permutations."""
    text = (folder / "study.toml").read_text().replace("[voxelwise]\npermutations = 60\n[clusters]\n", "")
    (folder / "study.toml").write_text(text.replace('"putamen.fa", "fa_1_lt_0.7"', '"putamen.fa"'))


def test_images_of_ones_own_and_groups_of_numbers(given_maps, capsys):
    change(given_maps / "study.toml", '"putamen.*"', '"putamen.*", "*"')
    people = pd.read_csv(given_maps / "people.csv").assign(
        site=lambda t: np.where(t["age"] < 40, "Genova", "Roma")
    )
    people.to_csv(given_maps / "people.csv", index=False)
    status, _, err = run(capsys, given_maps)
    assert status == 0, err
    assert "site has no z-score: it is text; expected numbers" in err
    assert "fa_1_lt_0.7 is excluded: no cluster 7 of fa_1_lt_0 survived" in err
    assert "putamen.volume has no z-score" in err
    data = table(given_maps / "results" / "models" / "adjusted" / "regression_coefficients.tsv")
    features = table(given_maps / "results" / "features.tsv")
    reference = features.loc[features["group"] == 0, "putamen.fa"]
    patients = features[features["group"] == 1]
    z = (patients["putamen.fa"] - reference.mean()) / reference.std(ddof=1)
    slope = np.polyfit(z, patients["edss"], 1)[0]
    row = data[data["predictor"] == "putamen.fa"].iloc[0]
    np.testing.assert_allclose(row["B"], slope, rtol=1e-5)


def test_what_is_not_to_be_adjusted_enters_as_it_is(given_maps, capsys):
    """Covariates of the groups are no reason to make z-scores of a model's predictors."""
    without_clusters(given_maps)
    change(given_maps / "study.toml", 'order = ["1", "0"]', 'order = ["1", "0"]\ncovariates = ["age"]')
    change(given_maps / "study.toml", 'adjusted = ["putamen.fa"]', "adjusted = []")
    status, _, err = run(capsys, given_maps)
    assert status == 0, err
    found = table(given_maps / "results" / "models" / "adjusted" / "regression_coefficients.tsv")
    features = table(given_maps / "results" / "features.tsv")
    patients = features[features["group"] == 1]
    slope = np.polyfit(patients["putamen.fa"], patients["edss"], 1)[0]
    np.testing.assert_allclose(found.set_index("predictor").loc["putamen.fa", "B"], slope, rtol=1e-5)


def test_a_subset_takes_its_volumes_along(given_maps, capsys):
    """Of an image of everybody; one of some people only could be anybody's."""
    without_clusters(given_maps)
    change(given_maps / "study.toml", 'order = ["1", "0"]', 'order = ["1", "0"]\nsubset = "age < 45"')
    status, _, err = run(capsys, given_maps)
    assert status == 0, err
    chosen = pd.read_csv(given_maps / "people.csv")["age"] < 45
    header = files.read_header(given_maps / "fa")
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    everyone = files.read_cohort(given_maps / "fa.nii.gz", grid)
    np.testing.assert_array_equal(
        files.read_cohort(given_maps / "results" / "maps" / "fa.nii.gz", grid), everyone[chosen]
    )
    shutil.copy(given_maps / "results" / "maps" / "fa.nii.gz", given_maps / "fa.nii.gz")
    status, _, err = run(capsys, given_maps)
    assert status == 2
    assert f"maps.fa.image: {given_maps / 'fa.nii.gz'} has {chosen.sum()} volumes; the table has 146 rows" in err


@pytest.mark.parametrize("kind", ["jacobian", "lesions", "labels"])
def test_a_subset_takes_volumes_of_regions_along(given_maps, capsys, kind):
    """4D Jacobians, lesions and labels of everybody, as the maps: each participant's own are used."""
    people = pd.read_csv(given_maps / "people.csv")
    header = files.read_header(given_maps / "template" / "labels")
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    labels = files.read_map(given_maps / "template" / "labels", grid)
    made = {
        "jacobian": lambda i: np.full(grid.n_voxels, 1 + i / 100),
        "lesions": lambda i: (np.arange(grid.n_voxels) + i) % 7 == 0,
        "labels": lambda i: np.where((np.arange(grid.n_voxels) + i) % 5 == 0, 0, labels),
    }[kind]
    values = np.array([made(i) for i in range(len(people))], dtype=np.float32)
    with files.open_map(given_maps / "own", grid, header, len(people)) as (_, write):
        for each in values:
            write(each)
    text = (given_maps / "study.toml").read_text()
    text = "".join(
        part for part in re.split(r"(?m)^(?=\[)", text) if not part.startswith(("[vox", "[clu", "[[", "[rep"))
    )
    text = text.replace('order = ["1", "0"]', 'order = ["1", "0"]\nsubset = "age < 45 and edss != 3"')
    (given_maps / "study.toml").write_text(text.replace("[rois]", f'[rois]\n{kind} = "own.nii.gz"'))
    people.loc[people["group"] == 0, "edss"] = 0.0
    people.loc[people.index[people["age"] < 45][:2], "edss"] = np.nan
    people.to_csv(given_maps / "people.csv", index=False)
    status, out, err = run(capsys, given_maps)
    assert status == 0, err
    unknown = (people["age"] < 45) & people["edss"].isna()
    chosen = ((people["age"] < 45) & (people["edss"] != 3) & ~unknown).to_numpy()
    false = int((~chosen & ~unknown).sum())
    said = f"excludes {(~chosen).sum()} of {len(people)} rows: false for {false}, missing values in 2"
    assert said in out
    record = json.loads((given_maps / "results" / "study.json").read_text())["cohort"]
    assert record["left_out"] == {"subset": false, "undecided": 2}
    rows = table(given_maps / "results" / "rois.tsv")
    names = pd.read_csv(given_maps / "template" / "labels.tsv", sep="\t").set_index("name")["index"]
    label = names[next(name for name in names.index if "left" in name.lower() and "putamen" in name.lower())]
    found = rows[(rows["structure"] == "putamen") & (rows["side"] == "left")].set_index("participant_id")
    assert found.index.tolist() == people["participant_id"][chosen].tolist()
    fa = files.read_cohort(given_maps / "fa.nii.gz", grid)
    voxel = np.prod(grid.voxel_size) / 1000
    for i in np.flatnonzero(chosen):
        own = values[i] if kind == "labels" else labels
        weight = values[i] if kind == "jacobian" else np.ones(grid.n_voxels)
        inside = (own == label) & ((values[i] == 0) if kind == "lesions" else True)
        row = found.loc[people["participant_id"][i]]
        np.testing.assert_allclose(row["volume"], weight[own == label].sum() * voxel, rtol=1e-5)
        np.testing.assert_allclose(row["mean"], fa[i][inside].mean(dtype=float), rtol=1e-5)
    assert again(run(capsys, given_maps)[1]) == []


def test_an_image_of_regions_has_a_volume_for_each_row(given_maps, capsys):
    header = files.read_header(given_maps / "template" / "labels")
    shutil.copy(header.path, given_maps / "own.nii.gz")
    change(given_maps / "study.toml", "[rois]", '[rois]\njacobian = "own.nii.gz"')
    status, _, err = run(capsys, given_maps)
    assert status == 2
    assert "rois.jacobian: " in err
    assert "has 1 volume; the table has 146 rows" in err


# -- mistakes ---------------------------------------------------------------------------------------------------------


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("study.toml", "seed = 1", "sead = 1", "line 19: study.sead: this key is unknown; did you mean 'seed'?"),
        ("study.toml", 'column = "group"', 'column = "grp"', "participants.tsv has no column 'grp'"),
        ("study.toml", '["age", "sex"]', '["age", "sexe"]', "line 26: groups.covariates: "),
        ("study.toml", '["age", "sex"]', '["age", "age"]', "expected each once (not 'age' twice)"),
        ("study.toml", 'subset = ""      ', 'subset = "agee > 3"', "line 28: groups.subset: the condition"),
        ("study.toml", 'table = "participants.tsv"', 'table = "people.tsv"', "line 17: study.table: "),
        ("study.toml", 'device = "cpu"', 'device = "cuda"', "line 20: study.device: "),
        ("study.toml", 'labels = "template/labels', 'labels = "template/lables', "line 50: template.labels: "),
        ("study.toml", 'names = "template/labels', 'names = "template/lables', "line 51: template.names: there is"),
        ("study.toml", "[template]", "[maps.iron]\nimage = 'x'\n[template]", "maps.iron: is a map of [ironmyelin]"),
        ("study.toml", "[template]", "[maps.volume]\nimage = 'x'\n[template]", "maps.volume: is the name of a measure"),
        ("study.toml", "[template]", "[maps.fa]\nimage = 'template/csf'\n[template]", "maps.fa.image: "),
        ("participants.tsv", "\tage\t", "\tsex\t", "has two columns named 'sex'"),
        ("study.toml", 'order = ["MS", "HC"]', 'order = ["MS", "NC"]', "expected MS or NC"),
        ("study.toml", 'mask = "template/deepgray.nii.gz"', 'mask = "template/deep.nii.gz"', "deep"),
        ("study.toml", 'maps = ["iron", "myelin", "ironmass"', 'maps = ["iron", "fat"', "voxelwise.maps: names 'fat'"),
        ("study.toml", 'merge = { thalamus = "thalamus_*', 'merge = { thalamus = "thalamuss_*', "no structure matches"),
        ("study.toml", 'outcome = "edss"', 'outcome = "eds"', "regression[1].outcome: there is no variable 'eds'"),
        ("study.toml", '"pallidum.iron", "putamen', '"palidum.iron", "putamen', "no variable 'palidum.iron'"),
        ("study.toml", '"iron_MS_lt_HC.*"', '"iron_HC_lt_MS.*"', "no variable 'iron_HC_lt_MS.*'"),
        ("study.toml", 'subset = "age <= 50"', 'subset = "ag <= 50"', "group_table[3].subset: the condition 'ag <= "),
        ("study.toml", 'reference = "group == \'HC\'"', 'reference = "grp == 1"', "groups.reference: the condition"),
        ("study.toml", 'zscores = ["thalamus_*.iron"', 'zscores = ["talamus_*.iron"', "no variable 'talamus_*.iron'"),
        ("participants.tsv", "sub-002\t", "sub-001\t", "participant_id sub-001 twice"),
        ("participants.tsv", "sub-004/r1.nii", "sub-999/r1.nii", "sub-999/r1.nii"),
        ("participants.tsv", "sub-004/r1.nii", "n/a", "has no r1 of sub-004"),
        ("participants.tsv", "sub-002\tMS", "sub-002\tCIS", "line 25: groups.order: sub-002 has 'CIS' in column group"),
        ("participants.tsv", "participant_id", "id", "no column 'participant_id'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_and_leave_nothing(fresh, capsys, file, old, new, message):
    change(fresh / file, old, new)
    status, _, err = run(capsys, fresh)
    assert status == 2
    assert message in err
    lines = [line for line in err.strip().splitlines() if not line.startswith("Warning")]
    assert len(lines) == 1
    assert not (fresh / "results").exists() or not (fresh / "results" / "voxelwise").exists()


CORRELATION = 'x = ["edss", "disease_duration"]'
TESTS = 'tests = { edss = "mannwhitney" }'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('outcome = "edss"', 'outcome = "phenotype"', "regression[1].outcome: phenotype is text ('"),
        ('outcome = "edss"', 'outcome = "ed*"', "regression[1].outcome: is 'ed*'; expected the name of one variable"),
        ('outcome = "edss"', 'outcome = "brain_volume"', "regression[1].blocks.global: brain_volume is the outcome"),
        ('outcome = "edss"', 'outcome = "participant_id"', "regression[1].outcome: there is no variable 'participant_"),
        ('each = ["pallidum.iron"', 'each = ["lesion_load"', "each: lesion_load is a predictor of global already"),
        ('log = ["lesion_load"]', 'log = ["phenotype"]', "regression[1].log: phenotype is text ('"),
        ('adjusted = ["brain_volume"', 'adjusted = ["age"', "regression[1].adjusted: the list of predictors has nothi"),
        ('global = ["brain_volume"', 'global = ["age"', "regression[1].adjusted: the list of predictors has nothing"),
        ('["brain_volume", "lesion_load"] }', '["age", "brain_volume"] }\nadjust = ["age"]', "regression[1].adjust: "),
        ('blocks = { global', 'blocks = { "phase" = ["group"], global', "regression[1]: group is MS in all "),
        (CORRELATION, 'x = ["phenotype"]', "correlation[1].x: phenotype is text with 3 values; numbers or two"),
        ('y = ["pallidum.iron"', 'y = ["age", "pallidum.iron"', "correlation[1].given: age is of y already"),
        (CORRELATION, 'x = ["age", "edss"]', "correlation[1].given: age is of x already"),
        (CORRELATION, 'x = ["edss", "group"]', "correlation[1]: group is MS in all "),
        (TESTS, 'tests = { edss = "mannwhitney", age_ = "welch" }', "demographics.tests.age_: age_ is not among the v"),
        (TESTS, 'tests = { phenotype = "welch" }', "demographics.tests.phenotype: phenotype is text ('"),
        (TESTS, 'tests = { age = "fisher" }', "demographics.tests.age: age: Fisher's exact test is for at most"),
        ('variables = ["age", "sex", "ph', 'variables = ["group", "sex", "ph', "demographics.variables: group is the "),
        ('volume = ["caudate.volume"', 'volume = ["caudate.iron"', "group_table[1].families: caudate.iron is in two f"),
        ('volume = ["caudate.volume"', 'volume = ["phenotype"', "group_table[1].families.volume: phenotype is text"),
        ('volume = ["caudate.volume"', 'volume = ["age"', "group_table[1].families.volume: age is the group, or a c"),
        ("variables = []", 'variables = ["edss"]', "group_table[1].families: the family volume has nothing named"),
        ('covariates = ["age", "sex"]  # [', 'covariates = ["ages"] # [', "group_table[1].covariates: there is no var"),
        ('covariates = ["age", "sex"]  # [', 'covariates = ["edss"] # [', "group_table[1].covariates: 0 participants "),
        ('subset = "age <= 50"', 'subset = "age <= 5"', "group_table[3].subset: no participant of the study fulfils"),
        ('zscores = ["thalamus_*.iron"', 'zscores = ["sex"', "report.zscores: sex is text ('"),
        ('"thalamus_*.volume"]', '"thalamus_*.volume_normalised"]', "there is no variable 'thalamus_*.volume_normalis"),
        ('"thalamus_pulvinar.iron"]\nreduction', '"sex"]\nreduction', "sample_size[1].variables: sex is the group, or"),
        ('head_size = ""', 'head_size = "sex"', "rois.head_size: "),
        ('head_size = ""', 'head_size = "edss"', "rois.head_size: "),
        ('head_size = ""', 'head_size = "scale"', "rois.head_size: "),
        ('names = "template/labels.tsv"', 'names = "participants.tsv"', "template.names: "),
        ('names = ""  ', 'names = "participants.tsv"', "rois.names: "),
        ('r1_units = ""', 'r1_units = "Hz"', "ironmyelin.r1_units: is 'Hz'; expected 1/s or 1/ms or s or ms"),
        ('r1_units = ""', 'r1_units = "1/ms"', "ironmyelin.r1_units: "),
        ('r1_units = ""', 'r1_units = "ms"', "ironmyelin.r1_units: "),
        ('qsm_units = ""', 'qsm_units = "ppb"', "ironmyelin.qsm_units: "),
        ("from_field = 3 ", "from_field = 7 ", "ironmyelin.from_field: "),
        ("to_field = 0 ", "to_field = 3 ", "ironmyelin.to_field: "),
        ("fwhm = 1 ", "csf = 1 ", "ironmyelin.csf: this key is unknown"),
        ('model = ""', 'model = "participants.tsv"', "participants.tsv is not a model"),
        ('reference = "group == \'HC\'"', 'reference = "age > 99"', "groups.reference: no participant of the study fu"),
        ('reference = "group == \'HC\'"', 'reference = "sex == \'F\'"', "groups.reference: the covariates are coll"),
    ],
)  # fmt: skip
def test_mistakes_with_variables_are_found_before_anything_runs(fresh, capsys, old, new, message):
    """With their key and line: nothing is written, and no permutation spent."""
    change(fresh / "participants.tsv", "RRMS", "PPMS")
    change(fresh / "study.toml", old, new)
    status, _, err = run(capsys, fresh)
    assert status == 2, err
    assert message in err
    assert re.search(r"study\.toml, line (\d+): ", err), err
    assert not (fresh / "results").exists()
    assert "--" not in err


def test_masses_that_the_units_of_the_model_do_not_give_are_missed_before_anything_runs(fresh, capsys):
    """There is no mass of iron in ppm, but one of myelin as a fraction."""
    (fresh / "model.toml").write_text(
        'version = 2\nname = "x"\ncitation = "y"\niron = "ppm"\nmyelin = "1"\n'
        '[contrasts.qsm]\nunits = "ppm"\niron = 1.43e-4\nmyelin = -0.0685\nconstant = -0.025\n'
        '[contrasts.r1]\nunits = "1/s"\niron = 2.23e-4\nmyelin = 1.07\nconstant = -1.13\nfield = 7.0\n'
    )
    change(fresh / "study.toml", 'model = ""', 'model = "model.toml"')
    change(fresh / "study.toml", 'volume = ["caudate.volume"', 'volume = ["caudate.myelin.mass", "caudate.volume"')
    change(fresh / "study.toml", '["caudate.iron.mass"', '["caudate.iron_mass"')
    _, _, err = run(capsys, fresh, "--dry-run")
    assert "caudate.iron_mass" in err
    assert "caudate.myelin.mass" not in err
    change(fresh / "study.toml", '["caudate.iron_mass"', '["caudate.iron.mass"')
    status, _, err = run(capsys, fresh)
    assert status == 2
    assert "there is no variable 'caudate.iron.mass'" in err
    assert not (fresh / "results").exists()


@pytest.mark.parametrize(
    ("column", "value", "old", "new", "message"),
    [
        ("lesion_load", "-1", "", "", "regression[1].log: lesion_load of sub-002 is -1; a logarithm needs p"),
        ("lesion_load", "0", "", "", "regression[1].log: lesion_load of sub-002 is 0; a logarithm needs positive valu"),
        ("edss", "high", "", "", "demographics.tests.edss: edss is text ('high' of sub-002); numbers are nee"),
        ("edss", "inf", "", "", "demographics.variables: the column 'edss' has an infinite value"),
        ("age", "forty", "", "", "line 26: groups.covariates: "),
        ("age", "n/a", "", "", "line 26: groups.covariates: "),
        ("brain_volume", "n/a", 'head_size = ""', 'head_size = "brain_volume"', "brain_volume of sub-002 is 'n/a'; e"),
        ("caudate.iron", "0", "", "", "study.table: the column 'caudate.iron' of "),
        ("brain_volume", "0", 'head_size = ""', 'head_size = "brain_volume"', "rois.head_size: "),
    ],
)  # fmt: skip
def test_values_that_will_not_do_are_found_before_anything_runs(fresh, capsys, column, value, old, new, message):
    people = pd.read_csv(fresh / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    people.loc[1, column] = value
    people.to_csv(fresh / "participants.tsv", sep="\t", index=False)
    if old:
        change(fresh / "study.toml", old, new)
    status, _, err = run(capsys, fresh)
    assert status == 2, err
    assert message in err
    assert re.search(r"study\.toml, line (\d+): ", err), err
    assert not (fresh / "results").exists()


def test_a_logarithm_of_a_group_table_may_be_of_zero_but_not_less(given_maps, capsys):
    (given_maps / "study.toml").write_text(
        (given_maps / "study.toml").read_text()
        + '[[group_table]]\ntitle = "t"\nvariables = ["load", "putamen.fa"]\nlog = ["load"]\n'
    )
    people = pd.read_csv(given_maps / "people.csv")
    for least, status in ((-0.5, 2), (0, 0)):
        people["load"] = [least, *np.arange(1, len(people))]
        people.to_csv(given_maps / "people.csv", index=False)
        assert run(capsys, given_maps, "--dry-run")[0] == status
    people["load"] = -1 - people["load"]
    people.to_csv(given_maps / "people.csv", index=False)
    _, _, err = run(capsys, given_maps, "--dry-run")
    assert "group_table[1].log: load of sub-001 is -1; a logarithm needs values that are not negative" in err


def test_a_map_that_is_not_there_is_told_before_what_it_would_have(fresh, capsys):
    change(fresh / "study.toml", '"myelin", "ironmass", "myelinmass"]', '"fb"]')
    change(fresh / "study.toml", "variables = []", 'variables = ["myelin_MS_lt_HC.1"]')
    status, _, err = run(capsys, fresh)
    assert status == 2
    assert "voxelwise.maps: names 'fb'; there are iron, myelin, ironmass, myelinmass" in err


def test_what_only_values_tell_is_told_with_key_and_line_too(given_maps, capsys):
    """Not with an option of the command that found it."""
    without_clusters(given_maps)
    change(given_maps / "study.toml", "bootstrap = 0", 'bootstrap = 0\nlog = ["putamen.fa"]')
    header = files.read_header(given_maps / "fa")
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    values = -files.read_cohort(given_maps / "fa.nii.gz", grid)
    with files.open_map(given_maps / "fa", grid, header, len(values)) as (_, write):
        for each in values:
            write(each)
    status, _, err = run(capsys, given_maps)
    assert status == 2
    assert re.search(r"study\.toml, line \d+: regression\[1\]\.log: putamen\.fa of sub-\d+ is -", err), err


def test_an_example_is_printed(capsys):
    assert main(["study", "--example"]) == 0
    assert "[groups]" in capsys.readouterr().out


def test_a_file_is_needed(capsys):
    assert main(["study"]) == 2
    assert "--example" in capsys.readouterr().err


@pytest.mark.long
def test_permutations_that_are_done_are_not_done_again(given_maps, capsys):
    """A test that is cut off in the middle goes on there; after a change of settings it begins anew."""
    only(given_maps, "study", "groups", "maps.fa", "template", "voxelwise")
    write_study(given_maps, permutations="200")
    folder = given_maps / "results" / "voxelwise"

    def cut_off(test, done, total):
        if 60 <= done < total and test.startswith("t-test"):
            raise KeyboardInterrupt

    def study(progress, lines):
        pipeline = Pipeline(read_config(given_maps / "study.toml"))
        execute(pipeline, Reporter(lines.append, lines.append, *([progress] if progress else [])))

    study(None, [])
    expected = (folder / "fa_tfce_corrp_tstat1.txt").read_text()
    for change_settings in (False, True):
        for path in folder.glob("fa_*"):
            path.unlink()
        with pytest.raises(KeyboardInterrupt):
            study(cut_off, [])
        assert (folder / "fa_checkpoint.tally").exists()
        if change_settings:
            write_study(given_maps, permutations="150")
        lines = []
        study(None, lines)
        assert any("Resumed from" in line for line in lines) is not change_settings
        assert not (folder / "fa_checkpoint.tally").exists()
        found = (folder / "fa_tfce_corrp_tstat1.txt").read_text()
        assert (found == expected) is not change_settings
        assert len(found.split()) == (150 if change_settings else 200)


def test_an_interrupted_study_goes_on(given_maps, capsys, monkeypatch):
    from gpuvox.study.statistics import clinical

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clinical, "execute", interrupted)
        assert run(capsys, given_maps)[0] == 130
    assert (given_maps / "results" / "features.tsv").exists()
    assert not (given_maps / "results" / "models" / "adjusted" / "regression.tsv").exists()
    status, out, _ = run(capsys, given_maps)
    assert status == 0
    assert again(out)[0] == "regression adjusted"


def test_a_site_that_a_model_has_not_is_no_reason_to_refuse_it(given_maps, capsys):
    """Covariates are those of its participants; a reference group that cannot tell them apart is refused."""
    people = pd.read_csv(given_maps / "people.csv")
    patients = people.index[people["group"] == 1]
    people["site"] = np.where(people.index % 2, "a", "b")
    people.loc[patients[:5], "site"] = "c"
    people.to_csv(given_maps / "people.csv", index=False)
    change(given_maps / "study.toml", 'order = ["1", "0"]', 'order = ["1", "0"]\ncovariates = ["site"]')
    without_clusters(given_maps)
    status, _, err = run(capsys, given_maps, "--dry-run")
    assert status == 2
    assert "regression[1].adjusted: the covariates are collinear in the reference group" in err
    change(given_maps / "study.toml", 'subset = "group == 1"', "subset = \"group == 1 and site != 'c'\"")
    status, _, err = run(capsys, given_maps)
    assert status == 0, err
