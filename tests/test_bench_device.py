"""The script for GPU machines, run on kernels compiled for the CPU, with a stopwatch in place of CUDA events."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from time import perf_counter
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import gpuvox.cuda
import gpuvox.tuning
from bench.device import (
    command,
    floors,
    machine,
    main,
    model,
    ncu,
    sanitizer,
    session,
    steps,
    studies,
    table,
    timings,
    tune,
)
from bench.device import lab as laboratory
from bench.device.checks import compare, families, runs
from gpuvox.device import OutOfDeviceMemory
from gpuvox.statistics import Statistics
from gpuvox.tuning import Tuning
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.cuda_on_cpu.stopwatch import Stopwatch

bench_process = command.process

pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "process", no_process)
    sizes = replace(laboratory.TINY, seconds=2000.0)  # the machine may be slow
    facts = {"device": "Kernels on the CPU"}
    return laboratory.Lab(Stopwatch(), sizes, laboratory.Report(facts), out=tmp_path)


def no_process(arguments, folder):
    """The command in this process: a fresh one would find no device."""
    return 1.0, json.dumps({"reading": 0.5})


def written(lab):
    (path,) = lab.out.iterdir()
    assert path.name.startswith("kernels-on-the-cpu-20")
    return json.loads(path.read_text())


def work(lab, *names):
    """Steps in this process; the exit status."""
    for name in names:
        session.run_step(lab, name)
    lab.report.steps = []
    lab.write()
    table.table(lab.report)
    return 1 if lab.report.failed else 0


ANALYSES = ["checks: whole analyses", "checks: memory"]
CHECKS = [name for name in steps.STEPS if name.startswith("checks") and name not in ANALYSES]


@pytest.mark.parametrize(
    ("names", "least", "tolerated"),
    [(CHECKS, 120, {"within 1e-09"}), pytest.param(ANALYSES, 26, set(), marks=pytest.mark.long)],
    ids=["parts", "analyses"],
)
def test_correctness(lab, names, least, tolerated, capsys):
    assert work(lab, *names) == 0
    found = written(lab)
    assert len(found["checks"]) > least
    assert {c["verdict"] for c in found["checks"]} == {"same bits"} | tolerated
    assert found["left_out"] == found["skipped"] == found["failed"] == []
    assert names is ANALYSES or found["unchecked_kernels"] == []
    said = capsys.readouterr().out
    assert f"{len(found['checks'])} checks, 0 failed" in said
    for check in found["checks"]:
        assert f"   {check['name']}\n" in said  # before it ran


def test_first_checks(lab):
    """All that the checks of kernels have, with small sizes, and a map of the brain for each connectivity."""
    names = [check.name for check in families.first_checks(lab)]
    small = [f"small: {check.name}" for make in families.FAMILIES.values() for check in make(lab)]
    assert names == small + [f"TFCE, C {c}, 18 mm, FWHM 3.5" for c in (6, 18, 26)]
    assert len(set(names)) == len(names)


@pytest.mark.long
def test_timings(lab, capsys):
    names = "machine", "compile", "whole runs", "timings", "command", "CPU", "little memory"
    assert work(lab, *names) == 0, lab.report.errors
    found = written(lab)
    assert found["checks"] == []
    names = [row["name"] for row in found["timings"]]
    assert [name.split(",")[0] for name in names[:5]] == ["whole run"] * 4 + ["t maps"]
    assert len(names) == len(set(names)) == 4 + 1 + 16 + 2 + 5 + 1 + 2 + 2 + 3
    for row in found["timings"]:
        assert row["fastest_ms"] <= row["ms"] <= row["slowest_ms"]
        assert row["us_per_map"] == pytest.approx(1e3 * row["ms"] / row["maps"])
        assert ("floor_ms" in row) == (not row["name"].startswith(("CPU", "command")))
    run, cpu = found["timings"][1], next(row for row in found["timings"] if row["name"].startswith("CPU"))
    assert (run["connectivity"], run["voxel"]) == (26, False)
    cpu = [row for row in found["timings"] if row["name"].startswith("CPU")][1]
    assert cpu["times_the_device"] == pytest.approx(cpu["us_per_map"] / run["us_per_map"])
    assert len(found["breakdowns"]) == 4
    for breakdown in found["breakdowns"]:
        assert {"t maps", "ties", "TFCE", "downloads", "shuffles"} <= breakdown["stages_ms"].keys()
        assert breakdown["calls"]["glm_maps<false>"]["calls"] == 1
        assert breakdown["calls"]["download_all"]["bytes"] > 0
        predicted = breakdown["predicted_us_per_map_on_an_h100"]
        assert predicted["TFCE"] > 0
        assert predicted["allocations"] is None
    assert found["facts"]["run_by_length"]["us_each"] != 0
    assert found["facts"]["transfers"]["page_locked_to_device"]["per_s"] > 0
    said = capsys.readouterr().out
    assert "command, reading" in said
    assert "predicted for an H100" in said


def test_predictions_are_in_proportion():
    whole = model.predicted_us("t maps", 6, 235_000, 146, 4)
    assert model.predicted_us("t maps", 6, 470_000, 73, 2) == pytest.approx(whole / 2)
    tfce = model.predicted_us("TFCE", 26, 235_000, 146, 4)
    assert model.predicted_us("TFCE", 26, 23_500, 40, 1) == pytest.approx(tfce / 10)
    assert model.predicted_us("shuffles", 6, 1, 146, 4) > 0
    assert model.predicted_us("fills", 6, 1, 1, 1) is None


def test_predictions_follow_from_counts():
    """Worked out by hand: at 10 mm a hundredth of the voxels; launches cost 5 us, and the download 30, in a batch."""
    table = {
        "10 mm": {
            "voxels": 2350,
            "TFCE, C 6": {
                "glm_maps<false>": {"warp_instructions": 70_100, "sectors": 10**9},
                "glm_exact": {"warp_instructions": 10**9, "sectors": 1718.75},
                "maps_put": {"warp_instructions": 10**9},
                "tfce_peaks<6, false>": {"warp_instructions": 10**9},
            },
        },
        "2 mm": {
            "voxels": 470_000,
            "largest TFCE of a map, C 26": {"tfce_peaks<26, false>": {"warp_instructions": 8e6}},
        },
    }
    launch = 5 / 1584
    assert model.times(table, 26) == pytest.approx({
        "glm_maps<false>": launch + 8.5, "glm_exact": launch + 1.0, "maps_put": launch,
        "tfce_peaks<26, false>": launch + 11.0, "download": 30 / 1584,
    })  # fmt: skip
    stages = {"t maps": 2 * launch + 9.5, "ties": launch, "TFCE": launch + 11.0, "downloads": 30 / 1584}
    assert model.stage_times(table, 26) == pytest.approx(stages)


def test_predictions_are_those_of_the_log():
    """`python -m tests.ptx.counts` says what the present kernels are predicted to take."""
    text = " ".join((laboratory.ROOT / "bench" / "OPTIMISATION.md").read_text().split())
    us = [sum(model.times(model.counts(), connectivity).values()) for connectivity in (6, 26)]
    seconds = [model.FIXED_S + 1e-2 * each for each in us]
    assert f"| present kernels | {us[0]:.1f} | {us[1]:.1f} |" in text
    assert f"| seconds for 10,000 permutations, present kernels | {seconds[0]:.2f} | {seconds[1]:.2f} |" in text


FLOAT64_ROWS = {
    "TFCE, n 146": ("TFCE, C 6",),
    "and voxelwise": ("TFCE, C 26, and voxelwise",),
    "F, clusters, n 40": ("F, clusters",),
    "smoothed variance, n 20": ("smoothed variance",),
    "multi-level blocks, n 20": ("multi-level blocks, permutations and sign flips",),
    "size of z, TFCE by PALM's rule with uncorrected p, n 20": ("size of z, TFCE by PALM's rule, uncorrected",),
    "correlation; methods of Dekker and ter Braak, n 20": (
        "correlation",
        "Dekker's method",
        "ter Braak's method",
    ),
    "missing data, n 20": ("missing data",),
    "variance groups, n 20": ("variance groups",),
    "voxelwise EV by Dekker's method, n 20": ("Dekker's method, voxelwise EV",),
    "voxelwise EV, n 20": ("voxelwise EV",),
}
"""Rows of the log's table of float64 operations → workloads of the table of counts."""


