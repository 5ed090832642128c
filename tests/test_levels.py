"""Text as categories: numbers with a slip and levels in two spellings are refused, declared categories are not."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from gpuvox.cli.main import main
from gpuvox.errors import FileError
from gpuvox.study.designs.visits import read_visits
from gpuvox.study.pipeline import config
from gpuvox.tables.columns import indicators
from gpuvox.tables.conditions import select
from gpuvox.tables.groups import assign_groups
from gpuvox.tables.levels import UNIT, other_form
from gpuvox.tables.reading import typed

NUMBERS = [f"{30 + i}.5" for i in range(12)]


def frame(values, **more):
    n = len(values)
    people = {"participant_id": [f"s{i}" for i in range(n)], "group": ["MS", "HC"] * (n // 2) + ["MS"] * (n % 2)}
    return typed(pd.DataFrame(people | {"x": list(values)} | more))


@pytest.mark.parametrize(
    "slip",
    [
        "3O.5",
        "n.a",
        "30.5 y",
        "30,5",
        "1,234.5",
        "0x1F",
        "１２",
        "1_0",
        "1D3",
        "−5",
        "#DIV/0!",
        "~30",
        "?",
        "none",
    ],
)
def test_one_slip_makes_no_categories(slip):
    table = frame([*NUMBERS[:4], slip, *NUMBERS[5:]])
    with pytest.raises(FileError, match=r"x of s4 is .*; expected a number"):
        indicators(table, ["x"], "p.tsv")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["1,0", "1,5", "2,0", "2,5"] * 3, "x of s0 is '1,0'; expected a number, with a decimal point"),
        (["3", "1,5", "2,0", "2,5"] * 3, "x of s1 is '1,5'; expected a number, with a decimal point"),
        (["1,234.5", "2,345.0"] * 3, "x of s0 is '1,234.5'; expected a number, without commas between"),
        (["1.234,5", "2.345,0"] * 3, "x of s0 is '1.234,5'; expected a number, without marks between"),
        (["1 234", "2\u202f345"] * 3, "x of s0 is '1 234'; expected a number, without marks between"),
        (["0x10", "0x11"] * 3, "in decimal digits"),
        (["1D3", "2.5D-1"] * 3, "with e for its exponent"),
        (["１２", "１３"] * 3, "in digits of ASCII"),
        (["−5", "−6"] * 3, "in digits of ASCII"),
        (["1_000", "2_000"] * 3, "without underscores"),
        ([f"{30 + i} y" for i in range(8)], "x of s0 is '30 y'; expected a number, without 'y'"),
        ([f"{30 + i}%" for i in range(8)], "without '%'"),
        (
            [f"2021-03-{i:02}" for i in range(10, 18)],
            "x of s0 is '2021-03-10'; expected a number, such as the years",
        ),
        ([f"{i}.3.2021" for i in range(1, 9)], "such as the years since a date"),
        ([f"2021/3/{i} 12:30" for i in range(1, 9)], "such as the years since a date"),
    ],
)
def test_numbers_in_another_form_are_no_categories(values, match):
    with pytest.raises(FileError, match=match):
        indicators(frame(values), ["x"], "p.tsv")


@pytest.mark.parametrize(
    "values",
    [
        ["F", "M"] * 4,
        ["1.5T", "3T"] * 4,
        ["2021-03-01", "2022-05-01"] * 4,  # two sessions of scanning
        ["1", "2a", "2b"],
        ["<20", "20-40", ">40"] * 2,
        ["Siemens 3", "GE 3"] * 3,
        ["12 months", "24 months"] * 3,
        ["A1", "B2", "n/a"] * 3,
    ],
)
def test_categories_stay_categories(values):
    table = frame(values).dropna()
    assert indicators(table, ["x"]).shape[1] == table["x"].nunique() - 1


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["MS", "HC", "ms", "HC"], "is 'MS' of s0 and 'ms' of s2; use one spelling"),
        (["M S", "HC", "MS", "HC"], "is 'M S' of s0 and 'MS' of s2"),
        (["M\u00a0S", "HC", "M S", "HC"], "of s0 and 'M S' of s2"),
    ],
)
def test_levels_have_one_spelling(values, match):
    table = frame(values)
    for use in (
        lambda: indicators(table, ["x"]),
        lambda: assign_groups(table, "x"),
        lambda: assign_groups(table, "x", [values[0], "HC"]),
    ):
        with pytest.raises(FileError, match=match):
            use()


def test_blanks_around_a_level_are_none_of_it():
    assert assign_groups(frame(["MS ", " MS", "MS", "HC", "HC\u00a0"]), "x").counts() == {"HC": 2, "MS": 3}


@pytest.mark.parametrize(
    "condition", ["x == 'MS'", "x != 'MS'", "'MS' == x", "x in ('MS', 'HC')", "not x == 'M S'"]
)
def test_a_condition_means_one_spelling(condition):
    table = frame(["MS", "HC", "ms", "HC"])
    with pytest.raises(FileError, match=r"x is 'ms' in a row, which differs from 'MS'|x is 'MS' in a row"):
        select(table, condition)
    assert select(table, "x in ('MS', 'ms')").tolist() == [True, False, True, False]
    assert select(table, "x == 'HC'").tolist() == [False, True, False, True]


@pytest.mark.parametrize("value", ["inf", "-inf", "Infinity", "1e400", "-1E999"])
def test_infinite_covariates_are_told_by_participant(value):
    table = frame([*NUMBERS[:4], value, *NUMBERS[5:]])
    with pytest.raises(FileError, match=r"p\.tsv: x of s4 is -?inf; expected a finite number"):
        indicators(table, ["x"], "p.tsv")


@pytest.mark.parametrize("value", ["nan", "NaN", "NAN", "Nan", "-nan", "+NaN", "<NA>", "#N/A"])
def test_nan_of_every_spelling_is_missing(value):
    table = frame([*NUMBERS[:4], value, *NUMBERS[5:]])
    assert np.isnan(table["x"][4])
    with pytest.raises(FileError, match=r"p\.tsv has no x of s4"):
        indicators(table, ["x"], "p.tsv")


# -- commands -------------------------------------------------------------------------------------------------------


def table_of(folder, column, values):
    rng = np.random.default_rng(3)
    rows = [
        f"s{i}\t{'MS' if i % 2 else 'HC'}\t{y:.3f}\t{z:.3f}\t{value}"
        for i, (y, z, value) in enumerate(zip(*rng.normal(size=(2, len(values))), values))
    ]
    (folder / "p.tsv").write_text("\n".join([f"participant_id\tgroup\ty\tz\t{column}", *rows]) + "\n")


COMMANDS = (
    "design --table p.tsv --group group --covariates x --out o",
    "design --table p.tsv --effect x --out o",
    "design --table p.tsv --group group --interaction x --out o",
    "groups --table p.tsv --group group --variables y --covariates x --out o",
    "groups --table p.tsv --group group --demographics x --out o",
    "models correlation --table p.tsv --x y --y z --given x --out o",
    "models regression --table p.tsv --outcome y --block a=x --each z --out o",
    "models samplesize --table p.tsv --group group --order MS,HC --variables y --covariates x --out o",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([*NUMBERS[:6], "3O.5", *NUMBERS[7:]], "x of s6 is '3O.5'; expected a number, as in most rows"),
        (
            ["1,0", "1,5", "2,0"] * 4,
            "x of s0 is '1,0'; expected a number, with a decimal point instead of the comma",
        ),
        (["a", "b", "A"] * 4, "x is 'a' of s0 and 'A' of s2; use one spelling"),
    ],
)
def test_every_command_tells_column_and_participant(tmp_path, monkeypatch, capsys, command, values, says):
    monkeypatch.chdir(tmp_path)
    table_of(tmp_path, "x", values)
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["p.tsv"]


@pytest.mark.parametrize("command", [*COMMANDS[:4], *COMMANDS[5:]])
def test_no_command_takes_an_infinite_covariate(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    table_of(tmp_path, "x", [*NUMBERS[:6], "inf", *NUMBERS[7:]])
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert "inf" in error
    assert "x" in error
    assert "determined" not in error
    assert error.count("\n") == 1


def test_declared_categories_are_taken(tmp_path, monkeypatch, capsys):
    """A scale with the stages 1, 2, 2a and 3, and genotypes."""
    monkeypatch.chdir(tmp_path)
    for values in (["1", "2", "2a", "3", "1"] * 4, ["AA", "Aa", "aa", "Aa", "AA"] * 4):
        table_of(tmp_path, "x", values)
        assert main("design --table p.tsv --group group --covariates x --out o".split()) == 2
        assert "Levels" in capsys.readouterr().err or values[0] == "AA"
        described = {
            "x": {"Description": "stage", "Levels": dict.fromkeys(values, "")},
            "y": {"Units": "mm"},
        }
        (tmp_path / "p.json").write_text(json.dumps(described))
        assert main("design --table p.tsv --group group --covariates x --out o".split()) == 0
        assert f"x[{sorted(set(values))[1]}]" in capsys.readouterr().out
        assert main("groups --table p.tsv --group group --variables y --covariates x --out o".split()) == 0
        (tmp_path / "p.json").unlink()


# -- visits ---------------------------------------------------------------------------------------------------------


def visits(names, order=()):
    rows = [(who, when) for who in ("a", "b") for when in names]
    table = pd.DataFrame(rows, columns=["participant_id", "visit"])
    return read_visits(table, "participant_id", "visit", order).names


@pytest.mark.parametrize(
    "names",
    [
        ["Mo.6", "Mo.12", "Mo.102"],
        ["ses-2", "ses-10"],
        ["M0.5", "M1", "M1.5", "M10"],
        ["v.1.5", "v.2.5"],
        ["6 mo.", "12 mo."],
        ["baseline.9", "baseline.10"],
    ],
)
def test_visits_are_in_natural_order(names):
    assert visits(names) == tuple(names)
    assert visits(names[::-1]) == tuple(names)


@pytest.mark.parametrize(
    "names", [["v1.9", "v1.10"], ["v1", "v01"], ["v1.5", "v1.50"], ["a1", "b2"], ["pre", "post"]]
)
def test_visits_whose_order_may_be_another_are_asked_for(names):
    with pytest.raises(FileError, match="is unknown; use --visits to define it"):
        visits(names)
    assert visits(names, names) == tuple(names)


def test_visits_have_one_spelling():
    with pytest.raises(FileError, match="visit is 'ses-1' of a and 'Ses-1' of a; use one spelling"):
        visits(["ses-1", "Ses-1", "ses-2"], ["ses-1", "ses-2"])


# -- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        " " * 200_000,
        "[" + " " * 200_000 + "]x",
        "a" + " " * 200_000 + "b",
        "a = '''\n" + '"\\' * 100_000 + "\n'''",
        "a = '''\n" + "[" * 100_000 + "\n'''",
        "# " + '"' * 100_001,
        "a." * 100_000 + "b",
    ],
    ids=["blanks", "header", "key", "marks", "brackets", "comment", "dots"],
)
def test_lines_of_keys_are_found_in_linear_time(text):
    start = time.perf_counter()
    assert config.key_lines(text + "\n[s]\nb = 1\n")[("s", "b")] > 1
    assert time.perf_counter() - start < 20


def test_long_lists_and_long_numbers_of_a_study(tmp_path):
    path = tmp_path / "s.toml"
    (tmp_path / "t.tsv").write_text("participant_id\tgroup\n1\ta\n2\tb\n")
    start, head = time.perf_counter(), '[study]\ntable = "t.tsv"\n[groups]\n'
    names = ", ".join(f'"v{i}"' for i in range(50_000))
    path.write_text(f'{head}order = ["a", "b"]\ncovariates = [{names}]\n')
    assert len(config.read_config(path).groups.covariates) == 50_000
    assert time.perf_counter() - start < 20
    for digits, key in ((400, "reduction"), (5000, "reduction"), (400, "power")):
        section = f'[[sample_size]]\ntitle = "t"\nvariables = ["x"]\n{key} = 1{"0" * digits}\n'
        path.write_text(f'{head}order = ["a", "b"]\n{section}')
        with pytest.raises(FileError, match="digits"):
            config.read_config(path)


def test_numbers_too_large_for_a_condition():
    table = frame(NUMBERS)
    for number in ("1" + "0" * 400, "1e400", "0x" + "f" * 400, "1" + "0" * 5000):
        with pytest.raises(FileError, match=r"too large|not of the form"):
            select(table, f"x < {number}")


def test_forms_of_numbers_take_time_linear_in_the_text():
    """A cell may be as long as its file."""
    n = 200_000
    start = time.monotonic()
    for cell in ("1" * n, "1" * n + "x", "1," * n, "1_" * n, "0" * n + ".", "111 " * n, "1d" * n):
        other_form(cell)
        UNIT.fullmatch(cell)
    assert time.monotonic() - start < 5
