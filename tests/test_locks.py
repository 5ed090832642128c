"""Locks, and what a run keeps beside its results: one run at a time, and nothing through links."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuvox import checkpoint
from gpuvox.checkpoint import Checkpoint, RunIdentity, Tallies
from gpuvox.cli.main import main
from gpuvox.errors import FileError, InUseError
from gpuvox.files import locks
from gpuvox.files.locks import check_folders, hold, is_inside, output
from gpuvox.reporter import Reporter
from gpuvox.study.ledger import STATE, Ledger
from gpuvox.study.pipeline import stages
from tests.selection import few

BASE = "randomise -i data -m mask -d design.mat -t design.con -x -n 20 --seed 1 --device cpu --quiet"


@pytest.fixture
def precious(tmp_path):
    """A file that a link leads to."""
    path = tmp_path / "precious.txt"
    path.write_text("precious")
    yield path
    assert path.read_text() == "precious"


def fail(text):
    pytest.fail(f"a warning: {text}")


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path):
    path = tmp_path / "out.lock"
    lock = hold(path, "the output", fail)
    with pytest.raises(InUseError, match=f"the output is in use by another run .process {os.getpid()} on"):
        hold(path, "the output", fail)
    lock.release()
    assert not path.exists()
    with output(tmp_path / "out", fail):
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "process 1 on elsewhere"])
def test_a_lock_of_a_process_that_is_no_more_does_not_block(content, tmp_path):
    path = tmp_path / "out.lock"
    path.write_text(content)
    hold(path, "the output", fail).release()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe", "folder", "text"])
def test_what_is_no_lock_is_left_alone(kind, tmp_path, precious):
    path = tmp_path / "out.lock"
    if kind == "link":
        path.symlink_to(precious)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "new")
    elif kind == "hard link":
        os.link(precious, path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("a text of somebody's")
    before = os.lstat(path)
    with pytest.raises(FileError):
        hold(path, "the output", fail)
    assert os.lstat(path) == before
    assert not (tmp_path / "new").exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """It is said once, however many locks a run has; nothing is left."""

    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    said = []
    for _ in range(2):
        with output(tmp_path / "out", said.append), stages.locked(tmp_path, said.append):
            (tmp_path / "below").mkdir(exist_ok=True)
            with output(tmp_path / "below" / "out", said.append):
                pass
    assert len(said) == 2
    assert all("cannot be locked (Function not implemented)" in text for text in said)
    assert os.listdir(tmp_path) == ["below"]


SLOW = """
import sys, time
from gpuvox.cli.main import main
from gpuvox.tally import Tally
plain = Tally.add
def slow(self, result):
    plain(self, result)
    open("begun", "w").close()
    time.sleep(30)
Tally.add = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("ending", few([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], 1))
def test_two_runs_with_one_output_root(ending, study, capsys):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *BASE.split(), "-o", "out", "--threads", "1"], stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while not (study / "begun").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    capsys.readouterr()
    (study / "link").symlink_to(study)
    for root in ("out", "./out", "link/out"):
        assert main([*BASE.split(), "-o", root]) == 2
        assert f"in use by another run (process {process.pid} on" in capsys.readouterr().err
    assert main([*BASE.split(), "-o", "other"]) == 0
    process.send_signal(ending)
    process.wait(30)
    assert (study / "out.lock").exists() == (ending == signal.SIGKILL)
    assert main([*BASE.split(), "-o", "out"]) == 0
    assert not list(study.glob("*.lock"))


def test_shards_run_side_by_side(study):
    with output("out", fail):
        assert main([*BASE.split(), "-o", "out", "--shard", "1/1"]) == 0
        assert main(["merge", "--quiet", "out_shard1of1.tally"]) == 2
    assert main(["merge", "--quiet", "out_shard1of1.tally"]) == 0


