"""Rows of tables and volumes of images are of the same participants, in the same order, or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import save

import gpuvox
from gpuvox import files, participants
from gpuvox.cli import main, main_randomise
from gpuvox.errors import FileError
from gpuvox.participants import Rows, canonical, compare, of_images, of_volumes

IDS = [f"sub-{i:02d}" for i in range(1, 11)]
ORDER = [3, 0, 1, 2, 4, 5, 6, 7, 8, 9]
"""Rows of the table, which is not sorted."""


@pytest.fixture
def cohort(study):
    """The study with an image of each participant, and a table whose first is the fourth."""
    data = nib.load("data.nii.gz").get_fdata()
    for i, name in enumerate(IDS):
        save(Path(f"{name}_fa.nii.gz"), data[..., i])
    rows = [(IDS[i], "MS" if i < 5 else "HC", f"{IDS[i]}_fa.nii.gz") for i in ORDER]
    table = pd.DataFrame(rows, columns=["participant_id", "group", "fa"])
    table.to_csv("p.tsv", sep="\t", index=False)
    return table


def design(*more):
    line = ["design", "--table", "p.tsv", "--group", "group", "--order", "MS,HC", "--out", "des", "--quiet"]
    assert main([*line, *more]) == 0


def run(images, *more):
    line = "-o out -m mask -d des.mat -t des.con -x -n 20 --seed 1 --quiet".split()
    return main_randomise([*line, "-i", images, *more])


def subjects(name, ids, visits=None):
    content = {"Subjects": list(ids)} | ({"Visits": visits} if visits else {})
    Path(f"{name}.json").write_text(json.dumps(content))


# -- ids ------------------------------------------------------------------------------------------------------------


def test_spellings_of_an_id():
    assert {canonical(name) for name in ("sub-01", "01", "1", " SUB-001 ")} == {"1"}
    assert canonical("MS_010b") == "ms_10b"
    compare(Rows(("sub-01", "sub-02"), "a"), Rows(("1", "2"), "b"))
    # Two that differ by their spelling alone are two.
    with pytest.raises(FileError, match="row 1 of a is S1, row 1 of b is S01"):
        compare(Rows(("S1", "S01"), "a"), Rows(("S01", "S1"), "b"))


def test_the_first_row_that_differs_is_said():
    a = Rows(("x", "y", "z"), "a.tsv")
    compare(a, None)
    compare(a, Rows(("x", "y", "z"), "b.nii"))
    with pytest.raises(
        FileError, match=r"row 2 of a\.tsv is y, volume 2 of b\.nii is z; the participants are the same"
    ):
        compare(a, Rows(("x", "z", "y"), "b.nii", "volume"))
    with pytest.raises(FileError, match=r"row 3 of a\.tsv is z, row 3 of b is w; both must have the same"):
        compare(a, Rows(("x", "y", "w"), "b"))
    with pytest.raises(FileError, match=r"b has 2 rows; a\.tsv has 3 rows, of which y is only in a\.tsv"):
        compare(a, Rows(("x", "z"), "b"))


def test_visits_are_compared_where_both_have_them():
    a = Rows(("s", "s", "t"), "a", "row", ("1", "2", "1"))
    compare(a, Rows(("s", "s", "t"), "b"))
    compare(a, Rows(("s_ses-1", "s_ses-2", "t_ses-1"), "b"))
    with pytest.raises(FileError, match="row 1 of a is s at 1, row 1 of b is s at 2"):
        compare(a, Rows(("s", "s", "t"), "b", "row", ("2", "1", "1")))
    with pytest.raises(FileError, match="row 3 of a is t at 1, row 3 of b is u_ses-1"):
        compare(a, Rows(("s_ses-1", "s_ses-2", "u_ses-1"), "b"))
    with pytest.raises(FileError, match="b has 1 Visits and 2 Subjects"):
        Rows(("s", "t"), "b", "row", ("1",))


def test_ids_in_names_of_files(tmp_path):
    known = Rows(("A1", "B2", "C10"), "d.tsv")
    for names, found in (
        (("A1.nii", "x_B2_fa.nii", "C10-r1.nii"), ("A1", "B2", "C10")),
        (("a01.nii", "b02.nii", "c10.nii"), ("A1", "B2", "C10")),
        (("A1/fa.nii", "B2/fa.nii", "C10/fa.nii"), ("A1", "B2", "C10")),
        (("A1.nii", "B2.nii", "D3.nii"), ("A1", "B2", "D3.nii")),  # one that is not in the table
        (("sub-A1_x.nii", "sub-B2_x.nii", "sub-C10_x.nii"), ("sub-A1", "sub-B2", "sub-C10")),
        (("p_A1.nii", "q_A1.nii", "r_A1.nii"), None),  # not what tells them apart
        (("p.nii", "q.nii", "C10.nii"), None),
        (("A1_B2.nii", "B2_C10.nii", "q.nii"), None),
    ):
        paths = [tmp_path / "x" / name for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        rows = of_images(paths, known)
        assert (rows and rows.ids) == found
        for path in paths:
            path.unlink()


def test_names_of_another_scheme_are_told_and_not_compared(cohort, capsys):
    table = cohort.assign(participant_id=[f"P{i}" for i in range(10)])
    table.to_csv("p.tsv", sep="\t", index=False)
    design()
    assert run("sub-*_fa.nii.gz") == 0
    said = capsys.readouterr().err
    assert "des.mat (P0, …) and sub-*_fa.nii.gz (sub-01, …) name participants differently" in said


# -- randomise ------------------------------------------------------------------------------------------------------


def test_a_pattern_in_another_order_than_the_design_is_refused(cohort, capsys):
    design("--select", "fa=fa")
    assert json.loads(Path("des_design.json").read_text())["Subjects"] == [IDS[i] for i in ORDER]
    assert run("sub-*_fa.nii.gz") == 2
    assert (
        "row 1 of des.mat is sub-04, volume 1 of sub-*_fa.nii.gz is sub-01; the participants are the same, so put one "
        "of the files into the order of the other, for example with TABLE:COLUMN" in capsys.readouterr().err
    )
    assert not list(Path().glob("out*"))
    maps = []
    for images in ("p.tsv:fa", "fa"):
        assert run(images) == 0
        maps.append(files.read_map("out_tstat1", files.read_mask("mask")))
    np.testing.assert_array_equal(*maps)
    assert capsys.readouterr().err == ""


def test_the_participants_of_a_4d_image_are_read(cohort, capsys):
    design()
    subjects("data", IDS)
    assert run("data") == 2
    assert "row 1 of des.mat is sub-04, volume 1 of data.nii.gz is sub-01" in capsys.readouterr().err
    subjects("data", [IDS[i] for i in ORDER])
    assert run("data") == 0
    subjects("data", IDS[:9])
    assert run("data") == 2
    assert "data.json names 9 Subjects; data.nii.gz has 10 volumes" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-d", "-e", "--effective_design", "--vxf", "table"])
def test_every_file_with_participants_is_compared(cohort, capsys, option):
    """The data are in the order of the ids; something else is not."""
    subjects("data", IDS)
    other = [IDS[1], IDS[0], *IDS[2:]]
    M = pd.DataFrame(np.loadtxt("design.mat", skiprows=4), columns=["a", "b", "age"])
    M.assign(participant_id=other if option == "-d" else IDS).to_csv("d.csv", index=False)
    M.assign(participant_id=other).to_csv("e.csv", index=False)
    pd.DataFrame({"block": np.repeat([1, 2], 5), "participant_id": other}).to_csv("b.csv", index=False)
    save(Path("ev.nii.gz"), nib.load("data.nii.gz").get_fdata())
    subjects("ev", other)
    pd.DataFrame({"participant_id": other, "fa": [f"{name}_fa" for name in other]}).to_csv("o.csv", index=False)
    line = "-o out -m mask -d d.csv -t design.con -x -n 20 --seed 1 --quiet -i".split()
    more = {
        "-d": ["data"], "-e": ["data", "-e", "b.csv"], "--effective_design": ["data", "--effective_design", "e.csv"],
        "--vxf": ["data", "--vxl", "3", "--vxf", "ev"], "table": ["o.csv:fa"],
    }[option]  # fmt: skip
    assert main_randomise([*line, *more]) == 2
    error = capsys.readouterr().err
    assert "sub-01" in error
    assert "sub-02" in error
    assert "the participants are the same" in error
    assert not list(Path().glob("out*"))


def test_images_of_two_voxelwise_variables_are_compared_without_a_design_that_tells(cohort, capsys):
    subjects("data", IDS)
    Path("list.txt").write_text("\n".join(f"{IDS[i]}_fa" for i in ORDER))
    line = "-i data -o out -m mask -d design.mat -t design.con -x -n 20 --seed 1 --vxl 3 --vxf list.txt"
    assert main_randomise(line.split()) == 2
    assert "volume 1 of data.nii.gz is sub-01, volume 1 of list.txt is sub-04" in capsys.readouterr().err


def test_a_json_file_of_another_design_is_refused(cohort, capsys):
    design()
    files.write_vest("des.mat", np.c_[np.arange(9) < 5, np.arange(9) >= 5])
    assert run("data") == 2
    assert "des_design.json names 10 rows of des.mat, which has 9; remove it" in capsys.readouterr().err


def test_data_frames_know_their_participants(cohort):
    M = pd.DataFrame({"MS": np.arange(10) < 5, "HC": np.arange(10) >= 5}, index=IDS).astype(float)
    settings = {"mask": "mask", "n_permutations": 5, "seed": 1, "device": "cpu"}
    images = [f"{name}_fa.nii.gz" for name in IDS]
    expected = gpuvox.randomise(images, M.to_numpy(), [1, -1], **settings)["tstat1"]
    np.testing.assert_array_equal(gpuvox.randomise(images, M, [1, -1], **settings)["tstat1"], expected)
    by_column = M.assign(participant_id=IDS).reset_index(drop=True)
    np.testing.assert_array_equal(gpuvox.randomise(images, by_column, [1, -1], **settings)["tstat1"], expected)
    np.testing.assert_array_equal(
        gpuvox.randomise(images, M.reset_index(drop=True), pd.Series({"HC": -1, "MS": 1}), **settings)["tstat1"],
        expected,
    )
    for other in (M.iloc[ORDER], by_column.iloc[ORDER]):
        with pytest.raises(
            FileError, match="row 1 of the design is sub-04, volume 1 of the list of images is sub-01"
        ):
            gpuvox.randomise(images, other, [1, -1], **settings)
    blocks = pd.Series(np.repeat([1, 2], 5), index=[IDS[i] for i in ORDER])
    with pytest.raises(
        FileError, match="row 1 of the design is sub-01, row 1 of the exchangeability blocks is sub-04"
    ):
        gpuvox.randomise(images, M, [1, -1], blocks=blocks, **settings)
    with pytest.warns(UserWarning, match=r"sub-01_fa\.nii\.gz appears twice among the images of the data"):
        gpuvox.randomise([*images[:9], images[0]], M.to_numpy(), [1, -1], **settings)


# -- the other commands ---------------------------------------------------------------------------------------------


@pytest.fixture
def sidecar(cohort):
    """`data` says whose its volumes are; the table `p.tsv` has another order, `s.tsv` the same."""
    subjects("data", IDS)
    save(Path("labels.nii.gz"), nib.load("mask.nii.gz").get_fdata() * 10)
    save(Path("corrp.nii.gz"), nib.load("mask.nii.gz").get_fdata() * 0.99)
    cohort.sort_values("participant_id").to_csv("s.tsv", sep="\t", index=False)
    return cohort


COMMANDS = {
    "rois": "rois --labels labels --map iron=data --out o.tsv --quiet --table",
    "clusters": "clusters --corrected corrp --data data --out o --table",
    "design": "design --group group --out o --select data=o_maps --quiet --table",
}


def regional():
    """The means of one region in the table of ``gpuvox rois``."""
    return pd.read_csv("o.tsv", sep="\t").query("side == 'left'")["mean"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_join_the_volumes_of_a_4d_image_with_the_table(sidecar, capsys, command):
    """Also of a table of some participants only, in another order than the volumes."""
    sidecar.iloc[[8, 0, 3, 6]].to_csv("few.tsv", sep="\t", index=False)
    inside = nib.load("mask.nii.gz").get_fdata() > 0
    data = nib.load("data.nii.gz").get_fdata()[inside]
    tables = ("s", "p") if command == "clusters" else ("s", "p", "few")
    for name in tables:
        assert main([*COMMANDS[command].split(), f"{name}.tsv"]) == 0
        expected = data[:, [IDS.index(who) for who in pd.read_csv(f"{name}.tsv", sep="\t").participant_id]]
        if command == "design":
            found = nib.load("o_maps.nii.gz").get_fdata()[inside]
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            assert of_volumes("o_maps").ids == tuple(pd.read_csv(f"{name}.tsv", sep="\t").participant_id)
            continue
        means = regional() if command == "rois" else pd.read_csv("o_subjects.tsv", sep="\t")["mean"]
        np.testing.assert_allclose(means, expected.mean(axis=0), rtol=1e-5)
        assert means.nunique() == expected.shape[1]
    for path in Path().glob("o*"):
        path.unlink()
    sidecar.replace("sub-04", "sub-11").to_csv("q.tsv", sep="\t", index=False)
    assert main([*COMMANDS[command].split(), "q.tsv"]) == 2
    assert "data.nii.gz has no volume of sub-11, a row of q.tsv" in capsys.readouterr().err
    assert not list(Path().glob("o*"))


VISITS = pd.DataFrame({"participant_id": np.repeat(IDS[:5], 2), "session": ["pre", "post"] * 5})
"""Ten rows; the volumes of `data` are of `pre` of the five participants, then of `post`."""


def test_volumes_of_visits_join_by_visit(sidecar, capsys):
    subjects("data", IDS[:5] * 2, ["ses-pre"] * 5 + ["ses-post"] * 5)
    inside = nib.load("mask.nii.gz").get_fdata() > 0
    data = nib.load("data.nii.gz").get_fdata()[inside].mean(axis=0).reshape(2, 5)
    VISITS.assign(group=["MS", "HC"] * 5).to_csv("v.tsv", sep="\t", index=False)
    assert main([*COMMANDS["rois"].split(), "v.tsv", "--visit", "session"]) == 0
    np.testing.assert_allclose(regional(), data.T.reshape(-1), rtol=1e-5)
    late = ["--subset", "session == 'post'", "--group", ""]
    assert main([*COMMANDS["design"].split(), "v.tsv", *late]) == 0
    np.testing.assert_allclose(nib.load("o_maps.nii.gz").get_fdata()[inside].mean(axis=0), data[1], rtol=1e-5)
    subjects("data", IDS[:5] * 2)
    assert main([*COMMANDS["rois"].split(), "v.tsv", "--visit", "session"]) == 2
    assert "data.nii.gz has sub-01 twice, and nothing tells its volumes apart" in capsys.readouterr().err
    subjects("data", IDS)  # one volume of each, and nobody knows of which visit
    assert main([*COMMANDS["design"].split(), "v.tsv", *late]) == 2
    assert "v.tsv has sub-01 twice, and nothing tells its rows apart" in capsys.readouterr().err


def test_volumes_without_visits_are_taken_in_the_order_of_the_table(sidecar):
    subjects("data", VISITS.participant_id)
    VISITS.to_csv("v.tsv", sep="\t", index=False)
    inside = nib.load("mask.nii.gz").get_fdata() > 0
    assert main([*COMMANDS["rois"].split(), "v.tsv", "--visit", "session"]) == 0
    expected = nib.load("data.nii.gz").get_fdata()[inside].mean(axis=0)
    np.testing.assert_allclose(regional(), expected, rtol=1e-5)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_image_of_two_participants_is_told(sidecar, capsys, command):
    table = sidecar.assign(fa=["sub-01_fa.nii.gz", "./sub-01_fa.nii.gz", *sidecar["fa"][2:]])
    table.to_csv("t.tsv", sep="\t", index=False)
    images = "t.tsv:fa" if command == "clusters" else "fa"
    line = (
        COMMANDS[command]
        .replace("=data", "=fa")
        .replace("data=", "fa=")
        .replace("--data data", f"--data {images}")
    )
    assert main([*line.split(), "t.tsv"]) == 0
    said = capsys.readouterr().err
    assert "sub-01_fa.nii.gz is the image both of sub-04 and of sub-01" in said or (
        command == "clusters" and "sub-01_fa.nii.gz occurs twice" in said
    )


def test_what_is_selected_says_whose_it_is(sidecar):
    design("--select", "fa=chosen", "--subset", "group == 'HC'", "--group", "", "--order", "")
    assert of_volumes("chosen").ids == tuple(IDS[i] for i in ORDER if i >= 5)


def test_longitudinal_designs_and_images_say_whose_they_are(sidecar, capsys):
    rows = [(IDS[i % 5], f"ses-{1 + i // 5}", f"{IDS[i]}_fa") for i in range(10)]
    pd.DataFrame(rows, columns=["participant_id", "session", "fa"]).to_csv("v.tsv", sep="\t", index=False)
    assert main("longitudinal --table v.tsv --visit session --map fa=fa --out long --quiet".split()) == 0
    expected = Rows(tuple(np.repeat(IDS[:5], 2)), "", "", ("ses-1", "ses-2") * 5)
    visits = of_volumes("long_fa_visits")
    assert (visits.ids, visits.visits) == (expected.ids, expected.visits)
    assert of_volumes("long_fa_change").ids == tuple(IDS[:5])
    line = (
        "-o out -x -n 5 --seed 1 --quiet -e long_visit.grp -d long_visit.mat -t long_visit.con -i long_fa_visits"
    )
    assert main_randomise(line.split()) == 0
    subjects("long_fa_visits", visits.ids, ["ses-2", "ses-1"] * 5)
    capsys.readouterr()
    assert main_randomise(line.split()) == 2
    assert "row 1 of long_visit.mat is sub-01 at ses-1, volume 1 of long_fa_visits.nii.gz is sub-01 at ses-2" in (
        capsys.readouterr().err
    )


LONG = "-o out -x -n 30 --seed 1 --quiet -e long_visit.grp -d long_visit.mat -t long_visit.con -i"


@pytest.mark.parametrize(
    ("visits", "names"), [("ses-1,ses-2", "ses-01,ses-02"), ("1,2", "ses-1,ses-2"), ("m06,m12", "M6,M12")]
)
def test_visits_in_the_names_of_images_are_compared(cohort, capsys, visits, names):
    """The participants are in order, and their two visits are exchanged."""
    visits, names = visits.split(","), names.split(",")
    data = nib.load("data.nii.gz").get_fdata()
    images = [f"{IDS[i // 2]}_{names[i % 2]}_fa.nii.gz" for i in range(10)]
    for i, name in enumerate(images):
        save(Path(name), data[..., i])
    table = pd.DataFrame({"participant_id": np.repeat(IDS[:5], 2), "visit": visits * 5, "fa": images})
    table.to_csv("v.tsv", sep="\t", index=False)
    assert main("longitudinal --table v.tsv --visit visit --out long --quiet".split()) == 0
    swapped = [*images[:2], images[3], images[2], *images[4:]]
    table.assign(fa=swapped).to_csv("w.tsv", sep="\t", index=False)
    Path("right.txt").write_text("\n".join(images))
    Path("wrong.txt").write_text("\n".join(swapped))
    for source in ("right.txt", "v.tsv:fa"):
        assert main_randomise([*LONG.split(), source]) == 0
        assert capsys.readouterr().err == ""
    # A pattern sorts M12 before M6.
    assert main_randomise([*LONG.split(), f"sub-*_{names[0][0]}*_fa.nii.gz"]) == (2 if names[0] == "M6" else 0)
    capsys.readouterr()
    for source, kind, origin in (("wrong.txt", "volume", "wrong.txt"), ("w.tsv:fa", "row", "w.tsv")):
        assert main_randomise([*LONG.split(), source]) == 2
        told = f"row 3 of long_visit.mat is sub-02 at {visits[0]}, {kind} 3 of {origin} is sub-02 at "
        assert told in capsys.readouterr().err


def test_visits_of_another_scheme_are_told_and_not_compared(cohort, capsys):
    data = nib.load("data.nii.gz").get_fdata()
    images = [f"{IDS[i // 2]}_ses-{'ab'[i % 2]}.nii.gz" for i in range(10)]
    for i, name in enumerate(images):
        save(Path(name), data[..., i])
    rows = pd.DataFrame({"participant_id": np.repeat(IDS[:5], 2), "visit": ["before", "after"] * 5})
    rows.to_csv("v.tsv", sep="\t", index=False)
    line = "longitudinal --table v.tsv --visit visit --visits before,after --out long --quiet"
    assert main(line.split()) == 0
    Path("list.txt").write_text("\n".join(images))
    assert main_randomise([*LONG.split(), "list.txt"]) == 0
    assert "long_visit.mat (before, …) and list.txt (ses-a, …) name visits differently" in capsys.readouterr().err
    with pytest.raises(FileError, match="row 1 of a is s at 1, row 1 of b is s at 3"):  # both say so themselves
        compare(Rows(("s",), "a", "row", ("1",)), Rows(("s",), "b", "row", ("3",)))


def test_subjects_that_nobody_named_are_not_numbered(tmp_path, monkeypatch, capsys):
    """``ironmyelin`` of 4D images: their sidecars are compared, and without any none are made up."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    save(Path("qsm.nii.gz"), rng.normal(0.03, 0.02, size=(6, 6, 6, 3)))
    save(Path("r1.nii.gz"), 0.9 + rng.normal(0, 0.01, size=(6, 6, 6, 3)))
    line = "ironmyelin --qsm qsm --r1 r1 --out maps --from-field 3 --reference none --quiet".split()
    assert main(line) == 0
    assert "Subjects" not in json.loads(Path("maps/iron.json").read_text())
    subjects("qsm", "abc")
    assert main(line) == 0
    assert json.loads(Path("maps/iron.json").read_text())["Subjects"] == ["a", "b", "c"]
    subjects("r1", "acb")
    assert main(line) == 2
    assert "volume 2 of qsm.nii.gz is b, volume 2 of r1.nii.gz is c" in capsys.readouterr().err


