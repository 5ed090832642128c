"""The data of an analysis are sent to a device once, for all of its tests, and leave it at the end."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import pytest
from test_device import assert_same

from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.device import OutOfDeviceMemory
from gpuvox.distributed import messages, worker
from gpuvox.errors import DeviceError
from gpuvox.grid import Grid
from gpuvox.statistics import Statistics
from gpuvox.team import DeviceTeam
from tests.cuda_on_cpu.shim import CXX, ShimDevice

pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")

N_ROWS, SHAPE, N_VOXELS = 30, (5, 6, 5), 150
KINDS = {
    "t and F": {},
    "voxelwise EVs": {"evs": True},
    "variance groups": {"variance_groups": tuple(np.arange(N_ROWS) % 2)},
    "missing data": {"missing_voxels": True},
}


class Counting(ShimDevice):
    """Counts the bytes of data that are sent to it: float32 of all voxels, of more rows than a map has."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.sent = 0

    def count(self, array):
        if array.dtype == np.float32 and array.ndim == 2 and array.shape[0] > 2 and array.shape[1] == N_VOXELS:
            self.sent += array.nbytes

    def upload(self, array):
        self.count(np.asarray(array))
        return super().upload(array)

    def put(self, array, values):
        self.count(values)
        super().put(array, values)

    def send(self, array, values, after):
        self.count(values)
        return super().send(array, values, after)


def study(evs=False, **options) -> tuple[Inputs, Options]:
    """Three contrasts and an F test."""
    rng = np.random.default_rng(8)
    grid = Grid(np.ones(SHAPE, dtype=bool))
    design = np.c_[np.ones(N_ROWS), np.arange(N_ROWS) % 2, rng.normal(size=(N_ROWS, 2))]
    data = rng.normal(size=(N_ROWS, grid.n_voxels)).astype(np.float32)
    if options.get("missing_voxels"):
        data[3, ::5] = np.nan
    held = {3: rng.normal(size=data.shape).astype(np.float32)} if evs else {}
    inputs = Inputs(data, grid, design, np.eye(4)[1:], np.array([[1, 1, 0]]), None, held)
    return inputs, Options(Statistics(True), Statistics(True), n_permutations=10, seed=4, threads=1, **options)


def results_on(device, inputs, options):
    return list(analyse(prepare(inputs, dataclasses.replace(options, device=device))))


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_sent_once_for_all_tests(kind):
    inputs, options = study(**KINDS[kind])
    device = Counting()
    assert_same(list(analyse(prepare(inputs, options))), results_on(device, inputs, options))
    assert device.sent == inputs.data.nbytes + sum(values.nbytes for values in inputs.evs.values())
    gc.collect()
    assert device.used == 0


def test_data_are_sent_once_to_each_device_of_a_team():
    inputs, options = study()
    devices = [Counting(name="cuda:0"), Counting(name="cuda:1")]
    results = results_on(devices[0], inputs, dataclasses.replace(options, workers=DeviceTeam(devices)))
    assert_same(list(analyse(prepare(inputs, options))), results)
    for device in devices:
        assert device.sent == inputs.data.nbytes
    gc.collect()
    assert [device.used for device in devices] == [0, 0]


def test_what_is_shared_counts_as_free_where_it_is_used():
    """Just enough memory for the data and the residuals of one test: none of the tests sends slabs."""
    inputs, options = study()
    needed = 2 * 8 * N_ROWS * -(-inputs.grid.n_voxels // 128) * 128
    for limit, are_sent in ((needed + 100, False), (needed - 100, True)):
        device = Counting(limit=limit)
        assert_same(list(analyse(prepare(inputs, options))), results_on(device, inputs, options))
        assert ("send" in device.transfers) == are_sent
        assert device.largest <= limit


def test_memory_that_runs_out_lets_go_of_shared_data():
    """In a later test; the data are then sent again, and no bit changes."""
    inputs, options = study()
    expected = list(analyse(prepare(inputs, options)))
    for fail_at in (60, 100):
        device = Counting()
        device.fail_at = fail_at
        assert_same(expected, results_on(device, inputs, options))
        assert device.fail_at < 0
        gc.collect()
        assert device.used == 0


@pytest.mark.parametrize("error", [DeviceError, KeyboardInterrupt, None])
def test_nothing_stays_after_an_error_or_where_results_are_left(error):
    """After the first test fails, is interrupted, or its caller wants no more."""

    class Fails(Counting):
        def launch(self, kernel, *arguments, **settings):
            if error and len(self.launched) == 40:
                raise error("cuda:0 failed")
            super().launch(kernel, *arguments, **settings)

    inputs, options = study()
    device = Fails()
    results = analyse(prepare(inputs, dataclasses.replace(options, device=device)))
    if error:
        with pytest.raises(error):
            list(results)
    else:
        next(results)
        assert device.used >= inputs.data.nbytes
        results.close()
    gc.collect()
    assert device.used == 0
    assert device._shared_data == []


def test_copies_end_with_their_data_and_make_room():
    device, one = ShimDevice(limit=1000), np.zeros((2, 20), np.float32)
    sent = device.shared((one,), lambda: device.upload(one))
    assert device.shared((one,), lambda: device.upload(one)) is not sent  # nothing is kept outside of an analysis
    del sent
    with device.sharing():
        assert device.shared((one,), lambda: device.upload(one)) is device.shared((one,), pytest.fail)
        assert device.width_for((one,), 20, lambda free: 20 if free >= 1000 else 1) == 20
        assert device.shared((one,), pytest.fail).shape == (2, 20)
        short_lived = np.zeros((2, 20), np.float32)
        device.shared((short_lived,), lambda: device.upload(one))
        assert device.used == 320
        del short_lived
        gc.collect()
        assert device.used == 160
        assert device.width_for((one,), 20, lambda free: 20 if free > 1000 else 1) == 1
        assert device.used == 0
        with pytest.raises(OutOfDeviceMemory):
            device.shared((one,), lambda: device.empty(2000, np.uint8))
        device.shared((one,), lambda: device.upload(one))
    assert device.used == 0


def test_a_worker_shares_the_data_of_a_source():
    device, data = ShimDevice(), np.zeros((2, 20), np.float32)
    source = messages.DataSource(arrays=messages.Arrays(data, {}))
    worker._share_data(source, [device])
    worker._share_data(source, [device])
    assert len(device._shared_data) == 1
    device.shared((data,), lambda: device.upload(data))
    assert device.used == 160
    del source
    gc.collect()
    assert device.used == 0
    assert device._shared_data == []
