"""Runs on a Dask cluster of real processes give the bits of one process, whatever happens to the processes.

The truth is always a run of the same analysis in this process. Workers of the tests write down every range they run, so
that it can be told who took part and what was run again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SHAPE, save
from test_checkpoint import outputs

import gpuvox
from gpuvox import checkpoint, jit
from gpuvox.application import cost
from gpuvox.cli import main_randomise
from gpuvox.distributed import client as client_module
from gpuvox.distributed import launch, messages, worker
from gpuvox.distributed.client import DaskWorkers
from gpuvox.errors import DeviceError, DistributedError
from gpuvox.executors import fold
from gpuvox.glm import Glm
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.partitioning import partition
from gpuvox.tally import BlockResult, Tally
from gpuvox.tfce import Tfce
from tests.selection import few

dask = pytest.importorskip("dask", reason="Dask is not installed (gpuvox[distributed])")
dask_distributed = pytest.importorskip("distributed", reason="Dask is not installed (gpuvox[distributed])")

ROOT = Path(__file__).parents[1]
BASE = "-i data -m mask -d design.mat -t design.con -n 150 --seed 1 --quiet -o out"
CASES = {
    "pairs, F, counts": f"{BASE} -f design.fts -T -x -c 1.5 -C 1.2 -F 3 --uncorrp -N -R",
    "two passes": f"{BASE} -T -c 1.5 --twopass --uncorrp -N",
    "voxelwise EVs": f"{BASE} -T -x --uncorrp -N --vxl=3 --vxf=ev --ee --ise --cmcp",
    "tails of nulls": f"{BASE} -x --uncorrp --tail pareto -N",
    "laws of nulls": f"{BASE} -T -x --uncorrp --tail gamma",
    "sign flips, exact integral": "-i data -m mask -1 -n 250 --seed 3 --quiet -o out -x --tfce-exact -v 3 -N",
}
SPY = """
import os, time
from gpuvox import permtest
from gpuvox.distributed import worker

def note(text):
    with open({log!r}, "a") as file:
        file.write(text + "\\n")

def spied(plain, read):
    def run(self, start, stop, callback=None):
        time.sleep(float(open({pause!r}).read()))
        result = plain(self, start, stop, callback)
        note(f"{{os.getpid()}} {{'probe' if callable(callback) else 'run'}} {{start}} {{stop}}")
        return result

    def read_cohort(names, grid):
        note(f"{{os.getpid()}} read {{len(names)}} 0")
        return read(names, grid)

    return run, read_cohort

if permtest.ObservedTest.run.__module__ == "gpuvox.permtest":  # Dask loads this more than once
    permtest.ObservedTest.run, worker.read_cohort = spied(permtest.ObservedTest.run, worker.read_cohort)
"""


class Farm:
    """A scheduler and its workers, each a process of its own on loopback."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder, self.log, self.file = folder, folder / "log", folder / "scheduler.json"
        self.log.touch()
        self.pause(seconds)
        (folder / "spy.py").write_text(SPY.format(log=str(self.log), pause=str(folder / "pause")))
        self.processes: list[subprocess.Popen] = []
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-show")
        until(self.file.exists)

    def pause(self, seconds: float) -> None:
        """How long workers wait before every range from now on."""
        (self.folder / "new").write_text(str(seconds))
        os.replace(self.folder / "new", self.folder / "pause")

    def worker(self, threads: int = 1, preload: str = "spy.py") -> subprocess.Popen:
        return self._start(
            "worker", "--no-nanny", "--nthreads", str(threads), "--memory-limit", "0", "--preload", preload
        )

    def _start(self, *words: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *words, "--no-dashboard", "--scheduler-file", str(self.file)],
            cwd=self.folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def noted(self, what: str) -> list[tuple[int, int, int]]:
        """Process and range of all that the workers noted."""
        lines = (line.split() for line in self.log.read_text().splitlines())
        return [(int(pid), int(start), int(stop)) for pid, kind, start, stop in lines if kind == what]

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()