def test_names_of_images_decide_only_where_all_are_found(tmp_path):
    assert participants.repeated([tmp_path / "a", tmp_path / "b"]) == ""
    assert participants.repeated([tmp_path / "a", tmp_path / "x" / ".." / "a"]) == str(tmp_path / "x" / ".." / "a")


def test_what_design_writes_has_its_names_in_the_record(cohort):
    table = cohort.assign(group=["a", "b", "c", "a", "b", "c", "a", "b", "c", "a"])
    table.to_csv("p.tsv", sep="\t", index=False)
    design("--order", "a,b,c", "--select", "fa=fa")
    assert "Name" not in Path("des.fts").read_text()  # as FSL writes it
    assert run("fa", "-f", "des.fts", "-F", "3") == 0
    names = json.loads(Path("out_randomise.json").read_text())["names"]
    assert names["evs"] == ["a", "b", "c"]
    assert names["contrasts"][:2] == ["a > b", "a < b"]
    assert names["f_tests"] == ["group"]


def test_ids_that_became_floats():
    """A column of ids of which one was missing is written by pandas as 1.0, 2.0 …"""
    compare(Rows(("1.0", "10.0"), "a"), Rows(("sub-01", "sub-10"), "b"))
    with pytest.raises(FileError, match=r"row 1 of a is 1\.0, row 1 of b is 10"):
        compare(Rows(("1.0", "10.0"), "a"), Rows(("10", "1"), "b"))


