"""Text of others does what it says and nothing else, on a terminal and on a page."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import gpuvox
from gpuvox.cli import console, main
from gpuvox.cli.main import guarded
from gpuvox.errors import DeviceError, FileError, InputError, InputWarning
from gpuvox.plain import escaped, several

NASTY = "\x1b]0;pwn\x07\x1b[31mX\x9b2J\u202eY\u2066Z\x7f\r"


def test_what_is_hidden_is_shown():
    assert escaped(NASTY) == r"\x1b]0;pwn\x07\x1b[31mX\x9b2J\u202eY\u2066Z\x7f\r"
    assert escaped("Größe\tα²\n3 µm, 名前, عربي") == "Größe\tα²\n3 µm, 名前, عربي"
    assert escaped("\udce9") == r"\udce9"


@given(st.text())
def test_no_character_is_left_that_steers(text):
    shown = escaped(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in shown if c not in "\t\n")
    assert not any(unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI")
                   for c in shown)  # fmt: skip
    shown.encode()


def test_every_message_leaves_escaped(capsys):
    """Lines, warnings, notices, progress and errors of every kind."""
    console.say(NASTY)
    console.warn(NASTY)
    progress = console.ProgressBar(interval=0)
    progress(NASTY, 1, 2)

    def notice() -> int:
        warnings.warn(NASTY, InputWarning, stacklevel=1)
        return 0

    def failing(error):
        def work():
            raise error

        return work

    assert guarded("study", notice) == 0
    for error in (FileError(NASTY), InputError(NASTY), OSError(NASTY), MemoryError(NASTY), DeviceError(NASTY)):
        assert guarded("study", failing(error)) == 2
    assert main([NASTY]) == 2
    out, err = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e\u2066\x7f\r") & set(out + err)
    assert len(err.splitlines()) == 9
    assert guarded("study", failing(ValueError(NASTY))) == 1
    assert not set("\x1b\x07\x9b\u202e\u2066\x7f\r") & set(capsys.readouterr().err)


def test_a_table_from_others_does_not_reach_the_terminal(tmp_path, capsys):
    (tmp_path / "t.tsv").write_text(
        f"participant_id\tgroup\tage\n1\ta\t3\n{NASTY[:-1]}\tb\tfoo\n3\ta\t5\n4\tb\t7\n"
    )
    (tmp_path / "s.toml").write_text(
        '[study]\ntable = "t.tsv"\n[groups]\norder = ["a", "b"]\ncovariates = ["age"]\n'
    )
    assert main(["study", str(tmp_path / "s.toml")]) == 2
    err = capsys.readouterr().err
    assert r"\x1b" in err
    assert "\x1b" not in err


def test_nothing_is_written_to_the_terminal_elsewhere():
    """But help, the version and the example, which are our own text."""
    allowed = {"cli/console.py": 2, "cli/main.py": 1, "cli/study.py": 1}
    package = Path(gpuvox.__file__).parent
    found = {}
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        count = sum(text.count(f"{stream}.write(") for stream in ("stdout", "stderr", "stream")) + text.count(
            "stderr).write("
        )
        if count:
            found[path.relative_to(package).as_posix()] = count
    assert found == allowed


def test_warnings_of_other_packages_leave_escaped(capsys):
    """numpy and pandas may quote a cell."""

    def work() -> int:
        warnings.warn(NASTY, RuntimeWarning, stacklevel=1)
        return 0

    assert guarded("study", work) == 0
    said = capsys.readouterr().err
    assert "RuntimeWarning" in said
    assert escaped(said) == said


def test_nouns_have_their_number():
    assert [several(n, "volume") for n in (0, 1, 2)] == ["0 volumes", "1 volume", "2 volumes"]
