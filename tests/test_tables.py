"""Tables of participants: types, conditions in three-valued logic, indicators, patterns, gathering."""

import itertools
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvox import files
from gpuvox.cli.main import main
from gpuvox.errors import FileError
from gpuvox.plain import composed
from gpuvox.tables.columns import indicators, matching
from gpuvox.tables.conditions import select
from gpuvox.tables.reading import gather, labels, read_participants, typed

TABLE = typed(
    pd.DataFrame(
        {
            "participant_id": ["a", "b", "c", "d"],
            "age": ["30", "51.5", "n/a", "50"],
            "group": ["MS", "HC", "MS", ""],
            "nothing": ["n/a"] * 4,
            "odd name": ["1", "2", "3", "4"],
            "thalamus.iron": ["5", "-6", "7", "8"],
        }
    )
)


def test_columns_are_numbers_or_text():
    assert TABLE["age"].dtype == float
    assert np.isnan(TABLE["age"][2])
    assert TABLE["group"].isna().tolist() == [False, False, False, True]
    assert TABLE["nothing"].dtype == float
    ids = typed(pd.DataFrame({"participant_id": ["01", "02"]}))
    assert ids["participant_id"].tolist() == ["01", "02"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", [1, 1, 1, 1]),
        ("age <= 50", [1, 0, 0, 1]),
        ("not age <= 50", [0, 1, 0, 0]),
        ("age != 30", [0, 1, 0, 1]),
        ("group == 'MS'", [1, 0, 1, 0]),
        ("group != 'MS'", [0, 1, 0, 0]),
        ("group == 'MS' or age <= 50", [1, 0, 1, 1]),
        ("group == 'MS' and age <= 50", [1, 0, 0, 0]),
        ("not (group == 'MS' and age <= 50)", [0, 1, 0, 0]),
        ("(group == 'MS') & ~(age > 40) | (age == 50)", [1, 0, 0, 1]),
        ("group in ('MS', 'CIS')", [1, 0, 1, 0]),
        ("group not in ['MS']", [0, 1, 0, 0]),
        ("30 <= age < 51", [1, 0, 0, 1]),
        ("age / 2 - 1 > 24.5", [0, 1, 0, 0]),
        ("`odd name` >= 3", [0, 0, 1, 1]),
        ("thalamus.iron > -6", [1, 0, 1, 1]),
        ("-thalamus.iron == 6", [0, 1, 0, 0]),
        ("nothing > 0 or nothing <= 0", [0, 0, 0, 0]),
    ],
)
def test_conditions(condition, expected):
    assert select(TABLE, condition).tolist() == [bool(e) for e in expected]


def kleene(text, values):
    """Truth of a formula of p, q, r by Kleene's tables, from the strings alone."""
    tables_ = {"and": min, "or": max}
    worth = {"T": 1.0, "F": 0.0, "U": 0.5}
    stack = []
    for token in text.split():
        if token in tables_:
            b, a = stack.pop(), stack.pop()
            stack.append(tables_[token](a, b))
        elif token == "not":
            stack.append(1 - stack.pop())
        else:
            stack.append(worth[values[token]])
    return stack[0] == 1


@pytest.mark.parametrize(
    ("postfix", "infix"),
    [
        ("p q and", "p == 1 and q == 1"),
        ("p q or not", "not (p == 1 or q == 1)"),
        ("p q not and r or", "p == 1 and not q == 1 or r == 1"),
        ("p q or r and not", "not ((p == 1 or q == 1) and r == 1)"),
        ("p not q not or r not and", "(not p == 1 or not q == 1) and not r == 1"),
    ],
)
def test_missing_values_follow_three_valued_logic(postfix, infix):
    states = list(itertools.product("TFU", repeat=3))
    cell = {"T": 1.0, "F": 0.0, "U": np.nan}
    table = pd.DataFrame([[cell[s] for s in row] for row in states], columns=list("pqr"))
    expected = [kleene(postfix, dict(zip("pqr", row))) for row in states]
    assert select(table, infix).tolist() == expected
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("weight > 3", "no column 'weight'"),
        ("age > 'x'", "is text but is compared with a number"),
        ("group > 3", "group is text"),
        ("group + 1 > 3", "group is text; a number is needed"),
        ("age", "age is not a comparison"),
        ("age <", "not of the form"),
        ("age in group", "needs a list"),
        ("__import__('os').getpid() > 0", "neither a column"),
        ("age is 3", "expected =="),
        ("age > [1]", "neither a column"),
        ("(" * 500 + "age > 1" + ")" * 500, "not of the form"),
    ],
)
def test_what_is_no_condition(condition, message):
    with pytest.raises(FileError, match="the condition") as caught:
        select(TABLE, condition)
    assert message in str(caught.value)


