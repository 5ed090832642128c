"""Checkpoints and shards: whatever ends a run, the rest of it gives the bits of a run that nothing ended.

Runs are made in forked processes where they are killed, and in this one otherwise. The truth is always a run of the
same command without a checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import SHAPE, overriding, save, vest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuvox
from gpuvox import permtest
from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.application import execute
from gpuvox.application.fingerprint import NOT_IN_FINGERPRINT, fingerprint, hash_inputs
from gpuvox.checkpoint import Checkpoint, RunIdentity, Tallies, merge, read, resumable, write
from gpuvox.cli import main, main_randomise
from gpuvox.errors import FileError
from gpuvox.files import locks
from gpuvox.glm import Nuisance
from gpuvox.grid import Grid
from gpuvox.statistics import Statistics
from gpuvox.tail_runs import Tail
from gpuvox.tally import BlockResult, Tally, share, spans
from gpuvox.tfce import Tfce
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.selection import few

FORK = multiprocessing.get_context("fork")
BASE = "-i data -m mask -d design.mat -t design.con -n 100 --seed 1 --quiet"
CASES = {
    "pairs, F, counts": f"{BASE} -f design.fts -T -x -c 1.5 -C 1.2 -F 3 --uncorrp -N -R",
    "two passes": f"{BASE} -T -c 1.5 --twopass --uncorrp -N",
    "voxelwise EVs": f"{BASE} -T -x --uncorrp -N --vxl=3 --vxf=ev",
    "permutations with flips": f"{BASE} -x --uncorrp -N -P --ee --ise --cmcp --cmcx",
    "sign flips, exact integral": "-i data -m mask -1 -n 250 --seed 3 --quiet -x --tfce-exact -v 3 -N",
}


@pytest.fixture
def work(study, monkeypatch):
    """The study; checkpoints are written after every range of four shuffles."""
    save(study / "ev.nii.gz", np.random.default_rng(5).normal(size=(*SHAPE, 10)))
    monkeypatch.setattr(resumable, "INTERVAL", 0.0)
    monkeypatch.setattr(resumable, "SHARE_OF_TIME", math.inf)
    monkeypatch.setattr(permtest.ObservedTest, "batch", 4)
    return study


def run(line: str, *extra: str) -> int:
    return main_randomise(overriding(line.split(), extra))


def outputs(folder: Path, root: str = "out") -> dict[str, object]:
    """Every file of a run but its tallies, by name; JSON without times and commands."""
    found: dict[str, object] = {}
    for path in folder.glob(f"{root}*"):
        if path.suffix == ".json":
            about = json.loads(path.read_text())
            for key in ("command", "command_of_shards", "threads", "device"):
                about.pop(key, None)
            for test in about["tests"]:
                del test["seconds"]
            found[path.name] = about
        elif not path.name.endswith((".tally", ".lock")):
            found[path.name] = path.read_bytes()
        path.unlink()
    return found


TRUTH: dict[str, dict[str, object]] = {}


def expected(folder: Path, line: str) -> dict[str, object]:
    """What the command writes if nothing ends it; run once, the studies being all alike."""
    if line not in TRUTH:
        assert run(line, "-o", "out") == 0
        TRUTH[line] = outputs(folder)
    return TRUTH[line]


def child(work, *arguments):
    """Start a process that runs something and ends with its exit status."""
    process = FORK.Process(target=lambda: sys.exit(work(*arguments)))
    process.start()
    return process


def stop_after(monkeypatch, n: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """From now on a run ends after n results of it, as by a signal."""
    counter = itertools.count(1)
    plain = Tally.add

    def add(self, result):
        plain(self, result)
        if next(counter) == n:
            monkeypatch.setattr(Tally, "add", plain)
            raise error

    monkeypatch.setattr(Tally, "add", add)


def sentence(capsys) -> str:
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    assert "Traceback" not in message
    return message


# -- killed --------------------------------------------------------------------------------------------------------


def kill_after(process, path: Path, changes: int, wait: float) -> None:
    """SIGKILL when the file has changed so many times, and a moment later."""
    seen = None
    while changes and process.is_alive():
        stat = path.stat() if path.exists() else None
        now = stat and (stat.st_ino, stat.st_mtime_ns)
        if now != seen:
            seen, changes = now, changes - 1
        time.sleep(2e-4)
    time.sleep(wait)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("case", few(CASES, 1))
def test_killed_five_times_at_random_moments(case, work, monkeypatch):
    """Twenty times in all, each with shuffles done and shuffles left."""
    line, path = CASES[case].replace("-n 100", "-n 240"), work / "c.tally"
    truth = expected(work, line)
    plain = Tally.add
    # Slow enough for this process to see each writing, though others want the processors.
    monkeypatch.setattr(Tally, "add", lambda self, result: (plain(self, result), time.sleep(3e-3)))
    rng = np.random.default_rng(len(case))
    done = [0]
    for attempt in range(5):
        extra = ["-o", "out", "--checkpoint", "c.tally", "--threads", str(rng.integers(1, 4))]
        process = child(run, line, *extra, *(["--resume"] if attempt else []))
        kill_after(process, path, int(rng.integers(3, 8)), float(rng.random() * 0.01))
        assert process.exitcode == -signal.SIGKILL
        kept = read(path)
        done.append(kept.n_done)
        passes = 2 if case == "two passes" else 1
        assert done[-2] < done[-1] < passes * sum(kept.identity.shuffles.values())
    monkeypatch.setattr(Tally, "add", plain)
    assert run(line, *extra, "--resume") == 0
    assert outputs(work) == truth
    assert not [path for path in work.iterdir() if "tally" in path.name or path.name.startswith(".")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_what_is_done(number, status, work, monkeypatch, capfd):
    monkeypatch.setattr(resumable, "INTERVAL", 1e9)
    line = CASES["pairs, F, counts"]
    truth = expected(work, line)
    plain = Tally.add

    def slow(self, result):
        plain(self, result)
        (work / "begun").touch()
        time.sleep(0.01)

    monkeypatch.setattr(Tally, "add", slow)
    process = child(run, line, "-o", "out", "--checkpoint", "c.tally")
    while not (work / "begun").exists():
        time.sleep(1e-3)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == status
    assert "kept in c.tally, from which the run can be resumed" in capfd.readouterr().err
    assert 0 < read("c.tally").n_done < 300
    monkeypatch.setattr(Tally, "add", plain)
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--resume") == 0
    assert outputs(work) == truth
    assert not list(work.glob("c.tally*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_that_python_drops_ends_the_run_too(number, status, work, monkeypatch, capfd):
    """An exception within a destructor goes no further."""
    monkeypatch.setattr(resumable, "INTERVAL", 1e9)
    plain = Tally.add

    class Kills:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # the handler runs here

    def add(self, result):
        plain(self, result)
        if self.n_done > 10 and not (work / "sent").exists():
            (work / "sent").touch()
            Kills()

    monkeypatch.setattr(Tally, "add", add)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnraisableExceptionWarning)
        process = child(run, CASES["pairs, F, counts"], "-o", "out", "--checkpoint", "c.tally", "--threads", "1")
        process.join()
    assert process.exitcode == status
    assert "kept in c.tally, from which the run can be resumed" in capfd.readouterr().err
    assert 0 < read("c.tally").n_done < 300


def test_a_signal_amid_an_addition_keeps_what_was_written_before(work, monkeypatch):
    """Counts that are added and not marked as done would be added twice."""
    line = CASES["pairs, F, counts"]
    truth = expected(work, line)
    calls = itertools.count(1)

    class Interrupting(dict):
        def items(self):
            yield from super().items()
            if next(calls) == 12:
                raise KeyboardInterrupt  # after the counts of a block, before it is marked as done

    plain = permtest.ObservedTest.run

    def interrupted(self, *arguments):
        result = plain(self, *arguments)
        return dataclasses.replace(result, below=Interrupting(result.below))

    monkeypatch.setattr(permtest.ObservedTest, "run", interrupted)
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--threads", "1") == 130
    monkeypatch.setattr(permtest.ObservedTest, "run", plain)
    assert read("c.tally").n_done == 44
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--resume") == 0
    assert outputs(work) == truth


@pytest.mark.parametrize("case", CASES)
def test_other_threads_and_batches(case, work, monkeypatch):
    """Ranges that are left need not begin where ranges begin."""
    line = CASES[case]
    truth = expected(work, line)
    stop_after(monkeypatch, 9)
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--threads", "3") == 130
    monkeypatch.setattr(permtest.ObservedTest, "batch", 7)
    stop_after(monkeypatch, 11)
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--threads", "2", "--resume") == 130
    monkeypatch.setattr(permtest.ObservedTest, "batch", 64)
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--threads", "1", "--resume") == 0
    assert outputs(work) == truth


def overflowing(folder: Path) -> tuple[str, np.ndarray]:
    """A command whose TFCE needs more than the 512 steps prepared for in two permutations, and which those are."""
    vest(folder / "age.con", [[0, 0, 1]], ("NumWaves", "NumContrasts"))
    line = "-i data -m mask -d design.mat -t age.con -n 60 --seed 10 --quiet"
    assert run(line, "-o", "probe", "-x", "-N") == 0
    maxima = np.loadtxt("probe_vox_corrp_tstat1.txt")
    third, second = np.sort(maxima)[-3:-1]
    assert maxima[0] < third
    return f"{line} -T -N --tfce_D {(second + third) / 2 / 512:.6f}", np.flatnonzero(maxima >= second)


def test_a_run_that_needs_more_steps_of_tfce(work, monkeypatch):
    """What was counted with fewer steps is not mixed with the rest, and the recorded number is gone on with."""
    line, high = overflowing(work)
    truth = expected(work, line)
    stop_after(monkeypatch, 1)
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--threads", "1") == 130
    caps = [read("c.tally").tests["tstat1"].level_cap]
    stop_after(monkeypatch, 14)
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--threads", "1", "--resume") == 130
    caps.append(read("c.tally").tests["tstat1"].level_cap)
    assert (high >= 4).all()
    assert caps == [512, 1024]
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--resume") == 0
    assert outputs(work) == truth


# -- files that are damaged, or made up ------------------------------------------------------------------------------


@pytest.fixture
def tally(work, monkeypatch):
    """The checkpoint of a run that was interrupted."""
    stop_after(monkeypatch, 40)
    assert run(CASES["pairs, F, counts"], "-o", "out", "--checkpoint", "c.tally") == 130
    return work / "c.tally"


def test_torn_files(tally, capsys):
    content, before = tally.read_bytes(), sorted(os.listdir())
    assert len(content) > 5000
    for length in {0, 1, 12, 13, 14, 77, 78, 79, 80, len(content) - 1, *range(0, len(content), 97)}:
        tally.write_bytes(content[:length])
        with pytest.raises(FileError, match=r"c\.tally"):
            read(tally)
    capsys.readouterr()
    for extra, words in (([], "remove the file"), (["--resume"], "damaged")):
        assert run(CASES["pairs, F, counts"], "-o", "out", "--checkpoint", "c.tally", *extra) == 2
        assert words in sentence(capsys)
        assert tally.read_bytes() == content[:length]
    assert sorted(os.listdir()) == before


def test_edited_bytes(tally):
    content = tally.read_bytes()
    for at in {*range(100), *range(0, len(content), 101)}:
        for change in (1, 0x80):
            edited = bytearray(content)
            edited[at] ^= change
            tally.write_bytes(edited)
            with pytest.raises(FileError):
                read(tally)
    tally.write_bytes(content + b"\n")
    with pytest.raises(FileError, match="damaged"):
        read(tally)
    tally.write_bytes(content.replace(b"gpuvox tally 1", b"gpuvox tally 2", 1))
    with pytest.raises(FileError, match=r"format '2'.* reads format 1"):
        read(tally)


def sealed(path: Path, header: object, arrays: bytes = b"", raw: bytes | None = None) -> Path:
    """A file whose checksum is right, whatever it says."""
    body = (json.dumps(header).encode() if raw is None else raw) + b"\n" + arrays
    path.write_bytes(b"gpuvox tally 1\n" + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    return path


class Payload:
    def __reduce__(self):
        return os.mkdir, ("the_payload_ran",)


def test_no_code_is_run(work, capsys):
    """Object arrays and pickles are refused unread."""
    header = {
        "run": {"software": {}, "files": {}, "options": {}}, "shuffles": {"tstat1": 1}, "command": [], "shard": None,
        "tests": [{"name": "tstat1", "level_cap": 512, "passes": [{"n": 1, "done": [[0, 1]], "arrays": []}]}],
    }  # fmt: skip
    assert read(sealed(work / "good.tally", header)).n_done == 1
    payload = pickle.dumps([Payload()])
    for dtype in ("|O", "O", "object", "|V8", "<U4", "<M8[s]"):
        header["tests"][0]["passes"][0]["arrays"] = [["maxima", "vox", dtype, 1]]
        with pytest.raises(FileError, match="has invalid content"):
            read(sealed(work / "bad.tally", header, payload[: 2 * np.dtype(dtype).itemsize]))
    np.savez("objects.npz", maxima=np.array([Payload()], dtype=object))
    (work / "bare.tally").write_bytes(payload)
    (work / "line.tally").write_bytes(b"gpuvox tally 1\n" + payload)
    for name in ("bad.tally", "objects.npz", "bare.tally", "line.tally"):
        assert main(["merge", name]) == 2
        assert run(BASE, "-o", "out", "-x", "--checkpoint", name, "--resume") == 2
        assert "Traceback" not in capsys.readouterr().err
    assert not (work / "the_payload_ran").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place of a piece of JSON."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_made_up_headers(data, tmp_path_factory):
    """With a right checksum anything may stand in the file: it is read, or refused in a sentence."""
    path = tmp_path_factory.mktemp("fuzz") / "c.tally"
    tallies = Tallies(
        RunIdentity({"software": {}, "files": {}, "options": {"--seed": 1}}, {"tstat1": 9}, ("-n", "9"))
    )
    kept = Tally(9)
    kept.add(BlockResult(2, 4, {"vox": np.ones((2, 2), np.float32)}, {"vox": np.ones((2, 3), np.int64)}))
    tallies.store("tstat1").passes.append(kept)
    write(path, tallies)
    header, _, arrays = path.read_bytes()[80:].partition(b"\n")
    header = json.loads(header)
    place = data.draw(st.sampled_from(list(places(header))))
    target = header
    for key in place[:-1]:
        target = target[key]
    if place:
        target[place[-1]] = data.draw(JSON)
    else:
        header = data.draw(JSON)
    raw = data.draw(st.none() | st.binary(max_size=50))
    cut = data.draw(st.just(len(arrays)) | st.integers(0, 80))
    try:
        found = read(sealed(path, header, arrays[:cut], raw))
    except FileError as error:
        assert "c.tally" in str(error)  # noqa: PT017
        return
    assert 0 <= found.n_done <= 2**31


def test_tallies_of_another_test_are_refused(tally, monkeypatch, capsys):
    """A right checksum, the right run, and arrays that are not those of the test."""
    kept = read(tally)
    capsys.readouterr()
    kept.tests["fstat1"].passes[0].below["vox"] = np.ones((2, 3), np.int64)
    write(tally, kept)
    assert run(CASES["pairs, F, counts"], "-o", "out", "--checkpoint", "c.tally", "--resume") == 2
    assert "does not belong to this test" in capsys.readouterr().err


# -- the disk and other processes ------------------------------------------------------------------------------------


def limited(line: str, size: int, *extra: str) -> int:
    """Run with files limited to a size, as on a full disk. Loops are compiled before, so that they can be kept."""
    assert run(line, "-o", "compiled", "-n", "20") == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return run(line, *extra)


BIG = "-i data -m mask -d design.mat -t design.con --skipTo=3 -n 1500 --seed 1 --quiet -T -x --uncorrp"


def test_a_full_disk_is_said_once_and_the_run_goes_on(work, monkeypatch, capfd):
    monkeypatch.setattr(permtest.ObservedTest, "batch", 60)
    truth = expected(work, BIG)
    process = child(limited, BIG, 12000, "-o", "out", "--checkpoint", "c.tally")
    process.join()
    message = capfd.readouterr().err
    assert process.exitcode == 0
    assert message.count("Warning") == message.count("the checkpoint could not be updated; the run continues") == 1
    assert "c.tally" in message
    assert outputs(work) == truth
    assert not list(work.glob("*tally*"))
    assert not list(work.glob(".gpuvox*"))


def test_a_full_disk_leaves_the_checkpoint_of_before(work, monkeypatch, capfd):
    monkeypatch.setattr(permtest.ObservedTest, "batch", 60)
    truth = expected(work, BIG)
    stop_after(monkeypatch, 20)
    process = child(limited, BIG, 12000, "-o", "out", "--checkpoint", "c.tally")
    process.join()
    assert process.exitcode == 130
    assert 0 < read("c.tally").n_done < 1200
    monkeypatch.undo()
    os.chdir(work)
    assert run(BIG, "-o", "out", "--checkpoint", "c.tally", "--resume") == 0
    assert outputs(work) == truth


def test_a_shard_that_cannot_be_written_is_an_error(work, monkeypatch, capfd):
    monkeypatch.setattr(permtest.ObservedTest, "batch", 60)
    process = child(limited, BIG, 12000, "-o", "out", "--shard", "1/1")
    process.join()
    message = capfd.readouterr().err
    assert process.exitcode == 2
    assert "out_shard1of1.tally cannot be written" in message
    with pytest.raises(FileError, match="cannot be written"):
        Checkpoint("nowhere/c.tally", RunIdentity({}, {}), False, print)


def test_two_runs_on_one_checkpoint(work, monkeypatch, capsys):
    line = CASES["two passes"]
    truth = expected(work, line)
    plain = Tally.add

    def slow(self, result):
        plain(self, result)
        (work / "begun").touch()
        time.sleep(0.05)

    monkeypatch.setattr(Tally, "add", slow)
    process = child(run, line, "-o", "out", "--checkpoint", "c.tally")
    while not (work / "begun").exists():
        time.sleep(1e-3)
    monkeypatch.setattr(Tally, "add", plain)
    for extra in ([], ["--resume"]):
        assert run(line, "-o", "other", "--checkpoint", "c.tally", *extra) == 2
        assert f"in use by another run (process {process.pid} on" in sentence(capsys)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (work / "c.tally.lock").exists()  # of a process that is no more
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--resume") == 0
    assert outputs(work) == truth
    assert not list(work.glob("c.tally*"))


def test_when_it_is_written(work, monkeypatch):
    """At the start, every minute, at the end of each test; large files less often."""
    written = []
    plain = resumable.write
    monkeypatch.setattr(resumable, "write", lambda path, tallies: (written.append(1), plain(path, tallies)))
    monkeypatch.setattr(resumable, "INTERVAL", 1e9)
    line = f"{CASES['pairs, F, counts']} -o out --checkpoint c.tally --threads 1"
    assert run(line) == 0
    assert len(written) == 1 + 3
    written.clear()
    monkeypatch.setattr(resumable, "INTERVAL", 0.0)
    assert run(line) == 0
    assert len(written) == 1 + 75
    written.clear()
    monkeypatch.setattr(resumable, "SHARE_OF_TIME", 1e-9)
    assert run(line) == 0
    assert len(written) == 1


def test_a_file_system_without_locks(work, monkeypatch, capsys):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    assert run(BASE, "-x", "-o", "out", "--checkpoint", "c.tally") == 0
    assert "cannot be locked (No locks available)" in sentence(capsys)


# -- is it the same run? ---------------------------------------------------------------------------------------------


def change_data(folder):
    save(folder / "data.nii.gz", np.random.default_rng(9).normal(size=(*SHAPE, 10)))


def change_design(folder):
    vest(folder / "design.mat", np.random.default_rng(9).normal(size=(10, 3)))


CHANGES = {
    "data": (change_data, [], ["data.nii.gz (-i)"]),
    "mask": (lambda f: save(f / "mask.nii.gz", np.ones(SHAPE)), [], ["mask.nii.gz (-m)"]),
    "design": (change_design, [], ["design.mat (-d)"]),
    "seed": (None, ["--seed", "2"], ["--seed is 1 in the checkpoint, 2 in this run"]),
    "permutations": (None, ["-n", "99"], ["-n is 100 in the checkpoint, 99 in this run"]),
    "TFCE": (None, ["--tfce_E", "0.6"], ["--tfce_E is 0.5 in the checkpoint, 0.6 in this run"]),
    "threshold": (None, ["-C", "9"], ["-C is 1.2 in the checkpoint, 9.0 in this run"]),
    "threshold of F": (None, ["-S", "9"], ["-S is not set in the checkpoint, 9.0 in this run"]),
    "nuisance": (None, ["-U", "0"], ["-U is 1 in the checkpoint, 0 in this run"]),
    "smoothing": (None, ["-v", "2"], ["-v is 0.0 in the checkpoint, 2.0"]),
    "demeaning": (None, ["-D"], ["-D is off in the checkpoint, on in this run"]),
    "blocks": (None, ["-e", "design.grp"], ["-e has no files in the checkpoint, 1 in this run"]),
    "two things": (change_design, ["--twopass"], ["design.mat", "--twopass is off"]),
    "a shard": (None, ["--shard", "1/2"], ["--shard is not set in the checkpoint, 1/2 in this run"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused(name, tally, capsys):
    change, extra, words = CHANGES[name]
    if change:
        change(tally.parent)
    before = {path: path.read_bytes() for path in tally.parent.iterdir()}
    capsys.readouterr()
    if name == "two things":
        extra = [*extra, "--seed=1"]
    assert run(CASES["pairs, F, counts"], "-o", "out", "--checkpoint", "c.tally", "--resume", *extra) == 2
    message = sentence(capsys)
    assert "c.tally is the checkpoint of another run" in message
    for word in words:
        assert word in message
    assert {path: path.read_bytes() for path in tally.parent.iterdir()} == before


def test_another_version_is_refused(tally, monkeypatch, capsys):
    monkeypatch.setattr("gpuvox.jit.__version__", "9.8.7")
    capsys.readouterr()
    assert run(CASES["pairs, F, counts"], "-o", "out", "--checkpoint", "c.tally", "--resume") == 2
    assert f"gpuvox is {gpuvox.__version__} in the checkpoint, 9.8.7 in this run" in sentence(capsys)


def test_what_changes_no_bit_is_not_asked_for(tally, work):
    """Another name of the output and of a file, other maps to write, other threads."""
    line = CASES["pairs, F, counts"]
    (work / "design.mat").rename(work / "renamed.mat")
    extra = ["-d", "renamed.mat", "-o", "elsewhere", "--threads", "1", "-P"]
    assert run(line, *extra, "--checkpoint", "c.tally", "--resume") == 0
    mine = outputs(work, "elsewhere")
    assert run(line, *extra) == 0
    assert mine == outputs(work, "elsewhere")


def test_the_seed_that_was_drawn_is_gone_on_with(work, monkeypatch, capsys):
    line = BASE.replace("--seed 1", "-x -N")
    stop_after(monkeypatch, 10)
    assert run(line, "-o", "out", "--checkpoint", "c.tally") == 130
    seed = read("c.tally").seed
    assert run(line, "-o", "out", "--checkpoint", "c.tally", "--resume") == 0
    assert json.loads(Path("out_randomise.json").read_text())["seed"] == seed
    mine = outputs(work)
    assert mine == expected(work, f"{line} --seed {seed}")


def test_results_are_not_overwritten(tally, capsys):
    before = tally.read_bytes()
    capsys.readouterr()
    assert run(CASES["pairs, F, counts"], "-o", "out", "--checkpoint", "c.tally") == 2
    message = sentence(capsys)
    assert f"c.tally already holds {read(tally).n_done} permutations" in message
    assert "--resume" in message
    assert "remove the file" in message
    assert tally.read_bytes() == before


def test_resume_without_a_checkpoint(work, capsys):
    for extra in ([], ["--seed=1"]):
        assert run(BASE.replace("--seed 1", "-x"), "-o", "out", "--resume", *extra) == 2
        assert "--resume: there is no checkpoint out_checkpoint.tally" in sentence(capsys)
    assert not list(work.glob("out*"))


def test_long_runs_have_a_checkpoint_unasked(work, monkeypatch, capsys):
    """And nothing is left of it, where a run ends well or before anything is done."""
    line = CASES["sign flips, exact integral"]
    truth = expected(work, line)
    made = []
    plain = resumable.write
    monkeypatch.setattr(resumable, "write", lambda path, tallies: (made.append(str(path)), plain(path, tallies)))
    assert run(line, "-o", "out") == 0
    assert not made
    monkeypatch.setattr(execute, "LONG_RUN", 0.0)
    assert run(line, "-o", "out") == 0
    assert set(made) == {"out_checkpoint.tally"}
    assert outputs(work) == truth
    spoilt = np.full((*SHAPE, 10), np.nan)
    save(work / "data.nii.gz", spoilt)
    assert run(line, "-o", "out") == 2
    assert not list(work.glob("out*"))
    capsys.readouterr()
    made.clear()
    save(work / "data.nii.gz", np.random.default_rng(0).normal(size=(*SHAPE, 10)))
    assert run(line.replace("-n 250", "-n 2"), "-o", "out", "--permout") == 0  # writes maps as it goes: none
    assert not made


def inputs_and_options() -> tuple[Inputs, Options]:
    rng = np.random.default_rng(2)
    grid = Grid(rng.random((5, 6, 4)) < 0.9)
    data = rng.normal(size=(12, grid.n_voxels)).astype(np.float32)
    design = np.c_[np.ones(12), np.arange(12) % 2, rng.normal(size=12)]
    contrasts = np.array([[0, 1, 0], [0, -1, 0], [0, 0, 1.0]])
    wanted = Statistics(True, Tfce(), 1.5, 1.2, uncorrected=True, two_pass=True)
    f = dataclasses.replace(wanted, two_pass=False)
    return Inputs(data, grid, design, contrasts, np.array([[1, 0, 1]])), Options(wanted, f, 60, seed=4, threads=1)


OTHER = {
    "n_permutations": 61, "seed": 5, "flip": True, "demean": True, "nuisance": Nuisance.KENNEDY, "whole_blocks": True,
    "detect_null": True, "f_only": True, "joint_steps": True, "only_test": 2, "variance_mm": 1.0,
    "permute_and_flip": True, "within_blocks": True, "repeats": True, "distinct_rows": True, "tail": Tail("pareto"),
    "missing_voxels": True, "variance_groups": (1, 2) * 6,
}  # fmt: skip
OF_PYTHON = {"within_blocks", "Tfce.rule"}
"""Fields that no option of a command sets."""


def test_every_option_makes_another_run():
    """An option that is added and not compared would let two runs be mixed."""
    inputs, options = inputs_and_options()
    assert set(OTHER) == {f.name for f in dataclasses.fields(Options)} - {
        *NOT_IN_FINGERPRINT, "statistics", "f_statistics",
    }  # fmt: skip
    more = {"tail": Tail("gamma"), "variance_groups": "auto"}
    changed = [dataclasses.replace(options, **{k: v}) for one in (OTHER, more) for k, v in one.items()]
    changed.append(dataclasses.replace(options, variance_groups=(2, 1) * 6))
    for part in ("statistics", "f_statistics"):
        wanted = getattr(options, part)
        tfce = [{"H": 1.0}, {"E": 1.0}, {"connectivity": 26}, {"delta": 0.1}, {"exact": True}, {"rule": "palm"}]
        assert {name for one in tfce for name in one} == {f.name for f in dataclasses.fields(Tfce)}
        values = [{"tfce": dataclasses.replace(wanted.tfce, **one)} for one in tfce] + [
            {"tfce": None}, {"voxel": False}, {"extent": 1.6}, {"mass": 1.6}, {"uncorrected": False},
            {"two_pass": not wanted.two_pass}, {"two_sided": True},
        ]  # fmt: skip
        assert {name for one in values for name in one} == {f.name for f in dataclasses.fields(Statistics)}
        changed += [dataclasses.replace(options, **{part: dataclasses.replace(wanted, **one)}) for one in values]
    runs = [json.dumps(fingerprint({}, one), sort_keys=True) for one in [options, *changed]]
    assert len(set(runs)) == len(runs)
    assert {name for name in json.loads(runs[0])["options"] if not name.startswith("-")} == OF_PYTHON
    identities = [RunIdentity(json.loads(one), {}) for one in runs]
    for other in identities[1:]:
        with pytest.raises(
            FileError, match=r"one and other belong to different runs: \S+.* is .* in one, .* in other"
        ):
            merge({"one": Tallies(identities[0]), "other": Tallies(other)})
    before = hash_inputs(inputs, options)
    inputs.data[3, 5] += 1
    assert [name for name in before if hash_inputs(inputs, options)[name] != before[name]] == ["data"]


OF_RUNS = {
    "permute_and_flip": (True, {}, "--ee with --ise is off in the checkpoint, on in this run"),
    "within_blocks": (
        True, {"whole_blocks": True, "blocks": [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]},
        "within_blocks is off in the checkpoint, on in this run",
    ),
    "repeats": (True, {}, "--cmcp is off in the checkpoint, on in this run"),
    "distinct_rows": (True, {}, "--cmcx is off in the checkpoint, on in this run"),
    "tail": ("gamma", {}, "--tail is not set in the checkpoint, gamma in this run"),
    "missing_voxels": (True, {}, "--missing voxelwise is off in the checkpoint, on in this run"),
    "variance_groups": ([1, 2] * 5, {}, r"--variance-groups is \[\] in the checkpoint, \[0, 1, 0, .*\] in this run"),
}  # fmt: skip


@pytest.mark.parametrize("name", few(OF_RUNS, 1))
def test_a_checkpoint_without_a_setting_is_refused_by_a_run_with_it(name, work, monkeypatch):
    """And the other way round."""
    value, others, words = OF_RUNS[name]
    given_to = {"mask": "mask", "n_permutations": 100, "seed": 1, "uncorrected": True, "threads": 1, **others}
    arguments = ("data", "design.mat", "design.con")
    for first, then in ((given_to, given_to | {name: value}), (given_to | {name: value}, given_to)):
        stop_after(monkeypatch, 3)
        with pytest.warns(UserWarning, match="kept in"), pytest.raises(KeyboardInterrupt):
            gpuvox.randomise(*arguments, checkpoint="c.tally", **first)
        content = Path("c.tally").read_bytes()
        with pytest.raises(FileError, match=words if then is not given_to else "is the checkpoint of another run"):
            gpuvox.randomise(*arguments, checkpoint="c.tally", resume=True, **then)
        assert Path("c.tally").read_bytes() == content
        Path("c.tally").unlink()


# -- from Python, and on a device ------------------------------------------------------------------------------------


def test_from_python(study, monkeypatch):
    settings = {"mask": "mask", "n_permutations": 200, "tfce": True, "uncorrected": True}
    arguments = ("data", "design.mat", "design.con")
    monkeypatch.setattr(permtest.ObservedTest, "batch", 16)
    stop_after(monkeypatch, 8)
    with pytest.warns(UserWarning, match="kept in"), pytest.raises(KeyboardInterrupt):
        gpuvox.randomise(*arguments, checkpoint="c.tally", **settings)
    with pytest.raises(FileError, match="-n is 200 in the checkpoint, 201 in this run"):
        gpuvox.randomise(*arguments, checkpoint="c.tally", resume=True, **settings | {"n_permutations": 201})
    mine = gpuvox.randomise(*arguments, checkpoint="c.tally", resume=True, **settings)
    plain = gpuvox.randomise(*arguments, seed=mine.options.seed, **settings)
    for name, values in plain.maps.items():
        np.testing.assert_array_equal(mine.maps[name], values)
    for name, values in plain.nulls.items():
        np.testing.assert_array_equal(mine.nulls[name], values)
    assert not list(study.glob("c.tally*"))
    with pytest.raises(ValueError, match="resume needs"):
        gpuvox.randomise(*arguments, resume=True)


@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
@pytest.mark.parametrize("first_on_device", [True, False])
def test_on_a_device(first_on_device, monkeypatch, tmp_path):
    """Begun on one and finished on the other: the bits of the CPU alone."""
    inputs, options = inputs_and_options()
    truth = list(analyse(prepare(inputs, options)))
    devices = [ShimDevice(n_processors=1), None] if first_on_device else [None, ShimDevice(n_processors=1)]
    monkeypatch.setattr(permtest, "BATCH_BYTES", 4 * inputs.grid.n_voxels * 16)
    stop_after(monkeypatch, 3 if first_on_device else 10)
    kept = Tallies(RunIdentity({}, {}))
    with pytest.raises(KeyboardInterrupt):
        list(analyse(prepare(inputs, dataclasses.replace(options, device=devices[0])), open_store=kept.store))
    assert 0 < kept.n_done < 240
    for result, other in zip(
        truth, analyse(prepare(inputs, dataclasses.replace(options, device=devices[1])), open_store=kept.store)
    ):
        for mine, theirs in ((other.maps, result.maps), (other.nulls, result.nulls)):
            assert mine.keys() == theirs.keys()
            for name, values in theirs.items():
                np.testing.assert_array_equal(mine[name], values, err_msg=name)


# -- shards ----------------------------------------------------------------------------------------------------------


def shards(line: str, n: int, *extra: str) -> list[str]:
    for i in range(1, n + 1):
        assert run(line, "-o", "out", "--shard", f"{i}/{n}", *extra) == 0
    return [f"out_shard{i}of{n}.tally" for i in range(1, n + 1)]


def test_shards_merge_without_their_scratch_folder(work):
    """It was on another machine, as those of a queue are."""
    line = CASES["pairs, F, counts"]
    truth = expected(work, line)
    names = []
    for i in (1, 2):
        folder = work / f"node{i}"
        folder.mkdir()
        assert run(line, "-o", "out", "--shard", f"{i}/2", "--scratch", f"node{i}") == 0
        folder.rmdir()
        names.append(f"out_shard{i}of2.tally")
    assert main(["merge", "--quiet", *names, "--scratch", "nowhere"]) == 2
    assert main(["merge", "--quiet", *names]) == 0
    assert outputs(work) == truth


@pytest.mark.parametrize("kind", ["pipe", "folder", "table", "endless"])
def test_what_is_no_checkpoint_is_left_alone(kind, work, capsys):
    """It is neither read to its end nor to be removed."""
    path = {"table": "design.mat", "endless": "/dev/zero"}.get(kind, "c.tally")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "table":
        Path("c.tally").write_bytes(Path(path).read_bytes())
        path = "c.tally"
    for extra in ([], ["--resume"]):
        assert run(CASES["pairs, F, counts"], "-o", "out", "--checkpoint", path, *extra) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "remove" not in message
    assert main(["merge", path]) == 2
    assert Path(path).exists()
    assert not Path(f"{path}.lock").exists()


@pytest.mark.parametrize("case", [case for case in CASES if case != "two passes"])
def test_shards_merged_are_the_whole_run(case, work):
    line = CASES[case]
    truth = expected(work, line)
    names = shards(line, 3)
    assert sorted(path.name for path in work.glob("out*")) == names
    for order in ((0, 1, 2), (2, 0, 1)):
        assert main(["merge", "--quiet", *(names[i] for i in order)]) == 0
        kept = {name: Path(name).read_bytes() for name in names}
        assert outputs(work) == truth
        for name, content in kept.items():
            Path(name).write_bytes(content)
    assert main(["merge", "--quiet", *names, "--out", "elsewhere", "--threads", "1"]) == 0
    moved = outputs(work, "elsewhere")
    assert {name.replace("elsewhere", "out") for name in moved} == set(truth)
    assert moved["elsewhere_tstat1.nii.gz"] == truth["out_tstat1.nii.gz"]


@pytest.mark.parametrize("way", ["absolute", "relative", "link", "to a link"])
def test_shards_from_others_do_not_choose_where_to_write(way, work, capsys, monkeypatch):
    """Outside the current folder the output is asked for, and is said before anything is written."""
    line, home, here = CASES["pairs, F, counts"], work / "home", work / "received"
    home.mkdir()
    here.mkdir()
    (home / "final_tstat1.nii.gz").write_text("last year's")
    for name in ("data.nii.gz", "mask.nii.gz", "design.mat", "design.con", "design.fts"):
        shutil.copy(name, here)
    monkeypatch.chdir(here)
    if "link" in way:
        os.symlink("../home", "results")
    os.makedirs("down", exist_ok=True)
    root = {"absolute": str(home / "final"), "relative": "down/../../home/final"}.get(way, "results/final")
    for i in (1, 2):
        assert run(line, "-o", root, "--shard", f"{i}/2", "--checkpoint", f"{i}.tally") == 0
    capsys.readouterr()
    assert main(["merge", "1.tally", "2.tally"]) == 2
    assert f"output root of the shards, {root}, is not in the current folder; --out" in capsys.readouterr().err
    assert [path.read_text() for path in home.iterdir()] == ["last year's"]
    assert main(["merge", "1.tally", "2.tally", "--out", "down/mine"]) == 0
    assert capsys.readouterr().out.startswith("Merging to down/mine\n")
    assert (here / "down" / "mine_tstat1.nii.gz").exists()
    assert main(["merge", "1.tally", "2.tally", "--out", root, "--quiet"]) == 0  # who asks for it is given it
    assert (home / "final_tstat1.nii.gz").read_bytes() != b"last year's"


def test_more_shards_than_shuffles_and_uneven_divisions(work):
    line = "-i data -m mask -d design.mat -t design.con -n 5 --seed 1 --quiet -T --uncorrp"
    truth = expected(work, line)
    assert main(["merge", "--quiet", *shards(line, 7)]) == 0
    assert outputs(work) == truth
    names = [shards(line, 2)[0], *shards(line, 4)[2:]]
    assert main(["merge", "--quiet", *names]) == 0  # 1/2, 3/4, 4/4
    assert outputs(work) == truth


def test_a_shard_is_its_own_checkpoint(work, monkeypatch, capsys):
    line = CASES["pairs, F, counts"]
    truth = expected(work, line)
    stop_after(monkeypatch, 12)
    assert run(line, "-o", "out", "--shard", "2/2") == 130
    assert run(line, "-o", "out", "--shard", "1/2") == 0
    capsys.readouterr()
    names = ["out_shard1of2.tally", "out_shard2of2.tally"]
    assert main(["merge", *names]) == 2
    message = sentence(capsys)
    assert "fstat1: permutations" in message or "tstat1+tstat2: permutations" in message
    assert "out_shard2of2.tally is not finished: run it again with --resume" in message
    assert run(line, "-o", "out", "--shard", "2/2") == 2
    assert "--resume" in sentence(capsys)
    assert run(line, "-o", "out", "--shard", "2/2", "--resume") == 0
    assert run(line, "-o", "out", "--shard", "2/2", "--resume") == 0  # nothing is left to do
    assert main(["merge", "--quiet", *names]) == 0
    assert outputs(work) == truth


def test_shards_with_different_steps_of_tfce(work, capsys):
    """Scores of 512 steps and of 1024 do not mix: the shards of the fewer are run again."""
    line, high = overflowing(work)
    truth = expected(work, line)
    names = shards(line, 4)
    caps = [read(name).tests["tstat1"].level_cap for name in names]
    assert caps == [1024 if ((high >= start) & (high < start + 15)).any() else 512 for start in (0, 15, 30, 45)]
    assert set(caps) == {512, 1024}
    capsys.readouterr()
    assert main(["merge", "--quiet", *names]) == 0
    assert f"{15 * caps.count(512)} permutations are run again" in sentence(capsys)
    assert outputs(work) == truth


def test_gaps_overlaps_and_strangers(work, capsys):
    line = f"{BASE} -x"
    names = shards(line, 3)
    run(line, "-n", "50", "-o", "few", "--shard", "1/3")
    run(line, "-o", "half", "--shard", "1/2")
    capsys.readouterr()
    refused = {
        "is missing: gpuvox merge TALLY": [],
        "tstat1+tstat2: permutations 34 to 66 of 100 are missing; shards given: 1/3, 3/3": [names[0], names[2]],
        "permutations 67 to 100 of 100 are missing": names[:2],
        "is given twice": [*names, names[1]],
        "permutations 1 to 33 of tstat1+tstat2 are both in": [*names, "half_shard1of2.tally"],
        "-n is 100 in out_shard2of3.tally, 50 in few_shard1of3.tally": [*names[1:], "few_shard1of3.tally"],
        "no.tally cannot be read: No such file": [*names, "no.tally"],
        "design.mat is not a file of tallies": [*names, "design.mat"],
    }
    for words, given_names in refused.items():
        assert main(["merge", *given_names]) == 2
        message = sentence(capsys)
        assert words in message.replace("are missing: gpuvox", "is missing: gpuvox"), message
    assert main(["merge", *names, "--out", "nowhere/out"]) == 2
    assert "there is no folder nowhere" in sentence(capsys)
    change_design(work)
    assert main(["merge", *names]) == 2
    message = sentence(capsys)
    assert "the content of design.mat (-d) differs between the shards and this run" in message
    (work / "design.mat").unlink()
    assert main(["merge", *names]) == 2
    assert "design.mat" in sentence(capsys)
    assert not [p for p in work.glob("out*") if p.suffix != ".tally"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--shard", "1/3", "--twopass", "-T", "--seed", "1"], "--twopass, whose second pass"),
        (["--shard", "1/3", "-x"], "--shard needs --seed"),
        (["--shard", "0/3"], "I/N"),
        (["--shard", "4/3"], "I/N"),
        (["--shard", "3"], "I/N"),
        (["--shard", "1/3", "--seed", "1"], "nothing is permuted"),
        (["--shard", "1/3", "--seed", "1", "-x", "--permout"], "--permout"),
        (["--checkpoint", "c", "-x", "--permout"], "--permout"),
        (["--resume", "-x", "--permout"], "--permout"),
    ],
)
def test_what_cannot_be_done_in_parts(extra, words, work, capsys):
    before = sorted(os.listdir())
    assert run(BASE.replace("--seed 1", ""), "-o", "out", *extra) == 2
    assert words in sentence(capsys)
    assert sorted(os.listdir()) == before


# -- tallies ---------------------------------------------------------------------------------------------------------


def test_shares_and_spans_cover_everything_once():
    for n, parts in itertools.product((0, 1, 2, 7, 100), (1, 2, 3, 9)):
        pieces = [share(n, i, parts) for i in range(1, parts + 1)]
        assert [i for start, stop in pieces for i in range(start, stop)] == list(range(n))
    rng = np.random.default_rng(0)
    for _ in range(50):
        flags = rng.random(rng.integers(0, 9)) < 0.5
        assert [i for start, stop in spans(flags) for i in range(start, stop)] == np.flatnonzero(flags).tolist()


def test_tallies_add_up_once():
    one, other, late = Tally(6, 1, 5), Tally(6), Tally(6)
    one.add(BlockResult(2, 4, {"vox": np.array([[1, 2], [3, 4.0]])}, {"vox": np.array([[1], [2]])}))
    assert list(one.missing()) == [(1, 2), (4, 5)]
    assert not one.is_complete
    other.add(BlockResult(4, 6, {"vox": np.array([[5, 6], [7, 8.0]])}, {"vox": np.array([[10], [20]])}))
    late.include(other)
    late.include(one)
    np.testing.assert_array_equal(late.maxima["vox"], [[0, 0, 1, 2, 5, 6], [0, 0, 3, 4, 7, 8]])
    np.testing.assert_array_equal(late.below["vox"], [[11], [22]])
    assert list(late.missing()) == [(0, 2)]
    with pytest.raises(ValueError, match="in common"):
        late.include(one)
    with pytest.raises(ValueError, match="in common"):
        late.include(Tally(7))


@pytest.mark.parametrize("name", ["out_tstat1.nii.gz", "data.nii", "out.txt", "design.MAT"])
def test_a_checkpoint_is_none_of_the_files_of_a_run(tmp_path, name):
    """It is removed at the end."""
    with pytest.raises(FileError, match="of another kind of file"):
        Checkpoint(tmp_path / name, None, False, print)
    assert not list(tmp_path.iterdir())