def test_float64_operations_are_those_of_the_log():
    """Per voxel and permutation, all kernels together."""
    lines = (laboratory.ROOT / "bench" / "OPTIMISATION.md").read_text().splitlines()
    said = {cells[1]: cells[2] for line in lines if len(cells := re.split(r" ?\| ?", line)) == 5}
    workloads = model.counts()["10 mm"]
    for row, names in FLOAT64_ROWS.items():
        for name in names:
            operations = sum(entry.get("float64_operations", 0) for entry in workloads[name].values())
            each = operations / workloads["voxels"]
            assert said[row] == (f"{each:.1f}" if each < 10 else f"{each:.0f}"), row


def test_instructions_by_phase():
    for connectivity in (6, 26):
        (entry,) = model.counts()["2 mm"][f"largest TFCE of a map, C {connectivity}"].values()
        found = model.instructions_by_phase(connectivity)
        assert list(found) == [name for name in model.PHASES if name in found]
        assert sum(found.values()) == pytest.approx(entry["warp_instructions"] / 1e6, rel=1e-3)


def test_phases(lab, capsys):
    assert work(lab, "phases") == 0
    six, all_neighbours = written(lab)["phases"]
    assert six["kernel"] == "tfce_peaks<6, false>"
    assert all_neighbours["kernel"] == "tfce_peaks<26, false>"
    for found in (six, all_neighbours):
        names = [row["phase"] for row in found["phases"]]
        assert names == [name for name in model.PHASES if name != "sweep: scores above"]
        assert sum(row["share"] for row in found["phases"]) == pytest.approx(1)
    assert "tfce_peaks<6, false>: levels" in capsys.readouterr().out