@given(st.text(alphabet="age<>=!()'1 andotrin.[],`~&|+-*/:lambdx_", max_size=40))
def test_no_text_does_more_than_select(text):
    try:
        chosen = select(TABLE, text)
    except FileError:
        return
    assert chosen.shape == (4,)
    assert chosen.dtype == bool


def test_indicators():
    table = typed(pd.DataFrame({"participant_id": list("abc"), "sex": list("MFM"), "age": ["1", "2", "3"]}))
    found = indicators(table, ["age", "sex"])
    assert list(found.columns) == ["age", "sex[M]"]
    assert found.to_numpy().tolist() == [[1, 1], [2, 0], [3, 1]]
    with pytest.raises(FileError, match="there is no age of c"):
        indicators(TABLE, ["age"])
    with pytest.raises(FileError, match="no column 'weight'"):
        indicators(TABLE, ["weight"])


def test_patterns_stay_between_dots():
    names = [
        "age",
        "putamen.iron",
        "left.putamen.iron",
        "putamen.iron.median",
        "thalamus.iron",
        "ms.1",
        "ms.1.mean",
    ]
    assert matching(names, ["*.iron"]) == ["putamen.iron", "thalamus.iron"]
    assert matching(names, ["thalamus.iron", "*.iron"]) == ["thalamus.iron", "putamen.iron"]
    assert matching(names, ["ms.*", "*.putamen.*"]) == ["ms.1", "left.putamen.iron"]
    with pytest.raises(FileError, match=r"nothing named '\*\.myelin'"):
        matching(names, ["age", "*.myelin"])


def write_rois(path, ids=("a", "b"), drop=None):
    columns = "participant_id structure side map n mean median sd volume volume_normalised mass".split()
    rows = []
    for i, name in enumerate(ids):
        for j, (structure, side) in enumerate([("putamen", "left"), ("putamen", "both"), ("lamina", "none")]):
            for k, kind in enumerate(("iron", "qsm")):
                mean = 100 * i + 10 * j + k
                rows.append(
                    [name, structure, side, kind, 5, mean, mean + 0.25, mean + 0.5, 10 * i + j, 2 * (10 * i + j),
                     mean / 1000 if kind == "iron" else float("nan")]
                )  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    files.write_table(path, table if drop is None else table.drop(index=drop))


def test_gathering(tmp_path):
    files.write_table(tmp_path / "p.tsv", pd.DataFrame({"participant_id": ["b", "a"], "age": [2.0, 1.0]}))
    write_rois(tmp_path / "rois.tsv")
    lines = [["a", 1, 7.0, 8.0, 9.0], ["b", 1, 17.0, 18.0, 19.0]]
    clusters = pd.DataFrame(lines, columns=["participant_id", "cluster", "mean", "eigenvariate", "eigenvariate_z"])
    files.write_table(tmp_path / "up.tsv", clusters)
    files.write_table(tmp_path / "none.tsv", clusters.iloc[:0])
    found = gather(
        tmp_path / "p.tsv", tmp_path / "rois.tsv", {"up": tmp_path / "up.tsv", "none": tmp_path / "none.tsv"}
    )
    assert found["participant_id"].tolist() == ["b", "a"]
    assert found["putamen.iron"].tolist() == [110, 10]
    assert found["left.putamen.qsm"].tolist() == [101, 1]
    assert found["lamina.iron.median"].tolist() == [120.25, 20.25]
    assert found["putamen.volume"].tolist() == [11, 1]
    assert found["putamen.volume_normalised"].tolist() == [22, 2]
    assert found["putamen.iron.mass"].tolist() == [0.11, 0.01]
    assert "putamen.qsm.mass" not in found
    assert "putamen.iron.mass_raw" not in found
    assert found["up.1"].tolist() == [19, 9]
    assert found["up.1.mean"].tolist() == [17, 7]
    assert not [name for name in found if name.startswith("none")]