def test_a_copy_of_a_design_keeps_its_participants(cohort, capsys):
    design()
    Path("des.mat").rename("copy.mat")
    line = "-o out -m mask -d copy.mat -t des.con -x -n 20 --seed 1 --quiet -i".split()
    assert main_randomise([*line, "sub-*_fa.nii.gz"]) == 2
    assert "row 1 of copy.mat is sub-04, volume 1 of sub-*_fa.nii.gz is sub-01" in capsys.readouterr().err
    assert main_randomise([*line, "p.tsv:fa"]) == 0


def test_a_table_beside_a_4d_image_names_its_volumes(cohort, capsys):
    design()
    pd.DataFrame({"participant_id": IDS}).to_csv("data.tsv", sep="\t", index=False)
    assert run("data") == 2
    assert "row 1 of des.mat is sub-04, volume 1 of data.tsv is sub-01" in capsys.readouterr().err
    pd.DataFrame({"participant_id": IDS[:9]}).to_csv("data.tsv", sep="\t", index=False)
    assert run("data") == 2
    assert "data.tsv has 9 rows, and data.nii.gz beside it 10 volumes" in capsys.readouterr().err
    Path("data.tsv").write_text("region\tvalue\na\t1\n")
    assert of_volumes("data") is None


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Images and voxelwise EVs of ten participants; a design with names for them that no file has."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in IDS:
        for kind in ("fa", "gm"):
            save(Path(f"{name}_{kind}.nii.gz"), rng.normal(size=(4, 4, 4)))
    design = pd.DataFrame(
        {"MS": [1, 0] * 5, "HC": [0, 1] * 5, "ev": range(10)}, index=[f"P{i}x" for i in range(10)]
    )
    return [f"{name}_fa.nii.gz" for name in IDS], [f"{name}_gm.nii.gz" for name in IDS], design


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("load", [lambda names: names, lambda names: [nib.load(name) for name in names]])
def test_images_are_compared_with_each_other_where_the_design_has_other_names(pairs, load):
    images, evs, design = pairs
    settings = {"contrasts": [1, -1, 0], "n_permutations": 5, "seed": 1}
    gpuvox.randomise(load(images), design, voxelwise={2: load(evs)}, **settings)
    with pytest.raises(FileError, match=r"volume 1 of the list of images is sub-01, volume 1 .* is sub-10"):
        gpuvox.randomise(load(images), design, voxelwise={2: load(evs[::-1])}, **settings)


