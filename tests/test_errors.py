"""Errors in the input are told in one sentence, exit status 2; everything else is an error of ours, exit status 1."""

from __future__ import annotations

import contextlib
import pickle
import shlex
import signal

import numpy as np
import pytest

from gpuvox import __version__, errors
from gpuvox.cli import main
from gpuvox.cli.main import COMMANDS, guarded
from gpuvox.permtest import ObservedTest

LINE = "randomise -i data -m mask -o out -d design.mat -t design.con -x -T -n 200 --seed 1 --quiet --device cpu"

WRONG = {
    "randomise": ["-i none -o out -m mask -d design.mat -t design.con --quiet", "-i data -o out -n x", "-o out"],
    "palm": [
        "-i none.nii -d design.mat -t design.con", "-i data -d design.mat -t design.con -n x", "-d design.mat",
        "-i data -d design.mat -t design.con -npc -o p",
        "-i data -m mask -d design.mat -t design.con -twotial", "none.txt", "-i data.mgz -d design.mat -t design.con",
        "-i data -m mask -d design.mat -t design.con -o p --permutations none",
        "-i data -save1-p -logp", "-i data -i design.csv",
    ],
    "merge": ["none.tally", "design.mat", ""],
    "design": ["--table none.tsv --out d", "--table design.mat --out d", "--out d", "--table t --out d --order a,b"],
    "longitudinal": ["--table none.tsv --visit session --out l", "--table t --visit s --out l --designs nested"],
    "info": ["everything", "--gpu"],
    "study": ["none.toml", "design.mat", "--plan", "--plan design.mat"],
    "ironmyelin": ["--table none.tsv --out m", "--out m", "--table t --out m --exponent 0.4",
                   "--qsm q --r1 r --out m --visit v"],
    "volumes": ["--table none.tsv --stats a=b.tsv --out v.tsv", "--table t --out v"],
    "rois": ["--table none.tsv --labels mask --map iron=data --out r.tsv", "--table t --labels l --map iron --out r"],
    "clusters": ["--corrected none --out c", "--corrected mask --out c --p 2", "--corrected data --out c"],
    "groups": ["--table none.tsv --group group --out g", "--table t --group g --out g --test age"],
    "models": [
        "", "regression --table none.tsv --outcome y --block a=x --out m", "correlation --table t --x a --out m",
        "samplesize --r 2", "samplesize --d 0.5 --r2 3", "samplesize --d 0.5 --power 2", "samplesize --r 0.1 --d 0.2",
    ],
    "report": ["none.json", "design.mat", ".", "nowhere", ""],
    "voxelwise": ["none.tsv --images data --out v", "design.mat --images data --out v", "t --images data", ""],
    "phantom": ["mask.nii.gz", "new --scale huge", ""],
}  # fmt: skip


@pytest.mark.parametrize("line", [f"{command} {words}" for command in WRONG for words in WRONG[command]])
def test_an_error_in_the_input_is_one_sentence(line, study, capsys):
    before = sorted(study.rglob("*"))
    assert main(shlex.split(line)) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"gpuvox {line.split()[0]}: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(study.rglob("*")) == before


def test_every_command_has_a_wrong_input():
    assert set(WRONG) == set(COMMANDS)


def test_an_error_of_ours_is_not_told_as_the_users(study, capsys, monkeypatch):
    """A broadcast error of numpy in the middle of a run: traceback, a request to report it, nothing half-written."""
    plain, calls = ObservedTest.run, []

    def run(self, start, stop, callback=None):
        calls.append(start)
        if len(calls) > 1:
            np.ones(3) + np.ones(4)
        return plain(self, start, stop, callback)

    monkeypatch.setattr(ObservedTest, "run", run)
    before = sorted(study.rglob("*"))
    assert main(LINE.split()) == 1
    assert len(calls) > 1
    traceback, _, request = capsys.readouterr().err.rstrip().rpartition("\n")
    assert "Traceback (most recent call last):" in traceback
    assert "could not be broadcast" in traceback
    assert request.startswith(f"gpuvox randomise: this is an error in gpuvox {__version__}, not in your input; ")
    assert "please report it" in request
    assert sorted(study.rglob("*")) == before


@pytest.mark.parametrize(
    "error", [ValueError("x"), TypeError("x"), RuntimeError("x"), KeyError("x"), AssertionError()]
)
def test_other_exceptions_are_errors_of_ours(error, capsys):
    def work() -> int:
        raise error

    assert guarded("study", work) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [errors.InputError("x"), errors.DeviceError("x"), errors.SettingError("x"), OSError("x"), MemoryError("x")],
)
def test_exceptions_that_are_no_errors_of_ours(error, capsys):
    def work() -> int:
        raise error

    assert guarded("study", work) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_fails_after_a_signal_was_ended_by_it(number, capsys):
    """As in a callback of the compiler, from which ctypes drops what the handler raises."""

    def work() -> int:
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        raise RuntimeError("no compiled object yet")

    if number == signal.SIGINT:
        assert guarded("randomise", work) == 130
    else:
        with pytest.raises(SystemExit) as ended:
            guarded("randomise", work)
        assert ended.value.code == 128 + number
    assert "error in gpuvox" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("-i data", "-o"), ("-i data -o out -d design.mat", "-t"), ("-n x", "-n"), ("--sed 1", "--sed"),
        ("-i data -o out -1 -x --shard 1/2", "--seed"), ("-U 7", "-U"), ("-n", "-n"), ("-i a -i b", "-i"),
        ("-i data -o out -1 --tls-key k", "--tls-key"), ("-i data -o out -1 --permout --resume", "--permout"),
    ],
)  # fmt: skip
def test_usage_errors_name_their_option(line, option):
    from gpuvox.cli.randomise import check, parse

    with pytest.raises(errors.UsageError) as caught:
        check(parse(line.split()))
    assert caught.value.option == option


@pytest.mark.parametrize(
    "error",
    [
        errors.FileError("no file", option="-i", file="a.nii"),
        errors.InUseError("x", "7"),
        errors.SettingError("x"),
    ],
)
def test_errors_survive_pickling(error):
    """As they do on their way from a worker."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