def test_both_masses_are_gathered_with_a_head_size_factor(tmp_path):
    files.write_table(tmp_path / "p.tsv", pd.DataFrame({"participant_id": ["b", "a"]}))
    write_rois(tmp_path / "rois.tsv")
    rows = pd.read_csv(tmp_path / "rois.tsv", sep="\t")
    for factor, expected in ((2.0, [0.055, 0.005]), (float("nan"), None)):
        changed = rows.assign(mass_raw=rows["mass"] / 2, volume_normalised=rows["volume"] * factor)
        files.write_table(tmp_path / "rois.tsv", changed)
        found = gather(tmp_path / "p.tsv", tmp_path / "rois.tsv")
        assert found["putamen.iron.mass"].tolist() == [0.11, 0.01]
        raw = found.get("putamen.iron.mass_raw")
        assert (raw if raw is None else raw.tolist()) == expected


def test_gathering_refuses(tmp_path):
    files.write_table(tmp_path / "p.tsv", pd.DataFrame({"participant_id": ["b", "c"]}))
    write_rois(tmp_path / "rois.tsv")
    with pytest.raises(FileError, match=r"rois\.tsv has no values of c"):
        gather(tmp_path / "p.tsv", tmp_path / "rois.tsv")
    write_rois(tmp_path / "rois.tsv", ("b", "c", "c"))
    with pytest.raises(FileError, match="of c twice"):
        gather(tmp_path / "p.tsv", tmp_path / "rois.tsv")
    with pytest.raises(FileError, match="no column 'structure'"):
        gather(tmp_path / "p.tsv", tmp_path / "p.tsv")
    write_rois(tmp_path / "rois.tsv", ("b", "c"))
    files.write_table(tmp_path / "p.tsv", pd.DataFrame({"participant_id": ["b", "c"], "putamen.iron": [1.0, 2.0]}))
    with pytest.raises(FileError, match=r"putamen\.iron is the name of two"):
        gather(tmp_path / "p.tsv", tmp_path / "rois.tsv")


def test_tables_are_written_whole(tmp_path):
    table = pd.DataFrame({"a": [1.5, np.nan, 1 / 3], "b": ["x", None, "z"], "c": [1, 2, 3]})
    files.write_table(tmp_path / "t.tsv", table)
    assert (tmp_path / "t.tsv").read_text() == "a\tb\tc\n1.5\tx\t1\nn/a\tn/a\t2\n0.33333333\tz\t3\n"
    with pytest.raises(FileError, match="contains a zero byte"):
        files.write_table(tmp_path / "u.tsv", pd.DataFrame({"a": ["x\0"]}))
    assert not (tmp_path / "u.tsv").exists()


@pytest.mark.parametrize("missing", ["", "n/a", "NA", "NaN", "nan", "N/A", "null", " NA "])
def test_what_r_and_others_write_for_a_missing_value(missing):
    found = typed(pd.DataFrame({"age": ["1", missing, "3"], "site": ["a", missing, "b"]}))
    assert found["age"].dtype == float
    assert found["age"].isna().tolist() == found["site"].isna().tolist() == [False, True, False]


def test_a_slip_in_a_column_of_numbers_makes_no_categories():
    table = typed(pd.DataFrame({"participant_id": list("abc"), "age": ["30.5", "12,5", "41"]}))
    with pytest.raises(FileError, match="age of b is '12,5'; expected a number"):
        indicators(table, ["age"])
    mixed = typed(pd.DataFrame({"participant_id": list("abc"), "site": ["1", "2a", "2b"]}))
    assert list(indicators(mixed, ["site"])) == ["site[2a]", "site[2b]"]