@pytest.fixture
def few_trials(monkeypatch):
    monkeypatch.setattr(tune, "THREADS", (256, 512))
    monkeypatch.setattr(tune, "RESIDENT", (2, 3))
    monkeypatch.setattr(tune, "SHARED", (1.0, 0.5))
    monkeypatch.setattr(tune, "TURNS", 1)


@pytest.mark.long
def test_tuning(lab, monkeypatch, few_trials):
    """What is faster wins, and is written to a file that the loader reads."""
    real = tune.Trial.ms
    monkeypatch.setattr(tune.Trial, "ms", lambda self, launch: real(self, launch) * launch.shared**10)
    monkeypatch.setattr(tune.Trial, "ratio", lambda self, launch, default: launch.shared)
    assert work(lab, "tuning") == 0
    found = json.loads(next(lab.out.glob("*.json")).read_text())
    assert {check["verdict"] for check in found["checks"]} == {"same bits"}
    trials = found["tuning"]
    peaks = [trial for trial in trials if trial.get("kernel") == "tfce_peaks<6, false>" and "ms" in trial]
    assert {(512, 3), (512, 2), (256, 2), (256, 3)} <= {(trial["threads"], trial["resident"]) for trial in peaks}
    assert {trial["waves"] for trial in trials if "waves" in trial} == {1, 2, 4}
    assert {trial["substitution"] for trial in trials if "substitution" in trial} == set(tune.SUBSTITUTIONS)
    assert not any("refused" in trial for trial in trials)
    (path,) = lab.out.glob("*.toml")
    assert path.name == "cpu.toml"
    loaded = gpuvox.tuning.load("cpu", lab.out)
    assert loaded.of("tfce_peaks<6, false>").shared == loaded.of("tfce_peaks<26, false>").shared == 0.5
    assert loaded.as_toml() == found["facts"]["tuning"]


