"""What the process may take: control groups of both versions, limits of the shell, threads that cannot be started."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gpuvox
from gpuvox.application import cost
from gpuvox.cli.main import main
from gpuvox.runtime import limits
from gpuvox.runtime.limits import available_bytes, default_threads, most_threads, threads_for
from gpuvox.runtime.pool import Pool

MIB = 1 << 20
LINE = "randomise -i data -m mask -o out -d design.mat -t design.con -x -n 50 --seed 1 --device cpu --quiet"


class Machine:
    """Files of the system, of a machine with 8 GiB and a job."""

    def __init__(self, folder: Path):
        self.proc, self.tree = folder / "proc", folder / "cgroup"
        self.write(self.proc / "meminfo", f"MemAvailable: {8 << 20} kB\nSwapFree: 0 kB")
        self.write(self.proc / "self" / "cgroup", "0::/slurm/job_7/step_0\n")

    def write(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def group(self, name, **files):
        for file, text in files.items():
            self.write(self.tree / name / file.replace("__", "."), text)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path)
    monkeypatch.setattr(limits, "PROC", machine.proc)
    monkeypatch.setattr(limits, "TREE", machine.tree)
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    return machine


def test_a_machine_without_groups(machine):
    assert available_bytes() == 8 << 30
    assert default_threads() == 6
    (machine.proc / "self" / "cgroup").unlink()
    assert available_bytes() == 8 << 30
    (machine.proc / "meminfo").unlink()
    assert available_bytes() is None


def test_the_group_of_the_process_and_those_above_it(machine):
    machine.group("slurm/job_7/step_0", memory__max="max", memory__current="0")
    assert available_bytes() == 8 << 30
    machine.group("slurm/job_7", memory__max=300 * MIB, memory__current=100 * MIB)
    machine.group("slurm/job_8", memory__max=MIB, memory__current=0)
    assert available_bytes() == 200 * MIB
    machine.group("slurm", memory__max=150 * MIB, memory__current=100 * MIB)
    assert available_bytes() == 50 * MIB
    machine.group("slurm/job_7/step_0", memory__max=10 * MIB, memory__current=20 * MIB)
    assert available_bytes() == 0


def test_files_that_a_group_has_read_are_given_up(machine):
    stat = f"anon {10 * MIB}\ninactive_file {60 * MIB}\nactive_file {20 * MIB}"
    machine.group("slurm", memory__max=100 * MIB, memory__current=90 * MIB, memory__stat=stat)
    assert available_bytes() == 90 * MIB


@pytest.mark.parametrize("path", ["/slurm/uid_0/job_7", "/docker/0123"])
def test_version_1(path, machine):
    """In a container, the path is that of the host."""
    machine.write(machine.proc / "self" / "cgroup", f"5:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:/x\n")
    where = path if "slurm" in path else ""
    usage = {"memory__limit_in_bytes": 70 * MIB, "memory__usage_in_bytes": 30 * MIB}
    machine.group(f"memory{where}", **usage, memory__stat=f"total_inactive_file {5 * MIB}")
    machine.group(f"cpu,cpuacct{where}", cpu__cfs_quota_us=250000, cpu__cfs_period_us=100000)
    assert available_bytes() == 45 * MIB
    assert default_threads() == 3
    machine.group(f"cpu,cpuacct{where}", cpu__cfs_quota_us=-1)
    assert default_threads() == 6


def test_a_share_of_the_processors(machine):
    machine.group("slurm/job_7", cpu__max="150000 100000")
    assert default_threads() == 2
    machine.group("slurm", cpu__max="10000 100000")
    assert default_threads() == 1
    machine.group("slurm", cpu__max="max 100000")
    machine.group("slurm/job_7", cpu__max="9900000 100000")
    assert default_threads() == 6


def test_the_address_space():
    code = (
        "import resource; from gpuvox.runtime.limits import available_bytes\n"
        "resource.setrlimit(resource.RLIMIT_{}, (1 << 30, 1 << 30))\nprint(available_bytes())"
    )
    for kind in ("AS", "DATA"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(kind)], capture_output=True, text=True, check=True
        )
        assert 0 < int(done.stdout) < 1 << 30


def test_data_are_refused_before_they_are_read(machine):
    machine.group("slurm/job_7", memory__max=MIB, memory__current=0)
    with pytest.raises(ValueError, match=r"take 0\.0 GiB of memory, and 0\.0 GiB are free; --scratch"):
        cost.check_memory(100, 10000, 0, "")


# -------------------------------------------------------------------------------------------------------- threads


@pytest.fixture
def few_threads(monkeypatch):
    """A function: no more threads than so many can be started from now on."""
    plain = threading.Thread.start

    def allow(n):
        started = []

        def start(thread):
            if len(started) == n:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            plain(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    return allow


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_threads_that_cannot_be_started(allowed, few_threads):
    few_threads(allowed)
    with Pool(4) as pool:
        assert pool.threads == allowed
        assert [job.result() for job in [pool.submit(pow, 2, i) for i in range(9)]] == [2**i for i in range(9)]
        assert list(pool.map(pow, (2, 3), (3, 2))) == [8, 9]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()


def test_a_pool_cancels_what_is_not_wanted():
    gate, done = threading.Event(), []
    with Pool(1) as pool:
        first = pool.submit(gate.wait, 30)
        others = [pool.submit(done.append, i) for i in range(3)]
        assert others[1].cancel()
        gate.set()
    assert first.result()
    assert done == [0, 2]


def test_a_run_with_fewer_threads_is_the_same(study, few_threads, capsys):
    assert main([*LINE.split(), "--threads", "3"]) == 0
    maps = {path.name: path.read_bytes() for path in study.glob("out*.nii.gz")}
    for allowed in (1, 0):
        few_threads(allowed)
        assert main([*LINE.split(), "--threads", "3"]) == 0
        assert {path.name: path.read_bytes() for path in study.glob("out*.nii.gz")} == maps
    assert "Traceback" not in capsys.readouterr().err


def test_more_threads_than_are_of_use(study, monkeypatch, capsys):
    """A slip in the number, or a machine of another size: it ends, with as many as make sense."""
    monkeypatch.setattr("gpuvox.cli.arguments.most_threads", lambda: 5)
    assert main([*LINE.split(), "--threads", "100000"]) == 0
    assert "--threads 100000: 5 are used" in capsys.readouterr().err
    assert '"threads": 5' in (study / "out_randomise.json").read_text()
    assert most_threads() >= 16
    with Pool(10**6) as pool:
        assert pool.threads == most_threads()
        assert np.array_equal(sorted(pool.map(int, range(100))), range(100))


def test_more_threads_than_are_of_use_from_python(study):
    """It is said, and the record has the number that is started."""
    settings = {"mask": "mask", "n_permutations": 5, "seed": 1, "device": "cpu", "threads": 100_000}
    with pytest.warns(UserWarning, match=rf"threads is 100000; {most_threads()} are used"):
        result = gpuvox.randomise("data", "design.mat", "design.con", **settings)
    result.save("out")
    assert f'"threads": {most_threads()},' in (study / "out_randomise.json").read_text()
    assert threads_for(10**6) == most_threads()
    assert threads_for(None) == threads_for(0) == default_threads()