@pytest.mark.filterwarnings("ignore")
def test_images_in_memory_are_those_of_the_files_that_they_were_read_from(pairs):
    images, _, design = pairs
    settings = {"contrasts": [1, -1, 0], "n_permutations": 5, "seed": 1}
    design.index = IDS[::-1]
    with pytest.raises(FileError, match="row 1 of the design is sub-10, volume 1 of the list of images is sub-01"):
        gpuvox.randomise([nib.load(name) for name in images], design, **settings)
    values = np.stack([nib.load(name).get_fdata() for name in images], axis=3)
    save(Path("all.nii.gz"), values)
    subjects("all", IDS)
    with pytest.raises(FileError, match=r"row 1 of the design is sub-10, volume 1 of all\.nii\.gz is sub-01"):
        gpuvox.randomise(nib.load("all.nii.gz"), design, **settings)
    gpuvox.randomise(nib.Nifti1Image(values, np.eye(4)), design, **settings)


@pytest.mark.parametrize("pattern", ["{}/con_0001.nii.gz", "run_2/{}_con_0001.nii.gz", "1/s_{}/2_con_0001.nii.gz"])
def test_numbers_that_are_in_all_names_are_no_participants(tmp_path, pattern):
    """Folders 1, 10, 11, 2 … as a pattern finds them, where the table counts: contrast 1 is in all of the names."""
    paths = [tmp_path / pattern.format(i) for i in sorted(map(str, range(1, 13)))]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, np.zeros((2, 2, 2)))
    known = Rows(tuple(str(i) for i in range(1, 13)), "table")
    found = of_images(str(tmp_path / pattern.format("*")), known)
    assert found is not None
    order = sorted(known.ids, key=lambda name: str(tmp_path / pattern.format(name)))
    assert found.ids == tuple(order)
    assert order != list(known.ids)
    with pytest.raises(FileError, match=r"row [12] of table is [12], volume [12] of .* is 10"):
        compare(known, found)
    compare(known, of_images([tmp_path / pattern.format(i) for i in known.ids], known))
    one = of_images([paths[0], paths[0]], Rows(("1", "1"), "table"))
    assert one is not None
    assert one.ids == ("1", "1")