def until(true, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Iterator[Farm]:
    """Two workers that stay, one with two threads."""
    farm = Farm(tmp_path_factory.mktemp("farm"))
    farm.worker(1)
    farm.worker(2)
    with dask_distributed.Client(scheduler_file=str(farm.file)) as client:
        client.wait_for_workers(2)
    yield farm
    farm.close()


@pytest.fixture
def slow_farm(tmp_path) -> Iterator[Farm]:
    """A scheduler whose workers take 10 ms longer for every range; none yet."""
    (tmp_path / "farm").mkdir()
    farm = Farm(tmp_path / "farm", 0.01)
    yield farm
    farm.close()


@pytest.fixture
def client(farm) -> Iterator:
    with dask_distributed.Client(scheduler_file=str(farm.file)) as client:
        yield client


def cohort(n: int = 12) -> dict:
    """Arrays and settings of a small analysis of 250 shuffles: one range a shuffle or two."""
    rng = np.random.default_rng(3)
    data = rng.normal(size=(*SHAPE, n)).astype(np.float32)
    data[2:4, 2:4, 1:3, : n // 2] += 1.5
    design = np.c_[np.arange(n) < n // 2, np.arange(n) >= n // 2].astype(float)
    return {
        "data": data, "design": design, "contrasts": [[1, -1], [-1, 1]], "mask": np.ones(SHAPE), "tfce": True,
        "uncorrected": True, "n_permutations": 250, "seed": 5,
    }  # fmt: skip


def same(one, other) -> None:
    assert one.maps.keys() == other.maps.keys()
    for name, values in one.maps.items():
        assert np.array_equal(values, other.maps[name]), name
    for name, values in one.nulls.items():
        assert np.array_equal(values, other.nulls[name]), name


@pytest.fixture(scope="module")
def truth():
    return gpuvox.randomise(**cohort(), device="cpu")


@pytest.fixture
def small_ranges(monkeypatch):
    """A hundred ranges of the analysis of `cohort`."""
    monkeypatch.setattr(client_module, "RANGES_PER_THREAD", 100)


# ------------------------------------------------------------------------------------------------------ same bits


@pytest.mark.parametrize("case", few(CASES, 3, 2))
def test_the_command_writes_the_files_of_one_process(case, study, farm):
    save(study / "ev.nii.gz", np.random.default_rng(5).normal(size=(*SHAPE, 10)))
    before = len(farm.noted("run")), len(farm.noted("read"))
    assert main_randomise(CASES[case].split()) == 0
    expected = outputs(study)
    assert main_randomise([*CASES[case].split(), "--scheduler-file", str(farm.file)]) == 0
    assert outputs(study) == expected
    ran = farm.noted("run")[before[0] :]
    assert len({pid for pid, _, _ in ran}) == 2, "both workers take part"
    # Each worker opened the files by itself, once for all tests.
    n_images = 2 if "--vxf" in CASES[case] else 1
    assert len(farm.noted("read")[before[1] :]) == 2 * n_images


@pytest.mark.long
def test_a_local_cluster_of_its_own(study):
    assert main_randomise(CASES["pairs, F, counts"].split()) == 0
    expected = outputs(study)
    # In a process of its own, as users start it; the options that name a cluster change nothing in a checkpoint.
    done = subprocess.run(
        [sys.executable, "-m", "gpuvox", "randomise", *CASES["pairs, F, counts"].split(), "--workers", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert outputs(study) == expected


def test_the_record_says_who_computed(study, farm, capsys):
    assert main_randomise([*BASE.split(), "-x", "--scheduler-file", str(farm.file)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "encrypted" in line]
    assert len(said) == 1
    assert "tcp://127.0.0.1" in said[0]
    assert (
        '"device": "Dask: 2 workers with 3 threads in total, on cpu"' in (study / "out_randomise.json").read_text()
    )


def test_arrays_are_sent_once_and_let_go(client, farm, truth):
    reads = len(farm.noted("read"))
    same(gpuvox.randomise(**cohort(), client=client), truth)
    assert len(farm.noted("read")) == reads

    def kept() -> int:
        from gpuvox.distributed import worker

        return len(worker._arrays) + len(worker._tests)

    until(lambda: not any(client.run(kept).values()))


def test_images_stay_open_between_tests(study, farm, client, monkeypatch):
    """Dask drops copies of what no task waits for; they hold the images."""
    plain, dropped = DaskWorkers._job, []

    def job(self, observed, gatherer):
        if client.who_has():
            client.amm.run_once()
            until(lambda: all(len(workers) == 1 for workers in client.who_has().values()))
            dropped.append(True)
        return plain(self, observed, gatherer)

    monkeypatch.setattr(DaskWorkers, "_job", job)
    before = len(farm.noted("read"))
    assert main_randomise([*CASES["two passes"].split(), "--scheduler-file", str(farm.file)]) == 0
    assert dropped
    assert len({pid for pid, _, _ in farm.noted("read")[before:]}) == 2
    assert len(farm.noted("read")) - before == 2


@pytest.mark.long
def test_images_are_closed_after_a_while(study, farm, client):
    """The run that follows opens them again."""

    def keep_for(seconds: float) -> None:
        from gpuvox.distributed import worker

        worker.KEEP_OPEN_SECONDS = seconds

    def n_open() -> int:
        from gpuvox.distributed import worker

        return len(worker._opened)

    line = [*CASES["two passes"].split(), "--scheduler-file", str(farm.file)]
    client.run(keep_for, 0.1)
    try:
        assert main_randomise(line) == 0
        until(lambda: not any(client.run(n_open).values()))
        before = len(farm.noted("read"))
        assert main_randomise(line) == 0
        assert len(farm.noted("read")) - before >= 2
    finally:
        client.run(keep_for, worker.KEEP_OPEN_SECONDS)


def test_each_worker_makes_a_test_once(client, farm):
    before = len(farm.noted("probe"))
    settings = cohort() | {"f_tests": [[1, 1]], "design": np.c_[cohort()["design"], np.arange(12.0)]}
    settings["contrasts"] = [[1, -1, 0], [0, 0, 1]]
    expected = gpuvox.randomise(**settings, device="cpu")
    same(gpuvox.randomise(**settings, client=client), expected)
    assert len(farm.noted("probe")) - before == 2 * 3


def test_workers_without_the_files_are_sent_the_data(study, farm, monkeypatch):
    line = CASES["voxelwise EVs"].split()
    save(study / "ev.nii.gz", np.random.default_rng(5).normal(size=(*SHAPE, 10)))
    assert main_randomise(line) == 0
    expected = outputs(study)
    plain = worker.hash_file
    # What the client has read had another content than what workers find now.
    from gpuvox.application import fingerprint

    monkeypatch.setattr(fingerprint, "hash_file", lambda path: plain(path)[::-1])
    before = len(farm.noted("read"))
    assert main_randomise([*line, "--scheduler-file", str(farm.file)]) == 0
    assert len(farm.noted("read")) == before
    found = outputs(study)
    del found["out_randomise.json"], expected["out_randomise.json"]
    assert found == expected


@pytest.mark.parametrize("with_files", [True, False])
def test_data_larger_than_memory_on_workers(study, farm, monkeypatch, with_files):
    """A worker keeps its data in the folder too; what has to be sent is sent from there."""
    from gpuvox.application import fingerprint

    line = CASES["voxelwise EVs"].split()
    save(study / "ev.nii.gz", np.random.default_rng(5).normal(size=(*SHAPE, 10)))
    assert main_randomise(line) == 0
    expected = outputs(study)
    if not with_files:
        monkeypatch.setattr(fingerprint, "hash_file", lambda path: worker.hash_file(path)[::-1])
    assert main_randomise([*line, "--scratch", str(study), "--scheduler-file", str(farm.file)]) == 0
    found = outputs(study)
    del found["out_randomise.json"], expected["out_randomise.json"]
    assert found == expected


@pytest.mark.parametrize("where", ["--workers", "--scheduler-file"])
def test_the_plan_of_a_run_on_a_cluster(study, farm, capsys, where):
    """Processes and threads of the cluster, time by its threads, memory of a worker."""
    value = "2" if where == "--workers" else str(farm.file)
    threads = ["--threads", "6"] if where == "--workers" else []
    assert main_randomise([*CASES["two passes"].split(), "--plan", where, value, *threads]) == 0
    said = capsys.readouterr().out
    assert f"cluster: 2 workers with {6 if where == '--workers' else 3} threads in total" in said
    assert re.search(r"memory: about [\d,]+ MiB in each worker, and as much here; time: about", said)


def test_time_on_a_cluster_goes_with_its_threads():
    here = cost.Cost(1.0, 0.1, 1000)
    there = cost.on_cluster(here, 2, launch.ClusterSize(5, 10))
    assert there.each == pytest.approx(0.02)
    assert there.setup > 2 * here.setup
    assert there.memory > here.memory


def test_a_worker_that_needs_more_steps_starts_the_test_again(client):
    """The unshuffled map is nearly flat, and one labelling has a maximum more than 5.12 times as high."""
    n = 12
    rng = np.random.default_rng(8)
    hidden = np.tile([1.0, 0.0, 0.0, 1.0], 3)
    data = rng.normal(size=(n, 60)).astype(np.float32) * 0.01
    data -= data.mean(axis=0)
    group = np.repeat([1.0, 0.0], n // 2)
    data -= np.outer(group - 0.5, (group - 0.5) @ data / 3)
    data += np.outer(group, rng.uniform(0, 1e-3, 60))
    data[:, :30] += hidden[:, None]
    settings = {
        "data": data.astype(np.float32), "design": np.c_[group, 1 - group], "contrasts": [[1, -1]],
        "tfce": Tfce(connectivity=6), "n_permutations": 0, "seed": 1, "mask": gpuvox.Grid(np.ones((60, 1, 1), bool)),
    }  # fmt: skip
    expected = gpuvox.randomise(**settings, device="cpu")
    null = expected.nulls["vox_tstat1"]
    assert null.max() > 5.12 * null[0] > 0
    same(gpuvox.randomise(**settings, client=client), expected)


# ------------------------------------------------------------------------------------- workers that come and go


def when(monkeypatch, actions: dict[int, object]) -> list[int]:
    """Do something after so many results; returns the numbers of shuffles left at each of these moments."""
    counter, plain, left = itertools.count(1), Tally.add, []

    def add(self, result):
        plain(self, result)
        action = actions.get(next(counter))
        if action:
            left.append(self.n - self.n_done)
            action()

    monkeypatch.setattr(Tally, "add", add)
    return left


def test_a_worker_is_killed_and_another_joins(slow_farm, monkeypatch, truth, small_ranges):
    first, second = slow_farm.worker(), slow_farm.worker()
    late = []

    def kill_and_hire() -> None:
        until(lambda: any(pid == first.pid for pid, _, _ in slow_farm.noted("run")))
        first.kill()
        slow_farm.pause(0.5)  # lest all be done before the new one has started
        late.append(slow_farm.worker())
        until(lambda: any(pid == late[0].pid for pid, _, _ in slow_farm.noted("run")))
        slow_farm.pause(0.01)

    left = when(monkeypatch, {10: kill_and_hire})
    with dask_distributed.Client(scheduler_file=str(slow_farm.file)) as client:
        client.wait_for_workers(2)
        same(gpuvox.randomise(**cohort(), client=client), truth)
    assert left[0] > 100
    ran = slow_farm.noted("run")
    counted = [sum(pid == process.pid for pid, _, _ in ran) for process in (first, second, late[0])]
    assert min(counted) > 0, "all three took part"
    assert counted[1] + counted[2] > counted[0]


@pytest.mark.long
def test_all_workers_are_lost_and_one_joins_later(slow_farm, monkeypatch, truth, small_ranges):
    workers = [slow_farm.worker(), slow_farm.worker()]

    def kill_all() -> None:
        for process in workers:
            process.kill()
            process.wait()
        workers.append(slow_farm.worker())

    left = when(monkeypatch, {10: kill_all})
    with dask_distributed.Client(scheduler_file=str(slow_farm.file)) as client:
        client.wait_for_workers(2)
        with pytest.warns(UserWarning, match=r"there are no workers at tcp://127.0.0.1:\d+; waiting"):
            same(gpuvox.randomise(**cohort(), client=client), truth)
    assert left[0] > 100
    by_replacement = sum(stop - start for pid, start, stop in slow_farm.noted("run") if pid == workers[2].pid)
    assert left[0] >= by_replacement > 100, "what was done before is not done again"


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_lost_scheduler_is_an_error_and_what_is_done_is_kept(
    slow_farm, monkeypatch, truth, small_ranges, number
):
    slow_farm.worker(2)
    kept = slow_farm.folder / "run.tally"
    left = when(monkeypatch, {10: lambda: slow_farm.scheduler.send_signal(number)})
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.1)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        dask_distributed.Client(scheduler_file=str(slow_farm.file)) as client,
        warnings.catch_warnings(record=True) as caught,
        pytest.raises(DistributedError, match=r"^the connection to the Dask scheduler at .* is lost$"),
    ):
        gpuvox.randomise(**cohort(), client=client, checkpoint=kept)
    assert any("done so far are kept" in str(warning.message) for warning in caught)
    done = checkpoint.read(kept).n_done
    assert 0 < 250 - left[0] <= done < 250
    # The rest in this process: a checkpoint does not know who computed it.
    same(gpuvox.randomise(**cohort(), device="cpu", checkpoint=kept, resume=True), truth)


def test_a_checkpoint_goes_on_on_a_cluster(client, tmp_path, monkeypatch, truth):
    def stop() -> None:
        raise KeyboardInterrupt

    when(monkeypatch, {3: stop})
    with pytest.warns(UserWarning, match="done so far are kept"), pytest.raises(KeyboardInterrupt):
        gpuvox.randomise(**cohort(), device="cpu", checkpoint=tmp_path / "run.tally")
    same(gpuvox.randomise(**cohort(), client=client, checkpoint=tmp_path / "run.tally", resume=True), truth)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_ends_the_command_and_its_workers(study, number, status):
    line = [*BASE.split(), "-T", "--uncorrp", "--workers", "1", "--checkpoint", "run.tally"]
    line[line.index("-n") + 1] = "2000000"
    process = subprocess.Popen(
        [sys.executable, "-c", "from gpuvox.checkpoint import resumable; resumable.INTERVAL = 0.1; "
         "import sys; from gpuvox.cli import main_randomise; sys.exit(main_randomise(sys.argv[1:]))", *line],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(lambda: os.path.exists("run.tally") and checkpoint.read("run.tally").n_done > 0)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    message = process.communicate(timeout=120)[1]
    assert process.returncode == status
    assert "done so far are kept in run.tally" in message
    assert "Traceback" not in message
    assert 0 < checkpoint.read("run.tally").n_done < 2_000_000
    until(lambda: not group_lives(process.pid))


@pytest.mark.long
def test_ctrl_c_while_the_workers_start(study):
    """It ends the command as soon as they are there."""
    line = [*BASE.split(), "-T", "--workers", "2", "--checkpoint", "run.tally"]
    line[line.index("-n") + 1] = "2000000"
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from gpuvox.distributed import launch\n"
         "plain = launch._deferred_interrupts\n"
         "def told():\n    open('starting', 'w').close()\n    return plain()\n"
         "launch._deferred_interrupts = told\n"
         "from gpuvox.cli import main_randomise; sys.exit(main_randomise(sys.argv[1:]))", *line],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(lambda: os.path.exists("starting"))
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in message
    until(lambda: not group_lives(process.pid))


def group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------- refusals


def test_an_error_on_a_worker_is_the_same_sentence(study, farm, capsys):
    line = [*BASE.split(), "-x", "--device", "cuda"]
    if gpuvox.device.why_unavailable() is None:
        pytest.skip("there is a GPU")
    assert main_randomise(line) == 2
    alone = capsys.readouterr().err
    assert main_randomise([*line, "--scheduler-file", str(farm.file)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == alone.strip()  # after a line on encryption
    assert alone.count("\n") == 1


def test_a_worker_with_other_software_is_refused(slow_farm, client):
    (slow_farm.folder / "old.py").write_text(
        "from gpuvox.distributed import worker\n"
        "from gpuvox.jit import software\n"
        "worker.software = lambda: software() | {'numba': '0.1'}\n"
    )
    slow_farm.worker(preload="old.py")
    with dask_distributed.Client(scheduler_file=str(slow_farm.file)) as there:
        there.wait_for_workers(1)
        expected = rf"^the worker at tcp://\S+ has numba 0.1, and the client {jit.software()['numba']}: the bits"
        with pytest.raises(DistributedError, match=expected):
            gpuvox.randomise(**cohort(), client=there)


@pytest.mark.long
def test_a_late_worker_that_computes_other_bits_is_refused(slow_farm, monkeypatch, small_ranges):
    (slow_farm.folder / "wrong.py").write_text(
        "import numpy as np\n"
        "from gpuvox import glm\n"
        "def wrong(plain):\n"
        "    def statistic_maps(self, *given):\n"
        "        found = plain(self, *given)\n"
        "        found[:, -1] = np.nextafter(found[:, -1], np.float32(9))\n"
        "        return found\n"
        "    return statistic_maps\n"
        "if glm.Glm.statistic_maps.__module__ == 'gpuvox.glm':\n"
        "    glm.Glm.statistic_maps = wrong(glm.Glm.statistic_maps)\n"
    )
    slow_farm.worker()

    def hire_another() -> None:
        slow_farm.pause(0.5)
        slow_farm.worker(preload="wrong.py")

    left = when(monkeypatch, {10: hire_another})
    with dask_distributed.Client(scheduler_file=str(slow_farm.file)) as client:
        client.wait_for_workers(1)
        with pytest.raises(DistributedError, match=r"^a worker on \S+ computes other bits than the client"):
            gpuvox.randomise(**cohort(), client=client)
    assert left[0] > 100


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("--workers 2 --scheduler tcp://127.0.0.1:1", "--workers and --scheduler name different workers"),
        (
            "--workers 2 --permout",
            "--permout writes each map as it is computed, and so cannot be used with --workers",
        ),
        ("--workers 99 --threads 3", "at most one worker per thread"),
        ("--workers 0", "--workers"),
        ("--scheduler-file none.json", "--scheduler-file: there is no file none.json"),
        ("--scheduler nonsense://x", "no Dask scheduler answers at nonsense://x"),
    ],
)
def test_clusters_that_cannot_be(study, capsys, extra, said):
    assert main_randomise([*BASE.split(), "-x", *extra.split()]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not list(study.glob("out*"))


def test_no_scheduler_answers(study, capsys):
    with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}):
        assert main_randomise([*BASE.split(), "-x", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("gpuvox randomise: no Dask scheduler answers at tcp://127.0.0.1:1: ")
    assert message.count("\n") == 1


def test_without_dask_one_sentence(study, capsys, monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    assert main_randomise([*BASE.split(), "-x", "--workers", "2"]) == 2
    assert capsys.readouterr().err == "gpuvox randomise: Dask is not installed; install gpuvox[distributed]\n"


def test_dask_is_imported_only_when_it_is_asked_for(study):
    code = (
        "import sys; from gpuvox.cli import main_randomise; "
        f"assert main_randomise({[*BASE.split(), '-x']!r}) == 0; assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


def test_a_callback_is_not_sent_to_workers():
    class Nobody:
        takes_callbacks = False

        def results(self, observed, tally, callback=None):
            yield BlockResult(0, 0)

    with pytest.raises(ValueError, match="a callback cannot be used with workers"):
        gpuvox.run(None, callback=lambda i, maps: None, workers=Nobody())


# ---------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("n", [1, 2, 37, 400, 10_000, 3_000_000])
@pytest.mark.parametrize("workers", [1, 3, 1000])
@pytest.mark.parametrize("processors", [0, 132])
def test_ranges_cover_what_is_left_once(n, workers, processors):
    tally = Tally(n)
    tally.done[n // 3 : n // 2] = True
    expected = ~tally.done
    infos = {str(i): messages.WorkerInfo(2, processors, "", {}) for i in range(workers)}
    found = list(client_module.ranges(tally, 16, infos))
    count = np.zeros(n, dtype=int)
    for start, stop in found:
        count[start:stop] += 1
    assert np.array_equal(count, expected)
    assert len(found) <= client_module.MAX_RANGES + 1
    n_left = int(expected.sum())
    if n_left >= 2 * client_module.RANGES_PER_THREAD * workers * 2 and n <= 10_000:
        assert len(found) >= 2 * workers, "every thread has something to do"


def test_a_model_within_another_is_sent_without_its_data():
    rng = np.random.default_rng(0)
    data, design = rng.normal(size=(9, 5)).astype(np.float32), np.c_[np.ones(9), np.arange(9) % 2]
    model = Magnitude(ZScale(Glm(data, partition(design, np.array([0.0, 1])), np.zeros((9, 0)))))
    recipe = pickle.loads(pickle.dumps(messages.make_recipe(model)))
    assert len(pickle.dumps(recipe)) < len(pickle.dumps(model))
    again = messages.rebuild_model(recipe, messages.Arrays(model.data, model.evs), None)
    shuffles = np.array([rng.permutation(9) for _ in range(4)], dtype=np.int32)
    np.testing.assert_array_equal(again.statistic_maps(shuffles), model.statistic_maps(shuffles))


def test_results_are_packed_without_loss():
    rng = np.random.default_rng(0)
    counts = {
        "small": rng.integers(0, 200, (2, 50)), "large": rng.integers(-(2**62), 2**62, (2, 50)),
        "signed": rng.integers(-100, 100, (2, 50)), "mixed": np.array([[-1, 2**40], [0, 2**63 - 1]]),
        "none": np.zeros((2, 0), dtype=np.int64), "real": rng.normal(size=(2, 50)),
    }  # fmt: skip
    result = BlockResult(3, 9, {"tfce": rng.integers(0, 9, (2, 6))}, counts, dict(counts), dict(counts))
    result.gathered.append((range(3, 9), {"vox": np.arange(12).reshape(3, 4), "tfce": rng.normal(size=(6, 4))}))
    packed = messages.pack(result)
    assert packed.below["small"].itemsize == 1
    unpacked = messages.unpack(packed)
    assert (unpacked.start, unpacked.stop) == (3, 9)
    assert unpacked.maxima["tfce"].dtype == np.int64
    ((numbers, found),) = unpacked.gathered
    assert numbers == range(3, 9)
    for kind, values in result.gathered[0][1].items():
        np.testing.assert_array_equal(found[kind], values, strict=True)
    for group in ("below", "total", "nonzero"):
        for kind, values in counts.items():
            again = getattr(unpacked, group)[kind]
            assert again.dtype == values.dtype
            assert np.array_equal(again, values), kind


def test_device_errors_are_distributed_errors_parents():
    assert issubclass(DistributedError, DeviceError)


def test_a_fold_closes_what_it_draws_from():
    """The generator of results ends, and so cancels what is pending, when adding fails."""
    closed = []

    class Broken:
        def results(self, observed, tally, callback=None):
            try:
                yield BlockResult(0, 99)
            finally:
                closed.append(True)

    class Two:
        n = 2

    with pytest.raises(ValueError, match="are not among"):
        fold(Two(), 1, workers=Broken())
    assert closed


@pytest.mark.parametrize("content", ['{"a": 1}', "/NumWaves 3", '{"address": 3}', "[]", '{"address": "nonsense"}'])
def test_a_file_that_no_scheduler_wrote(study, capsys, content):
    Path("scheduler.json").write_text(content)
    assert main_randomise([*BASE.split(), "-x", "--scheduler-file", "scheduler.json"]) == 2
    assert "was not written by a Dask scheduler" in capsys.readouterr().err


def test_workers_that_never_answer(slow_farm, client, monkeypatch):
    """As those whose memory is too small for a start."""
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.01)
    workers = DaskWorkers(client)
    monkeypatch.setattr(workers, "_ask_workers", lambda device: {})
    with pytest.raises(DistributedError, match="lost 5 times before any of them answered"):
        workers._collect_workers("cpu")


def test_workers_that_take_no_data_for_a_while(client, monkeypatch, truth):
    """As those that Dask paused, or that have just gone."""
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.01)
    plain, calls = client.scatter, itertools.count(1)

    def scatter(*arguments, **options):
        if next(calls) <= 2:
            raise ValueError("Can not use replicate to delete data")
        return plain(*arguments, **options)

    monkeypatch.setattr(client, "scatter", scatter)
    same(gpuvox.randomise(**cohort(), client=client), truth)
    assert next(calls) > 4


@pytest.mark.parametrize("given", ["tcp://127.0.0.1:1", 3])
def test_what_is_no_client(given):
    with pytest.raises(TypeError, match=r"a dask\.distributed\.Client is expected"):
        gpuvox.randomise(**cohort(), client=given)


def test_an_asynchronous_client():
    async def ask() -> None:
        async with dask_distributed.Client(
            asynchronous=True, processes=False, dashboard_address="127.0.0.1:0"
        ) as client:
            gpuvox.randomise(**cohort(), client=client)

    with pytest.raises(TypeError, match="asynchronous"):
        asyncio.run(ask())


def test_a_relative_scratch_folder_is_the_same_for_workers(study, farm):
    os.mkdir("scratch")
    line = CASES["pairs, F, counts"].split()
    assert main_randomise(line) == 0
    expected = outputs(study)
    assert main_randomise([*line, "--scheduler-file", str(farm.file), "--scratch", "scratch"]) == 0
    assert outputs(study) == expected
    with pytest.raises(ValueError, match="scratch folder nowhere does not exist"):
        gpuvox.randomise(**cohort(), scratch="nowhere")