def test_a_launch_with_other_bits_fails(lab, monkeypatch, few_trials):
    """It is never chosen, however fast, and the session says so."""

    class Wrong(ShimDevice):
        def download_all(self, arrays):
            copies = super().download_all(arrays)
            for values in copies:
                if self.tuning != Tuning() and values.dtype == np.int64:
                    values.reshape(-1)[-1:] += 1
            return copies

    def tuned(tuning):
        device = Wrong()
        device.tuning = tuning
        return device

    monkeypatch.setattr(lab.machine, "tuned", tuned)
    assert tune.tune_peaks(lab, 6) == {}
    verdicts = [check["verdict"] for check in lab.report.checks]
    assert verdicts[0] == "same bits"
    assert set(verdicts[1:]) == {"failed"}


def test_a_launch_that_is_refused_is_noted(lab, monkeypatch, few_trials):
    def tuned(tuning):
        if tuning != Tuning():
            raise RuntimeError("too many resources requested for launch")
        return ShimDevice()

    monkeypatch.setattr(lab.machine, "tuned", tuned)
    assert tune.tune_peaks(lab, 6) == {}
    assert sum("too many resources" in entry.get("refused", "") for entry in lab.report.tuning) >= 3
    assert lab.report.failed == []


def test_texts_of_substitutions_apply():
    for kernel, old, new in tune.SUBSTITUTIONS.values():
        text = machine.with_substitution(kernel, old, new)
        assert text != gpuvox.cuda.source(gpuvox.cuda.FAMILY[kernel])
    with pytest.raises(ValueError, match="is not in the source of glm_exact"):
        machine.with_substitution("glm_exact", r"KERNEL_FOR\(1, 2\)", "")


# -- the session ------------------------------------------------------------------------------------------------


def in_children(tmp_path, kind, *options):
    """Exit status and report of a session whose steps are processes."""
    machine_name = f"tests.cuda_on_cpu.stopwatch:{kind}"
    status = main.main(["--tiny", "--machine", machine_name, "--out", str(tmp_path), *options])
    (path,) = tmp_path.glob("*.json")
    return status, json.loads(path.read_text())


def test_a_session(tmp_path, capfd):
    """Steps in processes of their own; everything is in one file, named before it runs."""
    status, found = in_children(tmp_path, "Stopwatch", "--only", "machine,checks: cluster", "--minutes", "1")
    assert status == 0, found
    assert [(step["name"], step["outcome"]) for step in found["steps"]] == [
        ("machine", "done"), ("checks: cluster", "done"),
    ]  # fmt: skip
    assert found["facts"]["device"] == "Kernels on the CPU"
    assert found["facts"]["ceilings"]["copy_bytes"]["per_s"] > 0
    assert {check["verdict"] for check in found["checks"]} == {"same bits"}
    said = capfd.readouterr().out
    assert said.index("== machine (up to") < said.index("   transfers") < said.index("== checks: cluster")
    assert [path.name[:18] for path in tmp_path.iterdir()] == ["kernels-on-the-cpu"]


@pytest.mark.parametrize(
    ("kind", "outcome"), [("Hanging", "stopped after 4 s"), ("Crashing", "ended by signal 6")]
)
def test_a_step_that_does_not_end_well(tmp_path, kind, outcome, monkeypatch):
    """What it found before is kept, the next step runs, and the exit status says so."""
    limits = {"machine": replace(steps.STEPS["machine"], limit=4.0 if kind == "Hanging" else 60.0)}
    monkeypatch.setattr(session, "STEPS", limits)
    monkeypatch.setattr(session, "MARGIN", 10.0)  # the step itself has time to begin everything
    status, found = in_children(tmp_path, kind, "--only", "machine")
    assert status == 1
    assert [step["outcome"] for step in found["steps"]] == [outcome]
    if kind == "Crashing":
        assert found["facts"]["device"] == "Kernels on the CPU"
    assert found["failed"] == ["machine"]


