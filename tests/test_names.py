"""Where two matrices meet, names decide which column is which."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import vest

import gpuvox
from gpuvox import files
from gpuvox.cli import main_randomise
from gpuvox.errors import DesignError, FileError
from gpuvox.names import Names, _only_count, by_name

LINE = "-i data -m mask -x -n 20 --seed 1 --quiet"
EVS = ("patients", "controls", "age")


@pytest.fixture
def tables(study):
    """The study with a table for a design; `design.mat` is the same matrix without names."""
    M = np.loadtxt("design.mat", skiprows=4)
    pd.DataFrame(M, columns=EVS).to_csv("d.csv", index=False)
    return study


def run(line, root="out"):
    return main_randomise(f"{LINE} -o {root} {line}".split())


def tstat(root, number=1):
    return files.read_map(f"{root}_tstat{number}", files.read_mask("mask"))


def record(root="out"):
    return json.loads(Path(f"{root}_randomise.json").read_text())


def test_columns_are_put_into_the_order_of_the_names():
    values = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(by_name(values, tuple("cab"), tuple("abc"), "x", "y"), values[:, [1, 2, 0]])
    for given, wanted in (("", "abc"), ("abc", ""), (("c1", "c2", "c3"), "abc"), (("1", "02", "3"), "abc")):
        np.testing.assert_array_equal(by_name(values, tuple(given), tuple(wanted), "x", "y"), values)
    with pytest.raises(DesignError, match="x has a column 'd', which y does not have; its columns are a, b, c"):
        by_name(values, tuple("abd"), tuple("abc"), "x", "y")
    with pytest.raises(DesignError, match="x has no column 'c', which y has; add a column of 0"):
        by_name(values[:, :2], tuple("ab"), tuple("abc"), "x", "y")
    with pytest.raises(DesignError, match="y has the name 'b' twice"):
        by_name(values, tuple("abc"), tuple("bbc"), "x", "y")
    with pytest.raises(DesignError, match="x has a column 'c2', which y does not have"):
        by_name(values, ("c2", "c1", "c3"), tuple("abc"), "x", "y")


def test_names_of_tests():
    names = Names(contrasts=("a > b", ""), f_tests=("any",))
    assert [names.of_test(name) for name in ("tstat1", "tstat2", "tstat3", "fstat1")] == ["a > b", "", "", "any"]


def test_contrasts_follow_the_names_of_the_design(tables):
    vest(Path("t.con"), [[1, -1, 0], [0, 0, 1]], ("NumWaves", "NumContrasts"))
    Path("c.csv").write_text("contrast,age,controls,patients\nMS > HC,0,-1,1\nage +,1,0,0\n")
    Path("index.csv").write_text(",age,controls,patients\nMS > HC,0,-1,1\nage +,1,0,0\n")
    assert run("-d design.mat -t t.con", "plain") == 0
    for name in ("c.csv", "index.csv"):
        assert run(f"-d d.csv -t {name}") == 0
        for number in (1, 2):
            np.testing.assert_array_equal(tstat("out", number), tstat("plain", number))
    assert record()["names"] == {"evs": list(EVS), "contrasts": ["MS > HC", "age +"], "f_tests": []}
    assert [test["contrast_name"] for test in record()["tests"]] == ["MS > HC", "age +"]
    # A design without names has none to go by.
    assert run("-d design.mat -t c.csv") == 0
    assert np.abs(tstat("out") - tstat("plain")).max() > 1


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("patients,foo,age", ["c.csv has a column 'foo', which d.csv does not have"]),
        ("Patients,controls,age", ["c.csv has a column 'Patients'"]),
        ("patients,controls", ["c.csv has no column 'age', which d.csv has"]),
    ],
)
def test_contrasts_of_other_columns_are_refused(tables, capsys, header, says):
    Path("c.csv").write_text(f"{header}\n{','.join('1' * len(header.split(',')))}\n")
    assert run("-d d.csv -t c.csv") == 2
    error = capsys.readouterr().err
    assert all(part in error for part in says)
    assert not list(Path().glob("out*"))


def test_f_tests_follow_the_names_of_the_contrasts(tables, capsys):
    Path("c.con").write_text(
        "/ContrastName1 group\n/ContrastName2 age\n/NumWaves 3\n/NumContrasts 2\n/Matrix\n1 -1 0\n0 0 1\n"
    )
    Path("f.csv").write_text("name,age,group\nof age,1,0\nboth,1,1\n")
    assert run("-d design.mat -t c.con -f f.csv -F 3") == 0
    assert record()["tests"][0]["contrast"] == [[0, 0, 1]]
    assert [test["contrast_name"] for test in record()["tests"]] == ["of age", "both", "group", "age"]
    Path("f.csv").write_text("age,sex\n1,0\n")
    assert run("-d design.mat -t c.con -f f.csv -F 3") == 2
    assert (
        "f.csv has a column 'sex', which c.con does not have; its columns are group, age"
        in capsys.readouterr().err
    )


def test_names_stand_in_warnings_and_errors_but_not_in_lines_of_fsl(tables, capsys):
    Path("c.csv").write_text("contrast,patients,controls,age\nMS > HC,1,-1,0\nnone,0,0,0\n")
    assert run("-d d.csv -t c.csv") == 2
    assert "t-test 2 (none): " in capsys.readouterr().err
    Path("c.csv").write_text("contrast,patients,controls,age\nMS > HC,1,-1,0\n")
    line = "-i data -m mask -o out -x -n 5 --seed 1 -d d.csv -t c.csv".split()
    assert main_randomise(line) == 0
    said = capsys.readouterr()
    assert "Warning: t-test 1 (MS > HC): only 5 permutations" in said.err
    assert "required for exhaustive test of t-test 1\n" in said.out


def test_a_column_of_names_is_no_column_of_numbers(tmp_path):
    path = tmp_path / "d.csv"
    for first, ids in (("participant_id", "12"), ("ID", "12"), ("", "ab"), ("name", "ab")):
        path.write_text(f"{first},age\n{ids[0]},3\n{ids[1]},4\n")
        matrix = files.read_named_matrix(path)
        assert (matrix.row_names, matrix.column_names) == (tuple(ids), ("age",))
        assert matrix.values.tolist() == [[3], [4]]
    path.write_text("name,age\n1,3\n2,4\n")  # numbers: an EV
    assert files.read_named_matrix(path).column_names == ("name", "age")
    path.write_text("age,participant_id\n3,a\n4,b\n")
    assert files.read_named_matrix(path).row_names == ("a", "b")
    for text, says in (
        ("age,participant_id\n3,a\n4\n", "1 numbers in the row; the header says 2"),
        ("group,age\nMS,1\n", "'MS' is not a finite number"),
        ("participant_id\na\n", "the names must be unique and not empty"),
        ("participant_id,age\n,1\n", "row 1 is empty in column 'participant_id'"),
    ):
        path.write_text(text)
        with pytest.raises(FileError, match=says):
            files.read_named_matrix(path)


def test_data_frames_are_matched_by_name(study):
    M = pd.DataFrame(np.loadtxt("design.mat", skiprows=4), columns=EVS)
    C = pd.DataFrame(
        [[0.0, -1, 1], [1, 0, 0]], index=["MS > HC", "age +"], columns=["age", "controls", "patients"]
    )
    F = pd.DataFrame([[1, 0]], index=["of age"], columns=["age +", "MS > HC"])
    settings = {"mask": "mask", "n_permutations": 5, "seed": 1, "device": "cpu"}
    result = gpuvox.randomise("data", M, C, f_tests=F, **settings)
    plain = gpuvox.randomise("data", M.to_numpy(), [[1, -1, 0], [0, 0, 1]], f_tests=[[0, 1]], **settings)
    for name in ("tstat1", "tstat2", "fstat1"):
        np.testing.assert_array_equal(result[name], plain[name])
    assert [test.test.label for test in result.tests] == ["of age", "MS > HC", "age +"]
    with pytest.raises(DesignError, match="contrasts has a column 'x', which the design does not have"):
        gpuvox.randomise("data", M, C.rename(columns={"age": "x"}), **settings)


def test_names_that_only_count():
    assert _only_count(["c1", "c2", "c3"])
    assert _only_count(["ev08", "ev9"]) is False
    assert _only_count(["ev01", "ev02"])
    assert _only_count(["1", "2"])
    for names in (["c1", "d2"], ["c0", "c1"], ["c2", "c1"], ["a", "b"], ["c1", "c1"], ["c1", ""]):
        assert not _only_count(names)
    start = time.monotonic()
    for name in ("0" * 200_000, "1" * 200_000 + "x", "10" * 100_000 + "x"):
        assert not _only_count([name, name])
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("first", ["0", "1", "7"])
def test_an_index_that_counts_names_nothing(tmp_path, first):
    """As pandas and R write it; of some rows of a table, with gaps."""
    path = tmp_path / "design.csv"
    path.write_text(f'"","MS","HC"\n"{first}",1,0\n"9",0,1\n')
    matrix = files.read_named_matrix(path)
    assert (matrix.row_names, matrix.column_names) == ((), ("MS", "HC"))
    np.testing.assert_array_equal(matrix.values, [[1, 0], [0, 1]])
    for text in (",MS,HC\n1.5,1,0\n9,0,1\n", ",MS,HC\n41,1,0\n38,0,1\n"):  # may be a covariate
        path.write_text(text)
        with pytest.raises(FileError, match="the names must be unique and not empty"):
            files.read_named_matrix(path)
