"""Several devices share the permutations of a test; the truth is always the CPU's run, bit for bit."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from pathlib import Path

import numpy as np
import pytest
from test_device import assert_same

import gpuvox
from gpuvox import cuda, info
from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.application import execute, plan
from gpuvox.cli import main, main_randomise
from gpuvox.device import OutOfDeviceMemory
from gpuvox.distributed import client, messages, worker
from gpuvox.errors import DeviceError, InputError
from gpuvox.grid import Grid
from gpuvox.permtest import hash_first_maps
from gpuvox.statistics import Statistics
from gpuvox.tally import Tally
from gpuvox.team import DeviceTeam, Member, Ranges
from gpuvox.tfce import Tfce
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.front_door import make_two_groups

pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")

N = 150


class Paced(ShimDevice):
    """Takes a time for each map, which the other devices have at the same time.

    A device that has made more than `share` maps waits for its `others` to have had theirs, so that each gets
    work however the threads are scheduled.
    """

    def __init__(self, name, seconds=0.0, **settings):
        super().__init__(name=name, **({"limit": 8 << 20} | settings))
        self.seconds, self.n_maps, self.uploads = seconds, 0, 0
        self.share, self.others = 0, ()

    @property
    def has_its_share(self):
        return self.n_maps > self.share

    def launch(self, kernel, *arguments, **settings):
        if kernel.startswith("glm_maps"):
            if self.has_its_share:
                until(lambda: all(other.has_its_share for other in self.others))
            n_maps = int(arguments[7])
            self.n_maps += n_maps
            time.sleep(self.seconds * n_maps)
        super().launch(kernel, *arguments, **settings)

    def put(self, array, values):
        self.uploads += values.nbytes
        super().put(array, values)


def until(holds, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "a device waited in vain for another"
        time.sleep(0.001)


def sharing(*devices, share):
    """Devices of which each makes more than so many maps, or fails."""
    for device in devices:
        device.share, device.others = share, [other for other in devices if other is not device]
    return devices


class Failing(Paced):
    """Fails when it has made so many maps, as CUDA does after a fault: nothing works from then on."""

    def __init__(self, name, after, error=None, **settings):
        super().__init__(name, **settings)
        self.after, self.error = after, error or DeviceError(f"{name} failed: an illegal memory access")
        self.has_failed = False

    @property
    def has_its_share(self):
        return self.has_failed

    def launch(self, kernel, *arguments, **settings):
        if self.n_maps > self.after:
            self.has_failed = True
            raise self.error
        super().launch(kernel, *arguments, **settings)

    def release(self):
        if self.n_maps > self.after:
            raise self.error


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(4)
    grid, n = Grid(np.ones((5, 4, 4), dtype=bool)), 12
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    design = np.c_[np.ones(n), np.arange(n) % 2, rng.normal(size=n)]
    return Inputs(data, grid, design, np.array([[0, 1, 0], [0, -1, 0], [0, 0, 1.0]]), np.zeros((0, 3)))


@pytest.fixture(scope="module")
def options():
    statistics = Statistics(True, Tfce(), 1.5, uncorrected=True)
    return Options(statistics, n_permutations=N, seed=2, threads=1)


@pytest.fixture(scope="module")
def expected(inputs, options):
    return list(analyse(prepare(inputs, options)))


def on_team(devices, inputs, options, **settings):
    """Results and warnings of a run on some devices."""
    warnings: list[str] = []
    team = DeviceTeam(devices, warnings.append)
    with_team = dataclasses.replace(options, device=devices[0], workers=team)
    return list(analyse(prepare(inputs, with_team), **settings)), warnings, team


def test_the_bits_of_the_cpu_on_three_devices(inputs, options):
    devices = Paced("cuda:0"), Paced("cuda:1", n_processors=1), Paced("cuda:2", limit=1 << 19)
    sharing(*devices, share=2)  # more than the check of their bits
    statistics = dataclasses.replace(options.statistics, two_pass=True)
    options = dataclasses.replace(options, statistics=statistics, n_permutations=80)
    expected = list(analyse(prepare(inputs, options)))
    results, warnings, _ = on_team(devices, inputs, options)
    assert_same(expected, results)
    assert warnings == []
    assert all(device.has_its_share for device in devices)
    gc.collect()
    assert [device.used for device in devices] == [0, 0, 0]


def test_the_work_follows_the_speed(inputs, options):
    fast, slow = Paced("cuda:0", 0.004), Paced("cuda:1", 0.016)
    simple = dataclasses.replace(options, statistics=Statistics(True), n_permutations=400, only_test=1)
    on_team([fast, slow], inputs, simple)
    assert fast.n_maps + slow.n_maps == 400 + 2 * 2  # once each, and the check of the first maps
    assert 2 < fast.n_maps / slow.n_maps < 7, "four times as fast"


def test_the_model_is_sent_once_to_each_device(inputs, options):
    devices = [Paced("cuda:0"), Paced("cuda:1")]
    on_team(devices, inputs, dataclasses.replace(options, only_test=1))
    data = inputs.data.nbytes
    for device in devices:
        assert data <= device.uploads < 2 * data  # residuals and permutations are made there


@pytest.mark.parametrize(
    ("place", "after", "error"),
    [(0, -1, None), (0, 30, None), (1, -1, OutOfDeviceMemory("no room")), (2, 30, OutOfDeviceMemory("no room"))],
)
def test_a_device_that_fails_is_left_out(place, after, error, inputs, options, expected):
    """At the start or midway, the first device or another: its ranges run elsewhere, once."""
    devices = [Paced("cuda:0", 0.0005), Paced("cuda:1", 0.0005), Paced("cuda:2", 0.0005)]
    options = dataclasses.replace(options, only_test=1)
    devices[place] = Failing(f"cuda:{place}", after, error, seconds=0.0001)
    sharing(*devices, share=10)
    results, warnings, team = on_team(devices, inputs, options)
    assert_same(expected[:1], results)
    reason = "it does not have enough memory" if error else f"cuda:{place} failed: an illegal memory access"
    assert warnings == [
        f"cuda:{place} (kernels on the CPU) is left out: {reason}; the other devices run its permutations"
    ]
    assert f"cuda:{place} (kernels on the CPU), left out" in team.description
    assert devices[place] not in team.devices


def test_if_all_fail_the_run_ends(inputs, options):
    with pytest.raises(DeviceError, match="illegal memory access"):
        on_team([Failing("cuda:0", 30), Failing("cuda:1", 30)], inputs, options)
    small = [ShimDevice(limit=4000, name="a"), ShimDevice(limit=4000, name="b")]
    with pytest.raises(DeviceError, match="enough memory even for one map"):
        on_team(small, inputs, options)


class OneBitOff(Paced):
    """One bit of the last map of a batch is wrong, as a faulty memory makes it."""

    def launch(self, kernel, *arguments, **settings):
        super().launch(kernel, *arguments, **settings)
        if kernel.startswith("glm_maps"):
            for array in arguments:
                if getattr(array, "ndim", 0) == 2 and array.shape[1] % 128 and array.dtype == np.float32:
                    array.values[-1:].view(np.int32)[0, -1] ^= 1 << 20


def test_a_device_that_computes_other_bits_ends_the_run(inputs, options):
    simple = dataclasses.replace(options, statistics=Statistics(True))
    with pytest.raises(DeviceError, match=r"cuda:1 .* computes other bits than cuda:0"):
        on_team([Paced("cuda:0"), OneBitOff("cuda:1")], inputs, simple)


def test_levels_beyond_the_tables_start_again(inputs, options):
    """A map that exceeds the tables on any device."""
    simple = dataclasses.replace(options, statistics=Statistics(tfce=Tfce(delta=0.005)), n_permutations=60)
    expected = list(analyse(prepare(inputs, simple)))
    results, warnings, _ = on_team([Paced("cuda:0"), Paced("cuda:1")], inputs, simple)
    assert_same(expected, results)
    assert warnings == []


def test_callbacks_receive_every_map(inputs, options):
    simple = dataclasses.replace(options, statistics=Statistics(True), n_permutations=40, only_test=1)
    maps: dict[int, np.ndarray] = {}
    on_team([Paced("cuda:0"), Paced("cuda:1")], inputs, simple, on_maps=lambda _, i, m: maps.update({i: m["vox"]}))
    assert sorted(maps) == list(range(40))


# -- handing out ------------------------------------------------------------------------------------------------


def member(name, batch, rate=None, n_processors=1):
    made = Member(ShimDevice(name=name, n_processors=n_processors), batch=batch)
    if rate:
        made.done, made.seconds = rate, 1.0
    return made


def test_ranges_follow_what_is_known():
    fast, slow, new = member("a", 1000, rate=900), member("b", 1000, rate=100), member("c", 1000)
    ranges = Ranges(Tally(3000), [fast, slow])
    assert ranges.take(fast) == (0, 1000)  # at most a batch
    assert ranges.take(slow) == (1000, 1100)  # a tenth of the rest, in two halves
    assert Ranges(Tally(3000), [fast, new]).take(new) == (0, 250)  # a part of a batch, until its speed is known
    assert Ranges(Tally(10), [fast, slow]).take(fast) == (0, 10)  # no small change
    assert Ranges(Tally(3000), [member("d", 99, 1, n_processors=10)]).take(fast)[1] <= 1000


def test_whole_waves():
    wide = member("a", 1000, rate=10, n_processors=132)
    assert Ranges(Tally(3000), [wide]).take(wide) == (0, 924)


def test_what_is_given_back_goes_to_another_who_waits():
    """A device that has nothing left waits for those that still run: one of them may fail."""
    import threading

    one, other = member("a", 10), member("b", 10)
    tally = Tally(2)
    ranges = Ranges(tally, [one, other])
    parts = [ranges.take(one), ranges.take(one)]
    assert parts == [(0, 1), (1, 2)]
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(ranges.take(other)))
    waiting.start()
    ranges.finish(one, parts[0])
    one.has_failed = True
    ranges.give_back(parts[1])
    waiting.join(5)
    assert taken == [(1, 2)]
    assert ranges.take(one) is None
    ranges.finish(other, (1, 2))
    assert ranges.take(other) is None


# -- commands ---------------------------------------------------------------------------------------------------


COMMAND = "-i data -m mask -d design.mat -t design.con -n 60 --seed 1 -T".split()


def test_the_command_on_two_devices(study, monkeypatch, capsys):
    """--device cuda: the files of the CPU; the devices are announced, planned and recorded."""
    devices = sharing(Paced("cuda:0"), Paced("cuda:1"), share=5)
    for module in (cuda, execute, plan):
        monkeypatch.setattr(module, "resolve_all", lambda name: () if name == "cpu" else devices)
    assert main_randomise([*COMMAND, "-o", "one", "--device", "cpu", "--quiet"]) == 0
    capsys.readouterr()
    assert main_randomise([*COMMAND, "-o", "two", "--device", "cuda"]) == 0
    said = capsys.readouterr().out
    assert "Device: kernels on the CPU (cuda:0); float32" in said
    assert "Device: kernels on the CPU (cuda:1); float32" in said
    record = json.loads(Path("two_randomise.json").read_text())
    assert record["device"] == "cuda:0 (kernels on the CPU), cuda:1 (kernels on the CPU)"
    maps = sorted(path.name.removeprefix("one_") for path in Path().glob("one_*.nii.gz"))
    assert len(maps) > 2
    for name in maps:
        assert Path(f"one_{name}").read_bytes() == Path(f"two_{name}").read_bytes(), name
    assert all(device.has_its_share for device in devices)
    assert main_randomise([*COMMAND, "-o", "two", "--device", "cuda", "--plan"]) == 0
    assert capsys.readouterr().out.count("device: kernels on the CPU (cuda:") == 2


@pytest.mark.long
def test_voxelwise_on_two_devices(tmp_path, monkeypatch):
    cohort, devices = make_two_groups(tmp_path), sharing(Paced("cuda:0"), Paced("cuda:1"), share=5)
    for module in (cuda, execute):
        monkeypatch.setattr(module, "resolve_all", lambda name: () if name == "cpu" else devices)
    words = ["--model", "group + age", "--test", "MS - HC", "-T", "--seed", "3", "--device"]
    found = {}
    for device in ("cpu", "cuda"):
        assert cohort.voxelwise(*words, device) == 0
        found[device] = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.nii.gz")}
    assert found["cpu"] == found["cuda"]
    assert len(found["cpu"]) > 3
    assert all(device.has_its_share for device in devices)


def test_from_python(inputs):
    devices = sharing(Paced("cuda:0"), Paced("cuda:1"), share=5)
    settings = {"n_permutations": 60, "seed": 1, "tfce": True}
    results = [
        gpuvox.randomise(
            inputs.data, inputs.design, inputs.contrasts[:1], mask=inputs.grid, device=device, **settings
        )
        for device in ("cpu", devices)
    ]
    assert_same(*(result.tests for result in results))
    assert all(device.has_its_share for device in devices)
    with pytest.raises(InputError, match="'cuda:i,j' is expected"):
        gpuvox.randomise(inputs.data, inputs.design, inputs.contrasts[:1], device=[0, 1])


def test_info_lists_all_devices(monkeypatch, capsys):
    import sys
    from types import SimpleNamespace

    runtime = SimpleNamespace(driverGetVersion=lambda: 13020)
    monkeypatch.setitem(
        sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), __version__="0")
    )
    devices = [Paced("cuda:0"), Paced("cuda:1"), OneBitOff("cuda:2")]
    for device in devices:
        device.kernel = lambda name: None
    monkeypatch.setattr(info, "why_unavailable", lambda: None)
    monkeypatch.setattr(info, "count_devices", lambda: 3)
    monkeypatch.setattr(info, "open_device", lambda number, limit: devices[number])
    main(["info"])
    said = capsys.readouterr().out
    for device in devices:
        assert f"{device.name}: kernels on the CPU" in said
    assert "--device cuda uses all of them" in said


# -- workers ----------------------------------------------------------------------------------------------------


def infos(*visible):
    """Workers of one machine and the places of the GPUs that they see, in the order of their numbers."""
    return {
        f"tcp://{i}": messages.WorkerInfo(
            2, 10, "GPU", {}, "node", tuple((f"cuda:{k}", place, 10) for k, place in enumerate(places))
        )
        for i, places in enumerate(visible)
    }


@pytest.mark.parametrize(
    ("visible", "names", "processors"),
    [
        (["abcd"], ["cuda:0,1,2,3"], [40]),
        (["abcd", "abcd"], ["cuda:0,2", "cuda:1,3"], [20, 20]),
        (["abcd", "bcda", "cdab", "dabc"], ["cuda:0", "cuda:0", "cuda:0", "cuda:0"], [10] * 4),  # dask-cuda
        (["ab", "ab", "ab"], ["cuda:0", "cuda:1", "cuda:0"], [10] * 3),
        (["a", "b"], ["cuda:0", "cuda:0"], [10, 10]),
        (["a", "a"], None, [10, 10]),  # one GPU: as the name of the device says
        ([""], None, [10]),
    ],
)
def test_workers_share_the_gpus_of_their_machine(visible, names, processors):
    workers, chosen = client.share_devices(infos(*visible))
    assert chosen == (dict(zip(workers, names)) if names else {})
    assert [info.processors for info in workers.values()] == processors


def test_a_worker_with_two_devices(inputs, options, monkeypatch):
    """A range of a worker runs on both of its devices, to the bits of the client."""
    devices = sharing(Paced("cuda:0"), Paced("cuda:1"), share=20)
    monkeypatch.setattr(worker, "resolve_all", lambda name: devices if name == "cuda:0,1" else ())
    monkeypatch.setattr(worker, "_address", lambda: "tcp://here")
    simple = dataclasses.replace(options, statistics=Statistics(True, Tfce()), only_test=1)
    analysis = prepare(inputs, simple)
    from gpuvox.analysis import make_model
    from gpuvox.permtest import PermutationTest

    prepared = analysis.tests[0]
    model = make_model(analysis, prepared)
    observed = PermutationTest(model, inputs.grid, prepared.shuffler, simple.statistics).observe()
    job = messages.Job(
        observed.with_model(messages.make_recipe(model), None), "cuda", hash_first_maps(observed),
        worker.software(), {"tcp://here": "cuda:0,1"},
    )  # fmt: skip
    source = messages.DataSource(arrays=messages.Arrays(inputs.data, {}))
    result = messages.unpack(worker.run_range(job, source, 10, 140))
    truth = observed.run(10, 140)
    assert (result.start, result.stop) == (10, 140)
    for name, values in truth.maxima.items():
        np.testing.assert_array_equal(result.maxima[name], values)
    assert all(device.has_its_share for device in devices)


def test_what_a_worker_says_of_its_devices(monkeypatch):
    from types import SimpleNamespace

    every = Paced("cuda:0"), Paced("cuda:1", n_processors=7)
    monkeypatch.setattr(worker, "resolve_all", lambda name: every if name == "cuda" else every[:1])
    info = worker.describe_worker("auto", SimpleNamespace(state=SimpleNamespace(nthreads=3)))
    assert info.devices == (("cuda:0", "bus of cuda:0", 2), ("cuda:1", "bus of cuda:1", 7))
    assert cuda.resolve_all("cpu") == ()