def test_steps_share_their_data(tmp_path):
    """What one process made, another reads."""
    made = [laboratory.Lab(None, laboratory.TINY, shared=tmp_path).data(24.0, 5) for _ in range(2)]
    np.testing.assert_array_equal(*made)
    assert [path.name for path in tmp_path.iterdir()] == ["noise-24-5-3.5.npy"]


def test_the_time_decides_what_fits(lab, monkeypatch):
    ran = {}

    def run_child(lab, name, limit, options):
        ran[name] = limit
        return {"outcome": "done", "seconds": 1.0}

    monkeypatch.setattr(session, "run_child", run_child)
    lab.sizes = replace(lab.sizes, seconds=25.0)
    lab.has_command = False
    session.run_session(lab, list(steps.STEPS), [])
    assert list(ran)[:4] == ["machine", "compile", "first checks", "whole runs"]
    assert max(ran.values()) <= 25
    assert {"ncu", "CPU", "little memory", "sanitizer"} <= set(lab.report.left_out)
    assert lab.report.skipped == ["command: nibabel, pandas or threadpoolctl is missing"]


@pytest.mark.long
def test_the_whole_session(tmp_path):
    """Every step, in order, as on a GPU."""
    status, found = in_children(tmp_path, "Stopwatch", "--minutes", "20")
    failed = set(found["failed"]) - {"command"}  # a fresh process finds no device
    assert (status, failed) == (1, set())
    assert {step["outcome"] for step in found["steps"]} == {"done"}
    assert len(found["steps"]) == len(steps.STEPS)


def test_ncu(lab, monkeypatch, tmp_path):
    tool = tmp_path / "ncu"
    tool.write_text('#!/bin/sh\necho "==PROF== x"\necho \'"ID","Kernel Name"\'\necho \'"0","tfce_peaks"\'\n')
    tool.chmod(0o755)
    lab.out = None
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    ncu.profile(lab)
    assert lab.report.skipped == ["ncu: it is not installed"]
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(tool))
    ncu.profile(lab)
    assert lab.report.facts["ncu"] == ['"ID","Kernel Name"', '"0","tfce_peaks"']
    ncu.workload(lab)
    assert {"tfce_peaks<6, false>", "tfce_peaks<26, false>", "glm_exact"} <= set(lab.device.launched)


def test_floors(lab):
    """Bytes and operations of a case counted by hand, at ceilings of one each per millisecond."""
    lab.report.facts["ceilings"] = {"copy_bytes": {"per_s": 1e3}, "float32_operations": {"per_s": 1e3}}
    test = studies.make_test(lab, None, 24.0, 20, 8, Statistics())
    v = lab.grid(24.0).n_voxels
    work = floors.work_of_t_maps(test.model, 5)
    assert work["operations"] == 2 * 20 * v * 4 * 5  # the group and three covariates; the mean does not move
    assert work["bytes"] == 4 * v * (20 + 5)
    time = {"ms": 3.0, "fastest_ms": 3.0, "slowest_ms": 3.0}
    floors.note(lab, "t", 5, time, work)
    assert lab.report.timings[-1]["floor_ms"] == pytest.approx(work["operations"])
    floors.note(lab, "c", 5, time, floors.work_of_maps(5, v, 8))
    assert lab.report.timings[-1]["floor_ms"] == pytest.approx(5 * v * 12)
    assert lab.report.timings[-1]["times_the_floor"] == pytest.approx(3 / (5 * v * 12))


