"""Text that people write: what is one table in every program is read, what would be misread is refused."""

import contextlib
import csv
import io
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.tables.columns import matching
from gpuvox.tables.reading import read_participants, typed

quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CELLS = st.text(
    st.one_of(st.sampled_from(list("\"\t\n\r,;# '\\a1\ufeff\u2028")), st.characters(exclude_categories=["Cs"])),
    max_size=6,
).filter(lambda text: "\0" not in text)
NAMES = CELLS.map(str.strip).filter(bool)


@st.composite
def frames(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    rows = draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=4))
    return names, rows


@quick
@given(frames())
@example((["a", "b"], [["x", "p\nq\tr"], ["", ""], ["a", "b"], ["#1", "2"]]))
@example((["a"], [[""], ["1,5"], ["a"], ["#"], [" x"]]))
@example((["a;b"], [["1;2"]]))
@example((["a b"], [["1 2"]]))
@example((["a\nb", "c\td"], [["\r\n", "\r"]]))
def test_every_table_that_is_written_is_read_back(tmp_path, table):
    names, rows = table
    files.write_table(tmp_path / "t.tsv", pd.DataFrame(rows, columns=names, dtype=object))
    found = files.read_table(tmp_path / "t.tsv", long=True)
    assert list(found.columns) == names
    expected = [list(row) for row in rows]
    if "participant_id" in names:
        expected = [[c.strip() if n == "participant_id" else c for n, c in zip(names, row)] for row in expected]
    assert found.to_numpy(dtype=object).tolist() == expected


@quick
@given(frames(), st.sampled_from("\t,"))
@example((["0", "0\t0"], [["", ""]]), ",")
@example((["0;1;2", "0"], [["", ""]]), ",")
def test_tables_of_other_programs_are_read(tmp_path, table, separator):
    """With every cell in marks, Python's csv module and we mean the same."""
    names, rows = table
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows([names, *rows])
    (tmp_path / "t.csv").write_bytes(text.getvalue().encode())
    if len(names) > 1:
        assert files.read_table(tmp_path / "t.csv", long=True).to_numpy(dtype=object).tolist() == rows


def write(path, rows, separator="\t"):
    path.write_text("\n".join(separator.join(row) for row in rows) + "\n", encoding="utf-8")
    return path