def test_every_command_with_an_output_root_is_alone(study, capsys):
    """Two that write several files of one root would leave files of both."""
    Path("t.tsv").write_text("participant_id\tgroup\tvisit\tx\ty\n")
    lines = {
        "clusters": "--corrected mask --out out",
        "groups": "--table t.tsv --group group --out out",
        "models": "regression --table t.tsv --outcome y --each x --out out",
        "palm": "-i data -m mask -d design.mat -t design.con -n 5 -quiet -o out",
        "design": "--table t.tsv --group group --out out",
        "longitudinal": "--table t.tsv --visit visit --out out",
    }
    with output("out", fail):
        for command, line in lines.items():
            assert main([command, *line.split()]) == 2
            assert "the output out is in use by another run" in capsys.readouterr().err, command
    Path("out").mkdir()
    with output("out/ironmyelin", fail):
        assert (
            main(
                [
                    "ironmyelin",
                    "--qsm",
                    "data",
                    "--r1",
                    "data",
                    "--from-field",
                    "3",
                    "--reference",
                    "none",
                    "--out",
                    "out",
                ]
            )
            == 2
        )
        assert "in use by another run" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- links


def test_a_checkpoint_is_written_through_no_link(tmp_path, precious, monkeypatch):
    path = tmp_path / "c.tally"
    tokens = iter(["0" * 16, "1" * 16])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(tokens))
    (tmp_path / f"c.tally.{'0' * 16}.new").symlink_to(precious)
    (tmp_path / "c.tally.new").symlink_to(precious)
    with pytest.raises(FileError, match="is a link"):
        checkpoint.write(path, Tallies(RunIdentity({}, {})))
    checkpoint.write(path, Tallies(RunIdentity({}, {})))
    assert path.is_file()


def test_a_checkpoint_that_is_a_link_is_refused(tmp_path, precious):
    path = tmp_path / "c.tally"
    for target in (precious, tmp_path / "nowhere"):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        for resume in (False, True):
            with pytest.raises(FileError, match="is a link"):
                Checkpoint(path, RunIdentity({}, {}), resume, fail)
        assert path.is_symlink()


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    left = tmp_path / "c.tally.0123456789abcdef.new"
    left.write_text("half")
    (tmp_path / "c.tally.notes.new").write_text("kept")
    with Checkpoint(tmp_path / "c.tally", RunIdentity({}, {}), False, fail):
        assert sorted(os.listdir(tmp_path)) == ["c.tally", "c.tally.lock", "c.tally.notes.new"]


def test_a_ledger_that_is_a_link_is_refused(tmp_path, precious):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / STATE).symlink_to(precious)
    with pytest.raises(FileError, match="is a link"):
        Ledger.open(tmp_path / "results")


def test_a_ledger_removes_nothing_through_links(tmp_path, precious):
    out = tmp_path / "results"
    out.mkdir()
    (out / "maps").symlink_to(tmp_path)
    done = {"key": {}, "outputs": {f"maps/{precious.name}": "0"}, "seconds": 0, "warnings": []}
    ledger = Ledger(out, {"a": done})
    with pytest.raises(FileError, match="is outside the folder"):
        stages.remove_others(ledger, [])


def test_a_stage_writes_nothing_elsewhere(tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    (out / "maps").symlink_to(tmp_path)
    talk = Reporter(print, print)
    for pattern in ("maps/x.txt", "../x.txt", "maps/../x.txt"):
        stage = stages.Stage("a", {}, (pattern,), lambda talk: pytest.fail("it ran"))
        with pytest.raises(FileError, match="outside"):
            stages.run([stage], Ledger(out), talk)
    with pytest.raises(FileError, match="maps is a link to"), stages.locked(out, fail):
        pass
    (out / "maps").unlink()
    (out / "own").mkdir()
    (out / "maps").symlink_to("own")
    with stages.locked(out, fail):
        pass


def test_what_is_inside(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a2").mkdir()
    (tmp_path / "a" / "up").symlink_to("../a2")
    found = {name: is_inside(name, tmp_path / "a") for name in ("x", "b/x", "c/d/x", "b/../x", "../a/x")}
    assert all(found.values())
    found = {name: is_inside(name, tmp_path / "a") for name in ("../x", "up/x", "../a2/x", "/x", "b/../../x")}
    assert not any(found.values())
    with pytest.raises(FileError, match="up is a link to"):
        check_folders(tmp_path / "a")


def test_maps_replace_a_link_and_not_its_target(study, precious):
    for name in ("out_vox_corrp_tstat1.nii.gz", "out_randomise.json"):
        (study / name).symlink_to(precious)
    assert main([*BASE.split(), "-o", "out"]) == 0
    assert not any(path.is_symlink() for path in study.iterdir())