def test_groups_of_numbers_are_named_as_numbers():
    column = pd.Series([1.0, 0.0, np.nan, 1234567.0, 1234568.0, 0.5])
    assert labels(column).tolist()[:2] == ["1", "0"]
    assert labels(column).isna().tolist() == [False, False, True, False, False, False]
    assert labels(column).tolist()[3:] == ["1234567", "1234568", "0.5"]


@pytest.mark.parametrize("condition", ["age in ()", "age not in []"])
def test_empty_lists_are_refused(condition):
    with pytest.raises(FileError, match="not empty"):
        select(TABLE, condition)


def test_names_are_told_that_differ_by_case():
    with pytest.raises(FileError, match=r"no column 'AGE'; did you mean 'age'\?"):
        indicators(TABLE, ["AGE"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id,age,age\na,1,2\n", "has two columns named 'age'"),
        ("participant_id;age\na;1\n", "is separated by semicolons"),
        ("participant_id\tage\na\t1\n a\t2\n", "participant_id a twice"),
    ],
)
def test_tables_that_would_be_misread(tmp_path, text, message):
    (tmp_path / "p.tsv").write_text(text)
    with pytest.raises(FileError, match=message):
        read_participants(tmp_path / "p.tsv")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["s1\t21.5\t3\t", "s2\t22\t4\t"], ["row 1 (s1)", "4 fields", "header 3"]),
        (["s1\t21.5\t3", "s2\t22"], ["row 2 (s2)", "2 fields", "header 3"]),
        (["s1\t21.5\t3\t9", "s2\t22\t4"], ["row 1 (s1)", "4 fields"]),
        (["s1\t21.5\t3", "", "   ", "s2\t22\t4\t5"], ["row 2 (s2)", "4 fields"]),
    ],
)
def test_rows_of_another_length_are_refused(rows, says, tmp_path):
    """They would be shifted, or filled up, and be other numbers."""
    path = tmp_path / "p.tsv"
    for delimiter in "\t,":
        path.write_text("\n".join(["participant_id\tage\tscore", *rows]).replace("\t", delimiter) + "\n")
        with pytest.raises(FileError) as error:
            files.read_table(path)
        for part in says:
            assert part in str(error.value)