def participants(n=8):
    return [["participant_id", "group", "iq", "note"]] + [
        [f"sub-{i:02d}", "MS" if i < n // 2 else "HC", f"{100 + i}", "ok"] for i in range(n)
    ]


@pytest.mark.parametrize("separator", "\t,")
@pytest.mark.parametrize(
    ("cells", "match"),
    [
        ({(3, 3): '"fell asleep', (7, 3): 'moved"'}, r"line 4 \(sub-02\), column 'note': .* closed in line 8, and"),
        ({(3, 3): '"fell asleep', (4, 3): 'moved"'}, "closed in line 5, and the lines between are rows"),
        ({(3, 1): '"MS', (6, 1): 'HC"'}, r"line 4 \(sub-02\), column 'group': .* closed in line 7"),
        ({(3, 3): '"fell asleep'}, r"line 4 .* column 'note': the .* before 'fell asleep' is not closed"),
        ({(3, 3): '"fell" asleep'}, r"line 4 \(sub-02\), column 'note': 'asleep' follows a quotation mark"),
        ({(3, 3): '"fell asleep', (7, 3): '"moved"'}, "'moved\"' follows a quotation mark"),
        ({(0, 3): '"note', (7, 3): 'moved"'}, "line 1 .*closed in line 8, and the lines between are rows"),
        ({(0, 3): 'note"', (2, 0): '"sub-01'}, r"is not closed"),
        ({(4, 0): "#sub-03"}, "line 5, begins with '#' and has a cell for every column"),
    ],
)  # fmt: skip
def test_rows_are_never_swallowed(tmp_path, separator, cells, match):
    rows = participants()
    for (i, j), text in cells.items():
        rows[i][j] = text
    with pytest.raises(FileError, match=match):
        files.read_table(write(tmp_path / "p.tsv", rows, separator), ["participant_id"])


def test_a_cell_of_several_lines_is_one_cell(tmp_path):
    rows = participants(3)
    rows[2][3] = '"slept,\nand ""moved"", twice"'
    rows[0][2] = '"iq\n(points)"'
    for separator in "\t,":
        found = files.read_table(write(tmp_path / "p.csv", rows, separator))
        assert found["note"].tolist() == ["ok", 'slept,\nand "moved", twice', "ok"]
        assert list(found.columns) == ["participant_id", "group", "iq\n(points)", "note"]


def test_marks_within_a_cell_are_letters(tmp_path):
    (tmp_path / "p.tsv").write_text('participant_id\tnote\ns1\t5" disk\ns2\tsaid "no"\n')
    assert files.read_table(tmp_path / "p.tsv")["note"].tolist() == ['5" disk', 'said "no"']


TEXT = "participant_id\tgroup\tage\ns1\tMS\t30\ns2\tHöhe\t40\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\n\n").encode(),
        TEXT.replace("\n", "\n  \n").encode(),
        ("\n" + TEXT + "\t\t\n\t\t\n").encode(),
        TEXT.replace("\n", "\t\n").encode(),
        TEXT.replace("\n", "\t\t\n").encode(),
        TEXT.replace("\t", ",").replace("\n", ",,\n").encode(),
        ("\t\t\n" + TEXT).encode(),
        ("# exported\n" + TEXT + "# end\n").encode(),
        TEXT.rstrip("\n").encode(),
        TEXT.replace("s2", '"s2"').encode(),
    ],
)
def test_the_same_table_in_another_file(tmp_path, content):
    (tmp_path / "p.tsv").write_bytes(content)
    found = read_participants(tmp_path / "p.tsv")
    assert list(found.columns) == ["participant_id", "group", "age"]
    assert found.to_numpy(dtype=object).tolist() == [["s1", "MS", 30], ["s2", "Höhe", 40]]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (TEXT.encode("latin-1"), r"p\.tsv, line 3, is not in UTF-8; save it as UTF-8 text"),
        (TEXT.replace("ö", "o").encode("utf-16-le"), "is not a text file"),
        (TEXT.encode("utf-16")[:-1], "is not a text file"),
        ((TEXT + TEXT).encode(), "line 4, repeats the header"),
        (("#" + TEXT).encode(), "line 1, begins with '#' and has 3 fields, as the row after it"),
        (TEXT.replace("\t", ";").encode(), "is separated by semicolons; tabs or commas are expected"),
        (TEXT.replace("\t", '";"').replace("\n", '"\n"').encode().join([b'"', b""]), "is separated by semicolons"),
        (TEXT.replace("\t", "  ").encode(), "is separated by blanks; tabs or commas are expected"),
        (TEXT.replace("s1", "s1\t").encode(), r"row 1 \(s1\) has 4 fields, the header 3"),
        (b"# nothing\n\n", "is empty"),
        (b",,\n,,\n", "is empty"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, content, match):
    (tmp_path / "p.tsv").write_bytes(content)
    with pytest.raises(FileError, match=match):
        files.read_table(tmp_path / "p.tsv", ["participant_id"])


# -- matrices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["1 0\n0 1\n", "1\t0\n0\t1\n", "1,0\n0,1\n", "1 -1\n", "1\n0\n", "  1e0   0\n 0 1\n"]
)
def test_numbers_without_names_or_header_are_told_what_they_need(tmp_path, text):
    (tmp_path / "d.txt").write_text(text)
    with pytest.raises(FileError, match="a VEST matrix its header with /Matrix \\(Text2Vest writes it\\)"):
        files.read_matrix(tmp_path / "d.txt")


def test_names_and_numbers_with_blanks_between_are_no_table(tmp_path):
    (tmp_path / "d.txt").write_text("one age\n1 30\n1 40\n")
    with pytest.raises(FileError, match="is separated by blanks; tabs or commas are expected, or a VEST matrix"):
        files.read_matrix(tmp_path / "d.txt")
    (tmp_path / "d.txt").write_text("mean age\n30\n40\n")
    assert files.read_matrix(tmp_path / "d.txt").tolist() == [[30], [40]]


HEAD = "/NumWaves 3\n/NumPoints 4\n/Matrix\n"
VALUES = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]


@pytest.mark.parametrize(
    "body",
    [
        "1 2 3 4 5 6 7 8 9 10 11 12",
        "1 2\n3\n4 5\n6\n7 8\n9\n10 11\n12\n",
        "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n",
        "1 2 3 4 5 6\n7 8 9\n10 11 12\n",
        "1 2 3 4 5\n6 7 8 9 10\n11 12\n",
        "1 2 3\n4 5\n6\n7 8 9\n10 11 12\n",
    ],
)
def test_vest_rows_may_be_wrapped(tmp_path, body):
    for head in (HEAD, "# by hand\n" + HEAD):
        (tmp_path / "d.mat").write_text(head + body)
        assert files.read_matrix(tmp_path / "d.mat").tolist() == VALUES


