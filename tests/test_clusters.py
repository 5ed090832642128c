"""Cluster read-outs: by hand, against scipy, SPM's definition written out, and on the phantom."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from gpuvox.cli import main
from gpuvox.findings.atlas import Atlas, read_atlas
from gpuvox.findings.clusters import describe, eigenvariate, find_clusters, to_table
from gpuvox.findings.labels import Region
from gpuvox.grid import Grid
from gpuvox.study.statistics.adjustment import adjusted
from tests.conftest import overriding, save

SHAPE = (8, 7, 6)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


def example():
    """Two clusters, of 12 and 4 voxels, and a single voxel."""
    corrected = np.full(SHAPE, 0.2, dtype=np.float32)
    corrected[1:4, 1:3, 1:3] = 0.97
    corrected[6, 5:7, 4:6] = 0.99
    corrected[0, 6, 0] = 0.999
    corrected[5, 0, 0] = 0.95  # not under .05
    statistic = np.random.default_rng(0).uniform(3, 5, SHAPE).astype(np.float32)
    statistic[2, 1, 2] = 9
    return corrected, statistic


def test_clusters_by_hand():
    corrected, statistic = example()
    grid = Grid(np.ones(SHAPE, dtype=bool), (2.0, 2.0, 3.0), AFFINE)
    labels = find_clusters(grid.to_vector(corrected), grid, extent=2)
    image = grid.to_volume(labels)
    assert set(np.unique(image)) == {0, 1, 2}
    assert (image[1:4, 1:3, 1:3] == 1).all()
    assert (image[6, 5:7, 4:6] == 2).all()
    assert len(np.unique(find_clusters(grid.to_vector(corrected), grid))) == 4
    first, second = describe(labels, grid.to_vector(corrected), grid, grid.to_vector(statistic))
    assert (first.n_voxels, first.volume, second.n_voxels) == (12, 144.0, 4)
    assert first.p == pytest.approx(0.03, abs=1e-6)
    assert first.statistic == 9
    assert first.peak == (10 - 4, -20 + 2, 5 + 6)
    where = np.argwhere(image == 1)
    weights = statistic[image == 1].astype(float)
    centre = nib.affines.apply_affine(AFFINE, np.average(where, axis=0, weights=weights))
    np.testing.assert_allclose(first.centre, centre)
    plain = describe(labels, grid.to_vector(corrected), grid)[0]
    np.testing.assert_allclose(plain.centre, nib.affines.apply_affine(AFFINE, where.mean(axis=0)))
    assert np.isnan(plain.statistic)


def test_shares_of_an_atlas():
    corrected, _ = example()
    grid = Grid(np.ones(SHAPE, dtype=bool))
    atlas = np.zeros(SHAPE, dtype=int)
    atlas[1:3, 1:3, 1:3], atlas[3, 1, 1] = 4, 9
    labels = find_clusters(grid.to_vector(corrected), grid, extent=5)
    (found,) = describe(
        labels, grid.to_vector(corrected), grid, None, Atlas(grid.to_vector(atlas), {4: Region("putamen", "left")})
    )
    assert found.shares == {"left_putamen": 8 / 12, "elsewhere": 3 / 12, "9": 1 / 12}


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_clusters_are_scipys(connectivity):
    rng = np.random.default_rng(connectivity)
    mask = rng.random((12, 11, 10)) < 0.9
    corrected = np.where(mask, rng.random(mask.shape), 0).astype(np.float32)
    grid = Grid(mask)
    ours = grid.to_volume(find_clusters(grid.to_vector(corrected), grid, 0.4, 3, connectivity))
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    theirs, n = ndimage.label((corrected > 0.6) & mask, structure)
    sizes = np.bincount(theirs.ravel(), minlength=n + 1)
    np.testing.assert_array_equal(ours > 0, (theirs > 0) & (sizes[theirs] >= 3))
    assert sorted(np.bincount(ours[ours > 0])[1:]) == sorted(s for s in sizes[1:] if s >= 3)
    assert list(np.bincount(ours[ours > 0])[1:]) == sorted((s for s in sizes[1:] if s >= 3), reverse=True)


@pytest.mark.parametrize("shape", [(20, 7), (7, 20), (5, 1), (1, 5)])
def test_the_eigenvariate_is_spms(shape):
    """u₁·s₁/√V with the sign of the sum of v₁, by the singular value decomposition itself."""
    Y = np.random.default_rng(shape[0]).normal(-2, 1, shape)
    u, s, vt = np.linalg.svd(Y, full_matrices=False)
    expected = u[:, 0] * s[0] / np.sqrt(shape[1]) * np.sign(vt[0].sum())
    np.testing.assert_allclose(eigenvariate(Y), expected, atol=1e-9)
    # Voxels that are all alike: their common value.
    np.testing.assert_allclose(eigenvariate(np.repeat(Y[:, :1], 6, axis=1)), Y[:, 0], atol=1e-9)
    assert not eigenvariate(np.zeros(shape)).any()


def test_adjusted_values():
    rng = np.random.default_rng(0)
    n = 60
    reference = np.arange(n) < 25
    age, sex = rng.normal(40, 10, n), rng.integers(0, 2, n)
    noise = rng.normal(0, 2, n)
    z = adjusted(5 + 0.3 * age - 2 * sex + noise + 10 * ~reference, np.column_stack([age, sex]), reference)
    X = np.column_stack([np.ones(n), age, sex])
    y = 5 + 0.3 * age - 2 * sex + noise + 10 * ~reference
    b, rss, *_ = np.linalg.lstsq(X[reference], y[reference], rcond=None)
    np.testing.assert_allclose(z, (y - X @ b) / np.sqrt(rss[0] / 22))
    assert abs(z[reference].mean()) < 1e-9
    assert z[~reference].mean() > 3
    # What patients do to the covariates' slopes does not matter.
    np.testing.assert_allclose(adjusted(y + 100 * ~reference * age, X[:, 1:], reference)[reference], z[reference])
    with pytest.raises(ValueError, match="too few for 3 coefficients"):
        adjusted(y, X[:, 1:], np.arange(n) < 3)
    with pytest.raises(ValueError, match="are collinear"):
        adjusted(y, np.column_stack([age, 2 * age]), reference)


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def result(tmp_path, monkeypatch):
    corrected, statistic = example()
    rng = np.random.default_rng(1)
    data = rng.normal(10, 2, (*SHAPE, 12)).astype(np.float32)
    save(tmp_path / "corrp.nii.gz", corrected, AFFINE)
    save(tmp_path / "stat.nii.gz", statistic, AFFINE)
    save(tmp_path / "data.nii.gz", data, AFFINE)
    save(tmp_path / "atlas.nii.gz", np.where(np.arange(8)[:, None, None] < 4, 11, 50) * np.ones(SHAPE), AFFINE)
    people = [f"s{i}\t{'HC' if i < 7 else 'MS'}\t{30 + i * i % 11}\t{'F' if i % 2 else 'M'}" for i in range(12)]
    (tmp_path / "people.tsv").write_text("participant_id\tgroup\tage\tsex\n" + "\n".join(people) + "\n")
    monkeypatch.chdir(tmp_path)
    return data


COMMAND = ["clusters", "--corrected", "corrp", "--statistic", "stat", "--extent", "2", "--out", "found"]


def test_the_command(result, capsys):
    assert main(overriding(COMMAND, ["--atlas", "atlas.nii.gz"])) == 0
    assert capsys.readouterr().out == "2 clusters of at least 2 voxels with corrected p < 0.05\n"
    table = pd.read_csv("found.tsv", sep="\t")
    assert list(table.voxels) == [12, 4]
    assert table.regions[0] == "left_caudate 100 %"
    assert table.regions[1] == "right_caudate 100 %"
    assert (table.x[0], table.y[0], table.z[0]) == (6, -18, 11)
    assert np.asarray(nib.load("found.nii.gz").dataobj).max() == 2
    assert not Path("found_subjects.tsv").exists()
    assert main(overriding(COMMAND, ["--p", "0.001"])) == 0
    assert capsys.readouterr().out == "No clusters of at least 2 voxels with corrected p < 0.001\n"
    assert len(pd.read_csv("found.tsv", sep="\t")) == 0


def test_values_of_the_subjects(result):
    subjects = ["--data", "data", "--table", "people.tsv"]
    assert (
        main(
            overriding(
                COMMAND, [*subjects, "--covariates", "age,sex", "--reference", "group == 'HC' and age > 20"]
            )
        )
        == 0
    )
    table, people = pd.read_csv("found_subjects.tsv", sep="\t"), pd.read_csv("people.tsv", sep="\t")
    assert len(table) == 24
    first = table[table.cluster == 1]
    inside = result[1:4, 1:3, 1:3].reshape(12, 12).T.astype(float)
    np.testing.assert_allclose(first["mean"], inside.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(first.eigenvariate, eigenvariate(inside), rtol=1e-6)
    covariates = np.column_stack([people.age, people.sex == "M"])
    z = adjusted(first["mean"].to_numpy(), covariates, (people.group == "HC").to_numpy())
    np.testing.assert_allclose(first.mean_z, z, rtol=1e-5, atol=1e-6)
    assert main(overriding(COMMAND, [*subjects])) == 0
    assert list(pd.read_csv("found_subjects.tsv", sep="\t")) == [
        "participant_id",
        "cluster",
        "mean",
        "eigenvariate",
    ]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--corrected", "nothing"], ["nothing"]),
        (["--corrected", "stat"], ["stat", "1 - p"]),
        (["--p", "2"], ["2", "between 0 and 1"]),
        (["--data", "data"], ["--table"]),
        (["--data", "data", "--table", "people.tsv", "--covariates", "age"], ["--reference"]),
        (
            ["--data", "data", "--table", "people.tsv", "--covariates", "weight", "--reference", "age > 1"],
            ["'weight'"],
        ),
        (["--data", "data", "--table", "people.tsv", "--reference", "height > 1"], ["height > 1", "people.tsv"]),
        (["--data", "data", "--table", "people.tsv", "--reference", "age > 99"], ["0 participants"]),
        (
            ["--data", "data", "--table", "gap.tsv", "--covariates", "age", "--reference", "sex == 'F'"],
            ["gap.tsv has no age of s4"],
        ),
        (["--out", "none/x"], ["none"]),
        (["--connectivity", "7"], ["7"]),
    ],
)
def test_refusals(extra, says, result, capsys):
    Path("gap.tsv").write_text(Path("people.tsv").read_text().replace("s4\tHC\t35", "s4\tHC\tn/a"))
    assert main(overriding(COMMAND, [*extra])) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuvox clusters: ")
    assert error.count("\n") == 1
    for part in says:
        assert part in error
    assert not list(Path().glob("found*"))


def test_a_map_of_p_is_not_taken_for_1_minus_p(result, capsys):
    """As PALM writes by default: 1 where nothing is, 0 outside; read as 1 - p, nearly everything would survive."""
    corrected, _ = example()
    inside = np.zeros(SHAPE, bool)
    inside[:, :6] = True
    inside[0, 6, 0] = inside[6, 6, 4:] = True
    p = np.where(corrected > 0.5, 1 - corrected, 1) * inside
    save(Path("p.nii.gz"), p, AFFINE)
    assert main(overriding(COMMAND, ["--corrected", "p"])) == 2
    assert (
        f"p is 1 in {np.count_nonzero(p == 1)} voxels, which is possible for p, but not for 1 - p: use --scale p if"
        in (capsys.readouterr().err)
    )
    assert not list(Path().glob("found*"))
    assert main(COMMAND) == 0
    truth = Path("found.tsv").read_text()
    assert main(overriding(COMMAND, ["--corrected", "p", "--scale", "p"])) == 0
    assert Path("found.tsv").read_text() == truth
    # 1 - p of a formula may be 1; who says so is believed.
    save(Path("one.nii.gz"), np.where(corrected > 0.96, 1, corrected), AFFINE)
    assert main(overriding(COMMAND, ["--corrected", "one", "--scale", "1-p"])) == 0
    assert list(pd.read_csv("found.tsv", sep="\t").voxels) == [12, 4]


def test_images_that_meet_lie_on_one_grid(result, capsys):
    """Mask, statistic and data, each a voxel to the left."""
    moved = AFFINE + 2 * np.eye(4, k=3)
    save(Path("other.nii.gz"), np.ones((*SHAPE, 12)), moved)
    save(Path("one.nii.gz"), np.ones(SHAPE), moved)
    for option in ("--mask", "--statistic", "--data"):
        name = "other" if option == "--data" else "one"
        base = COMMAND[:3] + COMMAND[5:] if option == "--statistic" else COMMAND
        assert main([*base, "--table", "people.tsv", option, name]) == 2
        error = capsys.readouterr().err
        assert "have different affines" in error, option
        assert not list(Path().glob("found*"))


def test_images_stored_from_right_to_left_are_read_exactly(result):
    """Statistic, mask, atlas and data with their x axis reversed, their affines with them: the same tables."""
    mirrored = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    save(Path("mask.nii.gz"), (np.indices(SHAPE)[0] > 1).astype(np.uint8), AFFINE)
    for name in ("stat", "mask", "atlas", "data"):
        values = np.asarray(nib.load(f"{name}.nii.gz").dataobj)
        save(Path(f"{name}_mirrored.nii.gz"), values[::-1], mirrored)
    tables = {}
    for suffix in ("", "_mirrored"):
        images = [(f"--{name}", f"{name[:4] if name != 'atlas' else name}{suffix}") for name in
                  ("statistic", "mask", "atlas", "data")]  # fmt: skip
        line = [word for pair in images for word in pair]
        assert main(["clusters", "--corrected", "corrp", *line, "--table", "people.tsv", "--out", "found"]) == 0
        tables[suffix] = Path("found.tsv").read_text(), Path("found_subjects.tsv").read_text()
    assert tables[""] == tables["_mirrored"]


def test_an_atlas_on_another_grid_is_resampled_by_nearest_neighbour(result, capsys):
    """Against a naive loop over the voxels: the label of the nearest voxel of a finer, turned grid."""
    affine = np.array([[0, 0, 1.3, -9], [-1.1, 0, 0, 1], [0, 0.9, 0, 2], [0, 0, 0, 1]])
    shape = (25, 30, 20)
    atlas = np.random.default_rng(4).integers(0, 6, shape)
    save(Path("fine.nii.gz"), atlas, affine)
    Path("fine.tsv").write_text("index\tname\n" + "".join(f"{i}\tArea {i}; (x)\n" for i in range(1, 5)))
    grid = Grid(np.ones(SHAPE, dtype=bool), (2.0, 2.0, 3.0), AFFINE)
    found = read_atlas("fine", grid)
    expected = np.zeros(SHAPE, dtype=int)
    inverse = np.linalg.inv(affine)
    for voxel in np.ndindex(SHAPE):
        place = np.rint((inverse @ AFFINE @ [*voxel, 1])[:3]).astype(int)
        if (place >= 0).all() and (place < shape).all():
            expected[voxel] = atlas[tuple(place)]
    assert (grid.to_volume(found.labels) == expected).all()
    assert (expected > 0).sum() > 100
    assert (found.name(2), found.name(5), found.name(0)) == ("Area 2; (x)", "5", "")
    assert main(overriding(COMMAND, ["--atlas", "fine"])) == 0
    assert "fine.nii.gz is on another grid (25 × 30 × 20 voxels); its labels were" in capsys.readouterr().out
    assert "Area" in pd.read_csv("found.tsv", sep="\t").regions[0]
    far = AFFINE + 1000 * np.eye(4, k=3)
    save(Path("far.nii.gz"), atlas, far)
    assert main(overriding(COMMAND, ["--atlas", "far"])) == 2
    assert "far.nii.gz lies outside the analysis" in capsys.readouterr().err


def test_an_fsl_atlas_in_xml_names_its_image(result, capsys):
    save(Path("prob-2mm.nii.gz"), np.full(SHAPE, 2), AFFINE)
    Path("prob.xml").write_text(
        "<atlas><header><type>Probabilistic</type><images><imagefile>/gone</imagefile>"
        "<summaryimagefile>/prob-1mm</summaryimagefile></images><images><imagefile>/gone</imagefile>"
        "<summaryimagefile>/prob-2mm</summaryimagefile></images></header>"
        '<data><label index="0">Frontal Pole</label><label index="1">Insular Cortex</label></data></atlas>'
    )
    assert main(overriding(COMMAND, ["--atlas", "prob.xml"])) == 0
    table = pd.read_csv("found.tsv", sep="\t")
    assert list(table.regions) == ["Insular Cortex 100 %"] * 2
    assert list(table.peak_region) == ["Insular Cortex"] * 2
    Path("prob-2mm.nii.gz").unlink()
    assert main(overriding(COMMAND, ["--atlas", "prob.xml"])) == 2
    assert "none of the images that prob.xml names is there: /prob-1mm, /prob-2mm" in capsys.readouterr().err


def test_names_of_freesurfer_are_not_those_of_any_atlas(result):
    save(Path("aal.nii.gz"), np.where(np.arange(8)[:, None, None] < 4, 11, 99) * np.ones(SHAPE), AFFINE)
    assert main(overriding(COMMAND, ["--atlas", "aal"])) == 0
    assert list(pd.read_csv("found.tsv", sep="\t").regions) == ["11 100 %", "99 100 %"]


def test_subpeaks_against_a_loop(result):
    """Local maxima by comparing 26 neighbours, and their distances, one by one."""
    rng = np.random.default_rng(5)
    shape = (20, 18, 16)
    statistic = ndimage.gaussian_filter(rng.normal(size=shape), 1.2).astype(np.float32) * 20
    corrected = np.where(statistic > 1.5, np.float32(0.98), np.float32(0))
    grid = Grid(np.ones(shape, dtype=bool), (2.0, 2.0, 3.0), AFFINE)
    labels = find_clusters(grid.to_vector(corrected), grid, connectivity=6)
    clusters = describe(
        labels, grid.to_vector(corrected), grid, grid.to_vector(statistic), subpeaks=3, distance=9.0
    )
    image = grid.to_volume(labels)
    counts = []
    for cluster in clusters:
        voxels = [tuple(voxel) for voxel in np.argwhere(image == cluster.number)]
        maxima = []
        for voxel in voxels:
            around = [tuple(np.add(voxel, step)) for step in np.ndindex(3, 3, 3)]
            around = [tuple(np.subtract(place, 1)) for place in around]
            if all(statistic[voxel] >= statistic[place] for place in around if place in set(voxels)):
                maxima.append(voxel)
        maxima.sort(key=lambda voxel: -statistic[voxel])
        kept: list[np.ndarray] = []
        for voxel in maxima:
            place = nib.affines.apply_affine(AFFINE, voxel)
            if all(np.linalg.norm(place - other) >= 9 for other in kept):
                kept.append(place)
        counts.append(len(kept))
        np.testing.assert_allclose([peak.place for peak in cluster.peaks], kept[:4])
    assert max(counts) > 4
    assert counts.count(1) > 4
    table = to_table(clusters, {"d": np.arange(grid.n_voxels)}, 50)
    assert list(table.columns[:3]) == ["cluster", "peak", "voxels"]
    assert (table.p == 0.02).all()
    assert table.voxels.notna().sum() == len(clusters)
    assert list(table.d) == [peak.voxel for cluster in clusters for peak in cluster.peaks]


def test_labels_of_an_atlas_are_whole_numbers(result, capsys):
    save(Path("half.nii.gz"), np.full(SHAPE, 10.5), AFFINE)
    assert main(overriding(COMMAND, ["--atlas", "half"])) == 2
    assert "half.nii.gz has values that are not whole numbers; labels are expected" in capsys.readouterr().err
    atlas = np.full(SHAPE, 312782566, "i4")  # of Allen's atlas: beyond what float32 holds
    atlas[2:4] += 1
    image = nib.Nifti1Image(atlas, AFFINE)
    nib.save(image, "allen.nii.gz")
    Path("allen.csv").write_text("index,name\n312782566,left_a\n312782567,b\n")
    assert main(overriding(COMMAND, ["--atlas", "allen", "--names", "allen.csv"])) == 0
    assert pd.read_csv("found.tsv", sep="\t").regions[0] == "b 67 %; left_a 33 %"


def test_who_has_no_value_has_no_z_and_counts_nowhere():
    rng = np.random.default_rng(3)
    covariates, values = rng.normal(size=(30, 2)), rng.normal(size=30)
    reference = np.arange(30) < 20
    without = np.delete(np.arange(30), [4, 25])
    expected = adjusted(values[without], covariates[without], reference[without])
    values[[4, 25]] = np.nan
    found = adjusted(values, covariates, reference)
    np.testing.assert_allclose(found[without], expected, rtol=1e-12)
    assert np.isnan(found[[4, 25]]).all()


def test_a_z_score_needs_something_that_varies():
    covariates, reference = np.arange(12.0)[:, None], np.arange(12) < 8
    for values in (np.full(12, 3.0), 2 * np.arange(12.0) + 1):
        with pytest.raises(ValueError, match="explain all of its variance"):
            adjusted(values, covariates, reference)