def test_a_wrong_bit_fails(lab, monkeypatch, capsys):
    """One bit of one kernel's result: the check fails, the others go on, and the status says so."""
    real = lab.device.download

    def download(array):
        values = real(array)
        if lab.device.launched and lab.device.launched[-1] == "smooth_gather":
            values.reshape(-1)[-1:].view(np.int32)[...] ^= 1
        return values

    monkeypatch.setattr(lab.device, "download", download)
    assert work(lab, "checks: primitives") == 1
    verdicts = {c["name"]: c["verdict"] for c in written(lab)["checks"]}
    assert sum(v == "failed" for v in verdicts.values()) == 3
    assert all(("smoothing" in name) == (v == "failed") for name, v in verdicts.items())
    assert "differ, first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [
        ([np.float32(0.0)], [np.float32(-0.0)], 1),
        ({"x": np.zeros(3)}, {"x": np.zeros(3)}, 0),
        ({"x": np.zeros(3)}, {"y": np.zeros(3)}, 1),
        (np.zeros(3), np.zeros(4), 1),
        (np.zeros(3), np.zeros(3, np.float32), 1),
        ([1, 2], [1], 1),
        ([True], [False], 1),
        ({"refused": "a"}, {"refused": "b"}, 1),
        ([np.full(2, np.nan)], [np.full(2, np.nan)], 0),
        ([np.float32([np.nan, 1])], [np.int32([-1, 0x3F800000]).view(np.float32)], 0),
        ([np.float32([np.nan, 1])], [np.float32([1, 1])], 1),
    ],
)
def test_differences(a, b, n):
    assert len(list(compare.differences(a, b))) == n


def test_an_error_is_noted_and_the_script_goes_on(lab):
    def wrong():
        raise ValueError("no")

    lab.guarded("one", wrong)
    lab.guarded("two", lambda: lab.report.skipped.append("done"))
    assert lab.report.failed == ["one"]
    assert lab.report.skipped == ["done"]
    assert "ValueError: no" in lab.report.errors[0]["error"]


def test_no_memory_for_a_moment(lab):
    with runs.no_memory_at(lab.device, 2):
        lab.device.empty(3, np.int32)
        with pytest.raises(OutOfDeviceMemory):
            lab.device.empty(3, np.int32)
    with pytest.raises(AssertionError, match="only 0"), runs.no_memory_at(lab.device, 1):
        pass


def test_what_there_is_no_time_for_is_named(lab):
    lab.sizes = replace(lab.sizes, seconds=0.0)
    assert work(lab, "checks: glm", "whole runs") == 0
    found = written(lab)
    assert "whole, C 6" in found["left_out"]
    assert found["checks"] == found["timings"] == []


def test_fewer_permutations_where_time_is_short(lab, monkeypatch):
    monkeypatch.setattr(timings, "expected_seconds", lambda *_: 1e6)
    lab.sizes = replace(lab.sizes, permutations=10_000, seconds=3000.0)
    timings.time_whole(lab, 6, lab.sizes.mm)
    (row,) = lab.report.timings
    assert row["permutations"] == pytest.approx(12, abs=1)  # 40 % of the time that is left
    assert row["seconds_for"]["scaled"]
    assert row["seconds_for"]["s"] == pytest.approx(row["ms"] / 1e3 * 10_000 / row["permutations"])
    assert "(scaled)" in table.line_of(row)


def test_without_threadpoolctl_and_nibabel(lab, capsys):
    lab.has_executors = lab.has_command = False
    main.say_what_is_missing(lab)
    assert list(runs.whole_checks(lab)) == []
    assert len(lab.report.skipped) == 1
    lab.has_executors = True
    main.say_what_is_missing(lab)
    assert len(capsys.readouterr().out.split("\n")) == 3


TOOL = """#!/bin/sh
echo "Host Frame: f in /some/where/lib.so"
echo "========= {summary}"
exit {status}
"""


