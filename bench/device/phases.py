"""A clock inside tfce_peaks: which phase takes how much of its time."""

from __future__ import annotations

from bench.device.lab import Lab, say
from bench.device.model import PHASES, instructions_by_phase
from bench.device.timings import batch_of_maps, tfce_of


def time_phases(lab: Lab) -> None:
    """Share of every phase, for each connectivity, beside that of the warp instructions of an emulator."""
    device, read = lab.machine.profiled()
    observed, maps = batch_of_maps(lab, 3.5)
    values = lab.device.download(maps)
    observed.test.model.release()
    for connectivity in (6, 26):
        make = tfce_of(observed, connectivity).on(device)
        there = device.upload(values)
        make.maxima(there)
        read()
        make.maxima(there)
        ticks = read()
        total, emulated = sum(ticks) or 1, instructions_by_phase(connectivity)
        rows = [
            {
                "phase": phase, "ticks": ticks[k], "share": ticks[k] / total,
                "emulated_million_instructions": emulated.get(phase),
            }
            for k, phase in enumerate(PHASES)
            if ticks[k]
        ]  # fmt: skip
        lab.report.phases.append(
            {"kernel": f"tfce_peaks<{connectivity}, false>", "maps": len(values), "phases": rows}
        )
        for row in rows:
            say(f"   C {connectivity}, {row['phase']:20} {100 * row['share']:5.1f} %")