def test_cells_of_every_kind_are_fields(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(
        'participant_id, note\r\ns1, "a, b"\r\n\r\ns2, "c ""d""\nsecond line"\r\ns3,e\u2028f\r\n'.encode()
    )
    assert files.read_table(path)["note"].tolist() == ["a, b", 'c "d"\nsecond line', "e\u2028f"]


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\n \n", "is empty"), (b"a,b\n\xf9,1\n", "UTF-8")]
)
def test_files_without_a_table(content, says, tmp_path):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(FileError, match=says):
        files.read_table(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("groups --table {} --group group --demographics age --out q", "q.tsv"),
        ("models correlation --table {} --x age --y score --out q", "q.tsv"),
        ("models regression --table {} --outcome age --each score --out q", "q_data.tsv"),
        ("models samplesize --table {} --group group --order A,B --variables age --out q", "q.tsv"),
        ("rois --table {} --labels seg --map iron=fe --out ./q.tsv", "q.tsv"),
        ("clusters --corrected p --table {} --out q", "q.tsv"),
        ("design --table {} --group group --out q", "q_participants.tsv"),
        ("longitudinal --table {} --visit group --out q", "q_change.tsv"),
    ],
)
def test_no_command_writes_over_what_it_reads(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [f"s{i}\t{'AB'[i % 2]}\t{x:.3f}\t{y:.3f}" for i, (x, y) in enumerate(rng.normal(size=(12, 2)))]
    content = "\n".join(["participant_id\tgroup\tage\tscore", *rows]) + "\n"
    (tmp_path / name).write_text(content)
    assert main(command.format(name).split()) == 2
    error = capsys.readouterr().err
    assert name in error
    assert "would overwrite" in error
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


# -- accents --------------------------------------------------------------------------------------------------------

ACCENTED = {
    "design": "--group état --order é,ü --covariates âge --subset `âge`>20 --select karté=o_maps --out o",
    "groups": "--group état --order é,ü --covariates âge --demographics âge --test âge=student --variables mù* --out o",
    "models regression": "--outcome mù --block état=état --block âge=âge --subset `âge`>20 --out o",
    "models correlation": "--x mù --y âge --out o",
    "rois": "--labels labels --names names.tsv --map a=karté --head-size mù --out o.tsv",
    "longitudinal": "--visit séance --visits tôt,là --group état --covariates âge --out o",
}
"""Commands whose names of columns, levels and visits have accents."""


@pytest.mark.parametrize("command", ACCENTED)
def test_accents_that_look_alike_are_the_same_text_in_every_command(command, tmp_path, monkeypatch, capsys):
    """Tables with composed accents and with accents by themselves, each with options of the other form."""
    monkeypatch.chdir(tmp_path)
    rng, pictures = np.random.default_rng(0), np.arange(8.0)[:, None, None] + np.ones((8, 2, 2))
    labels = np.where(pictures < 4, 10, 11).astype(np.int16)
    files.write_text("names.tsv", "index\tname\n10\tone\n11\ttwo\n")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), "labels.nii.gz")
    nib.save(nib.Nifti1Image(pictures, np.eye(4)), "karte.nii.gz")
    people = [f"Zoé{i}" for i in range(12)]
    table = pd.DataFrame({"participant_id": people, "état": ["é", "ü"] * 6, "karté": "karte.nii.gz"})
    table = table.assign(âge=rng.integers(30, 60, 12), mù=rng.uniform(1, 2, 12).round(3))
    if command == "longitudinal":
        table = pd.concat([table.assign(séance=visit) for visit in ("là", "tôt")])
    outputs = []
    for of_table, of_options in (("NFC", "NFC"), ("NFC", "NFD"), ("NFD", "NFC")):
        text = table.to_csv(sep="\t", index=False)
        Path("t.tsv").write_text(unicodedata.normalize(of_table, text), encoding="utf-8")
        words = unicodedata.normalize(of_options, f"{command} --table t.tsv {ACCENTED[command]}").split()
        assert main(words) == 0, capsys.readouterr().err
        outputs.append({path.name: composed(path.read_text("utf-8")) for path in sorted(Path().glob("o*.tsv"))})
        for path in Path().glob("o*"):
            path.unlink()
    assert outputs[0]
    assert all(each == outputs[0] for each in outputs)


CODED = {
    "design": "--group group --covariates age",
    "longitudinal": "--visit session --group group --covariates age",
    "groups": "--group group --variables score --covariates age",
    "models regression": "--outcome score --block age=age",
    "models correlation": "--x age --y score --method spearman",
    "models mixed": "--outcome score --time time --covariates age",
    "models samplesize": "--group group --order HC,MS --variables score --covariates age",
}
"""Commands with a covariate that is -999 for two participants."""


@pytest.mark.parametrize("command", CODED)
def test_codes_of_missing_values_are_told_by_every_command(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    age = rng.integers(30, 60, 12)
    age[[2, 5]] = -999
    people = [f"s{i}" for i in range(12)]
    table = pd.DataFrame({"participant_id": people, "group": ["HC", "MS"] * 6, "age": age})
    repeated = command in ("longitudinal", "models mixed")
    table = pd.concat([table.assign(session=f"ses-{visit}", time=visit) for visit in range(3 if repeated else 1)])
    table = table.assign(score=rng.normal(10, 1, len(table)))
    table.to_csv("t.tsv", sep="\t", index=False)
    for left_out in ("", "age>0"):
        subset = ["--subset", left_out] if left_out else []
        assert main([*f"{command} --table t.tsv --out o {CODED[command]}".split(), *subset]) == 0
        captured = capsys.readouterr()
        said = [line for line in (captured.out + captured.err).splitlines() if "missing value" in line]
        assert len(said) == (not left_out)
        assert left_out or said[0].startswith("Warning: age is -999 in s2, s5, ")
