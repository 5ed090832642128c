"""The level of each voxel of a map: how many thresholds of TFCE lie under its statistic, on the CPU.

Level L(t) is the number of thresholds of a table (`tfce_tables.LevelTable`) under |t|, with the sign of t. The
thresholds are almost whole multiples of a step δ: where |t|/δ is not close to a whole number, its whole part is the
level; the few voxels where it is are looked up in the table by bisection.

Levels lie in a padded box, row by row (`Layout.runs`), 16 voxels at a time; the last 16 of a row may overlap those
before, so that nothing beyond the row is read or written, and shorter rows go through a buffer.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from gpuvox.jit import intrinsic, part, types
from gpuvox.types import Float32, Ints
from gpuvox.vectors import I16, I32, load, pointer, splat, spread, store

__all__ = ["Levels", "quantise"]

LANES = 16
"""Voxels that are handled at a time."""

Levels = namedtuple("Levels", "per_step slack cap shift thresholds weights sizes gain")
Levels.__doc__ = """The tables of both signs.

per_step (2,): 1/δ; slack, cap, thresholds (2, cap + 1), weights (2, cap + 1), sizes (V + 1,): see
`tfce_tables.LevelTable`; gain[n] = S[n + 1] − S[n]; shift: 1 if threshold 0 counts.
"""

_floats = ir.VectorType(ir.FloatType(), LANES)
_whole = ir.VectorType(I32, LANES)

_i16 = np.int16
_i32 = np.int32


@intrinsic
def _quantise_lanes(  # noqa: PLR0913
    typing: Any,
    t: Any,
    v: Any,
    code: Any,
    p: Any,
    up: Any,
    down: Any,
    slack: Any,
    cap: Any,
    shift: Any,
) -> Any:
    """code[p … p + 15] = levels of t[v … v + 15]; returns the bits of those that are to be looked up."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, codes = (pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 2))
        up, down, slack, cap, shift = (spread(builder, value, LANES) for value in arguments[4:])
        one, zero = splat(_floats, 1.0), splat(_floats, 0.0)
        value = load(builder, _floats, values, arguments[1], 4)
        positive = builder.fcmp_ordered(">", value, zero)
        size = builder.select(positive, value, builder.fneg(value))
        height = builder.fmul(size, builder.select(positive, up, down))
        # A height beyond the table, and what is not a number, count as the first level beyond it.
        limit = builder.fadd(builder.sitofp(cap, _floats), one)
        height = builder.select(builder.fcmp_ordered("<", height, limit), height, limit)
        step = builder.fptosi(height, _whole)
        fraction = builder.fsub(height, builder.sitofp(step, _floats))
        margin = builder.fmul(slack, builder.fadd(height, one))
        level = builder.add(step, shift)
        under = builder.fcmp_ordered(">=", fraction, builder.fsub(one, margin))
        above = builder.and_(
            builder.fcmp_ordered("<=", fraction, margin),
            builder.icmp_signed(">", level, splat(_whole, 0)),
        )
        unsure = builder.or_(builder.or_(under, above), builder.icmp_signed(">", level, cap))
        signed = builder.select(positive, level, builder.neg(level))
        store(builder, builder.trunc(signed, ir.VectorType(I16, LANES)), codes, arguments[3], 2)
        return builder.zext(builder.bitcast(unsure, I16), I32)

    f, i = types.float32, types.int32
    return types.int32(t, types.intp, code, types.intp, f, f, f, i, i), generate


@part
def quantise(t: Float32, runs: Ints, levels: Levels, code: NDArray[np.int16]) -> bool:
    """Signed levels of a map (V,) into the padded box. Returns whether there are too many.

    runs (n, 3): first position, first voxel and number of voxels of each contiguous row.
    """
    up, down = levels.per_step
    slack, cap, shift = levels.slack, _i32(levels.cap), _i32(levels.shift)
    some, few = np.zeros(LANES, np.float32), np.zeros(LANES, np.int16)
    over = _i32(0)
    for j in range(len(runs)):
        p, v, n = runs[j]
        unsure = _i32(0)
        if n < LANES:
            for i in range(n):
                some[i] = t[v + i]
            unsure |= _quantise_lanes(some, 0, few, 0, up, down, slack, cap, shift)
            for i in range(n):
                code[p + i] = few[i]
        else:
            for i in range(0, n - LANES + 1, LANES):
                unsure |= _quantise_lanes(t, v + i, code, p + i, up, down, slack, cap, shift)
            last = n - LANES
            unsure |= _quantise_lanes(t, v + last, code, p + last, up, down, slack, cap, shift)
        if unsure:
            over |= _look_up(t[v : v + n], levels, code[p : p + n])
    too_high: bool = over != 0
    return too_high


@part
def _look_up(values: Float32, levels: Levels, codes: NDArray[np.int16]) -> np.int32:
    """Levels of a run by bisection of the table, where |t|/δ is close to an integer. Returns 1 if one is too high."""
    over = _i32(0)
    for i in range(len(values)):
        size = abs(values[i])
        row = 0 if values[i] > 0 else 1
        height = size * levels.per_step[row]
        margin = np.float32(2) * levels.slack * (height + np.float32(1))
        if abs(height - np.rint(height)) <= margin or not height <= levels.cap:
            low, high = 0, levels.cap + 1
            while low < high:
                middle = (low + high) >> 1
                if levels.thresholds[row, middle] < size:
                    low = middle + 1
                else:
                    high = middle
            over |= _i32(low > levels.cap or size != size)
            codes[i] = _i16(-low if row else low)
    return over