@pytest.mark.parametrize(
    ("summary", "status", "memcheck", "racecheck"),
    [
        ("ERROR SUMMARY: 0 errors", 0, "clean", "clean"),
        ("ERROR SUMMARY: 3 errors", 99, "failed", "failed"),
        ("RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", 99, "failed", "to be read"),
        ("ERROR SUMMARY: 0 errors", 1, "failed", "failed"),
        ("Device not supported", 1, "did not run (status 1)", "did not run (status 1)"),
    ],
)
def test_sanitizer(lab, monkeypatch, tmp_path, summary, status, memcheck, racecheck):
    """Racecheck takes the words that threads race for on purpose for hazards: what it finds fails nothing."""
    tool = tmp_path / "tool"
    tool.write_text(TOOL.format(summary=summary, status=status))
    tool.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda *_, **__: str(tool))
    lab.out = None
    sanitizer.sanitizer(lab)
    verdicts = {"compute-sanitizer memcheck": memcheck, "compute-sanitizer racecheck": racecheck}
    assert {entry["name"]: entry["verdict"] for entry in lab.report.sanitizer} == verdicts
    assert "Host Frame: f in lib.so" in lab.report.sanitizer[0]["lines"]
    assert lab.report.failed == [name for name, verdict in verdicts.items() if verdict == "failed"]