@pytest.mark.parametrize(
    "body", ["1 2 3\n4 5\n6 7 8 9\n10 11 12\n", "1 2 3\n4 5 6\n7 8 9\n10 11\n", "1 2 3 4 5 6 7 8 9 10 11 12 13"]
)
def test_rows_that_lack_a_number_are_not_wrapped(tmp_path, body):
    (tmp_path / "d.mat").write_text(HEAD + body)
    with pytest.raises(FileError, match=r"line \d: \d+ numbers in the row; /NumWaves says 3"):
        files.read_matrix(tmp_path / "d.mat")


NO_NUMBERS = ["1,5", "1,234.5", "0x10", "１２", "1_000", "1D3", "1e400", "-1e999", "inf", "-Infinity", "nan", "+NaN",
              "∞", "1e", "--1", "3O.5", "NA", "1.2.3", "1 2", "½", "٣"]  # fmt: skip


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_finite_number_is_never_another(tmp_path, text):
    (tmp_path / "d.tsv").write_text(f"a\tb\n1\t2\n3\t{text}\n")
    with pytest.raises(FileError, match=r"line 3: .* is not a finite number"):
        files.read_matrix(tmp_path / "d.tsv")
    (tmp_path / "d.mat").write_text(f"/NumWaves 2\n/NumPoints 2\n/Matrix\n1 2\n3 {text}\n")
    with pytest.raises(FileError, match="line 5: "):
        files.read_matrix(tmp_path / "d.mat")


@pytest.mark.parametrize(("text", "value"), [("+5", 5), ("1.", 1), (".5", 0.5), ("-1E-3", -0.001), ("007", 7)])
def test_what_is_a_number(tmp_path, text, value):
    (tmp_path / "d.tsv").write_text(f"a\tb\n1\t{text}\n")
    assert files.read_matrix(tmp_path / "d.tsv").tolist() == [[1, value]]
    assert typed(pd.DataFrame({"a": [text]}))["a"].tolist() == [value]


# -- size -----------------------------------------------------------------------------------------------------------


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "content",
    [
        "participant_id" + "".join(f"\tv{i}" for i in range(100_000)) + "\ns1" + "\t1" * 100_000 + "\n",
        'participant_id\tnote\ns1\t"' + '""' * 500_000 + '"\n',
        'participant_id\tnote\ns1\t"' + '""' * 500_000 + "\n",
        "participant_id\tnote\ns1\t" + "1" * 1_000_000 + "x\n",
        'participant_id\tnote\ns1\t"' + " " * 1_000_000 + "\n",
        "participant_id\tnote\n" + "s\t1\n" * 100_000,
        "#\n" * 200_000 + "participant_id\tnote\ns1\t1\n",
    ],
    ids=["columns", "marks", "open", "digits", "blanks", "rows", "comments"],
)
def test_reading_is_linear(tmp_path, content):
    """With anything quadratic these take many minutes."""
    (tmp_path / "p.tsv").write_text(content)

    def read():
        with contextlib.suppress(FileError):
            matching(read_participants(tmp_path / "p.tsv").columns, ["*"])

    assert seconds(read) < 60


def test_a_matrix_of_many_columns(tmp_path):
    n = 100_000
    (tmp_path / "d.tsv").write_text(
        "\t".join(f"v{i}" for i in range(n)) + "\n" + "\t".join("1" for _ in range(n)) + "\n"
    )
    assert (
        seconds(lambda: np.testing.assert_array_equal(files.read_matrix(tmp_path / "d.tsv"), np.ones((1, n)))) < 60
    )


@pytest.mark.parametrize(
    "text", ["1,2\n3,4.5\n", "1 2\n\n3 4.5", "1\t2\r\n3\t4.5\r\n", "1, 2,\n3, 4.5,\n", "a,b\n1,2\n3,4.5\n"]
)
def test_numbers_without_names_are_a_matrix(text, tmp_path):
    (tmp_path / "d.csv").write_text(text)
    assert files.read_numbers(tmp_path / "d.csv").values.tolist() == [[1, 2], [3, 4.5]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2\n3\n", "line 2: 1 numbers"),
        ("1,2\n3,x\n", "'x' is not a finite"),
        ("nan,1\n", "'nan' is not"),
        ("", "empty"),
    ],
)
def test_numbers_that_are_no_matrix(text, said, tmp_path):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(FileError, match=said):
        files.read_numbers(tmp_path / "d.csv")