def test_sanitizer_that_is_missing_or_slow(lab, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    sanitizer.sanitizer(lab)
    assert lab.report.skipped == ["compute-sanitizer: it is not installed"]
    slow = [sys.executable, "-uc", "print('begun'); import time; time.sleep(60)"]
    found = sanitizer.judged(slow, 1.0)
    assert found["verdict"] == "not finished within 1 s"
    assert found["lines"] == ["begun"]


def test_the_command(lab, monkeypatch, tmp_path):
    """Its files are read by the command itself, whose stages are timed."""
    study = tmp_path / "study"
    study.mkdir()
    command.write_study(lab, study)
    monkeypatch.chdir(study)
    for owner, name in (
        ("gpuvox.application.execute", "resolve_all"), ("gpuvox.application.execute", "read_images"),
        ("gpuvox.analysis", "make_model"),
        ("gpuvox.analysis", "run"), ("gpuvox.analysis", "make_result"), ("gpuvox.application.outputs", "Writer.result"),
    ):  # fmt: skip
        place = import_module(owner)
        for part in name.split(".")[:-1]:
            place = getattr(place, part)
        monkeypatch.setattr(place, name.split(".")[-1], getattr(place, name.split(".")[-1]))  # put back afterwards
    options = ["-i", "data", "-o", "out", "-m", "mask", "-d", "design.mat", "-t", "design.con", "-T", "-n", "5"]
    found = command.stages_of_command(["randomise", *options, "--quiet", "--device", "cpu"])
    assert {
        "imports",
        "opening the device",
        "reading",
        "model",
        "permutations",
        "p values",
        "writing",
    } < found.keys()
    assert (study / "out_tfce_corrp_tstat2.nii.gz").exists()
    assert found["in all, but for starting Python"] >= found["permutations"]


def test_process(tmp_path):
    seconds, text = bench_process(["-c", "import gpuvox; print(gpuvox.__version__)"], str(tmp_path))
    assert text.strip() == gpuvox.__version__
    assert seconds > 0
    with pytest.raises(RuntimeError, match="status 3"):
        bench_process(["-c", "raise SystemExit(3)"], str(tmp_path))


def test_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr(main, "why_unavailable", lambda: "no CUDA device answers; use --device cpu")
    assert main.main([]) == 2
    assert capsys.readouterr().err == "There is no GPU to check or to time: no CUDA device answers.\n"


class Event:
    """An event that is reached at once."""

    def record(self):
        self.at = perf_counter()

    def synchronize(self):
        pass


def cupy(monkeypatch):
    """As much of CuPy as the script touches."""
    about = {"totalGlobalMem": 1 << 30, "multiProcessorCount": 2, "major": 9, "minor": 0, "l2CacheSize": 1 << 20}
    copies = []
    runtime = SimpleNamespace(
        getDeviceProperties=lambda number: about, driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000,
        memcpyAsync=lambda *arguments: copies.append(arguments), memcpyDeviceToDevice=3,
        deviceSynchronize=lambda: None,
    )  # fmt: skip
    module = ModuleType("cupy")
    module.__version__ = "0"
    module.RawKernel = lambda code, name: lambda grid, block, arguments: copies.append((grid, block, arguments))
    module.cuda = SimpleNamespace(
        runtime=runtime, Event=Event, get_elapsed_time=lambda a, b: 1e3 * (b.at - a.at),
        Memory=lambda size: size, MemoryPointer=lambda memory, offset: (memory, offset),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", module)
    return copies


def test_cuda(monkeypatch):
    """The names that the script uses; what they do only a GPU can show."""
    calls = cupy(monkeypatch)
    device = ShimDevice()
    device.kernel = lambda name: SimpleNamespace(num_regs=1, local_size_bytes=2, shared_size_bytes=3)
    monkeypatch.setattr(gpuvox.cuda, "open_device", lambda number, limit: device)
    empty = device.empty
    monkeypatch.setattr(device, "fill", lambda array, value: None)
    monkeypatch.setattr(machine, "first_line", lambda *command: "1, 2, 3, 4, 5, 6")
    gpu = machine.Cuda(pooled=False)
    assert device._pool.malloc(5) == (5, 0)
    assert device._pool.free_bytes() == device._pool.used_bytes() == 0
    device._pool.free_all_blocks()
    assert gpu.facts()["multiprocessors"] == 2
    assert gpu.clocks()["clocks.sm"] == "2"
    assert gpu.compile()["kernels"]["glm_rows"] == {"registers": 1, "local_bytes": 2, "shared_bytes": 3}
    gpu.synchronise()
    assert gpu.fma_rate(3)["per_s"] > 0
    assert len(calls) == 4

    def with_pointer(shape, dtype):
        array = empty(shape, dtype)
        array.data = SimpleNamespace(ptr=7)
        return array

    monkeypatch.setattr(device, "empty", with_pointer)
    assert gpu.copy_rate(1000, 2)["per_s"] > 0
    assert calls[-1] == (7, 7, 1000, 3, 0)


def test_the_command_line(monkeypatch, tmp_path, capsys):
    options = ["--tiny", "--machine", "tests.cuda_on_cpu.stopwatch:Stopwatch", "--in-one-process"]
    assert main.main([*options, "--only", "machine", "--minutes", "0.5", "--out", str(tmp_path)]) == 0
    facts = json.loads(next(tmp_path.iterdir()).read_text())["facts"]
    assert facts["sizes"]["seconds"] == 30
    assert facts["ceilings"]["copy_bytes"]["per_s"] > 0
    assert facts["numpy"] == np.__version__
    assert main.main([*options, "--only", "machine,tea"]) == 2
    assert "There is no step 'tea'; the steps are machine, compile" in capsys.readouterr().err
    monkeypatch.setattr(main, "stages_of_command", lambda given: {"given": given})
    assert main.main(["--stages", "randomise", "-i"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n")[-2]) == {"given": ["randomise", "-i"]}


def test_compiling(lab, monkeypatch):
    """A process for each family of loops, which its checks run without a device, while the kernels are compiled."""
    events = []

    class Process:
        def __init__(self, command, **_):
            assert command[-2] == "--compile"
            self.family = command[-1]
            events.append(f"{self.family} begun")

        def wait(self, limit=None):
            if limit is not None and self.family == "tfce":
                raise subprocess.TimeoutExpired("python", limit)
            events.append(f"{self.family} ended")

        def kill(self):
            events.append(f"{self.family} stopped")

    monkeypatch.setattr(families.subprocess, "Popen", Process)
    monkeypatch.setattr(families, "FAMILIES", {"glm": None, "tfce": None})
    with families.compiled_loops(lab):
        events.append("kernels")
    assert events == ["glm begun", "tfce begun", "kernels", "glm ended", "tfce stopped", "tfce ended"]


def test_compiling_a_family():
    assert main.main(["--compile", "cluster"]) == 0
