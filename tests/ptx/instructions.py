"""The table of instructions: every one that computes, with its types and what it means in C++.

An instruction that is not here is refused by the translator. Among those on purpose: sums and products of floats
without ``.rn``, which ptxas may contract to a fused multiply-add, so that their bits are not known from the PTX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.ptx.parser import bits_of

INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")
WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
FLOATS = (("", "f32"), (".ftz", "f32"), ("", "f64"))

C_TYPES = {
    **{f"{letter}{bits}": f"uint{bits}_t" for letter in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    "f32": "float",
    "f64": "double",
    "pred": "bool",
}

COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNSIGNED_COMPARISONS = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
OPPOSITES = {"ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}
ROUNDINGS = {"rni": "nearest", "rzi": "truncated", "rmi": "floor_of", "rpi": "ceiling_of"}


@dataclass(frozen=True)
class Form:
    """An instruction with its types.

    Attributes
    ----------
    opcode : str
    result : str
        Type of the result.
    sources : tuple of str
        Types of the operands, which `meaning`, an expression in C++, names a, b and c.
    meaning : str
    """

    opcode: str
    result: str
    sources: tuple[str, ...]
    meaning: str

    @property
    def is_float64(self) -> bool:
        """Whether it is arithmetic in double precision; consumer GPUs have few units for that."""
        name = self.opcode.split(".")[0]
        return "f64" in (self.result, *self.sources) and name not in ("mov", "selp", "pack", "low", "high")


def integer_forms() -> Iterator[Form]:
    """Arithmetic of integers; sums and products wrap around."""
    for t in INTEGERS:
        for name, meaning in (("add", "a + b"), ("sub", "a - b"), ("mul.lo", "a * b")):
            yield Form(f"{name}.{t}", t, (t, t), meaning)
        for name in ("min", "max"):
            yield Form(f"{name}.{t}", t, (t, t), f"a {'<' if name == 'min' else '>'} b ? a : b")
        yield Form(f"div.{t}", t, (t, t), "divided(a, b)")
        yield Form(f"rem.{t}", t, (t, t), "remainder_of(a, b)")
        yield Form(f"mad.lo.{t}", t, (t, t, t), "a * b + c")
        yield Form(f"shr.{t}", t, (t, "u32"), "shifted_right(a, b)")
        if t[0] == "s":
            yield Form(f"neg.{t}", t, (t,), "-a")
            yield Form(f"abs.{t}", t, (t,), "a < 0 ? -a : a")
    for t, wide in WIDER.items():
        yield Form(f"mul.wide.{t}", wide, (t, t), f"({C_TYPES[wide]})a * b")
        yield Form(f"mad.wide.{t}", wide, (t, t, wide), f"({C_TYPES[wide]})a * b + c")
        yield Form(f"mul.hi.{t}", t, (t, t), f"(({C_TYPES[wide]})a * b) >> {bits_of(t)}")
    yield Form("mul.hi.s64", "s64", ("s64", "s64"), "((__int128)a * b) >> 64")
    yield Form("mul.hi.u64", "u64", ("u64", "u64"), "((unsigned __int128)a * b) >> 64")


def bit_forms() -> Iterator[Form]:
    """Bits, copies, choices, and the parts of a number."""
    for bits in (16, 32, 64):
        t = f"b{bits}"
        for name, meaning in (("and", "a & b"), ("or", "a | b"), ("xor", "a ^ b")):
            yield Form(f"{name}.{t}", t, (t, t), meaning)
        yield Form(f"not.{t}", t, (t,), "~a")
        yield Form(f"shl.{t}", t, (t, "u32"), "shifted_left(a, b)")
        yield Form(f"shr.{t}", t, (t, "u32"), "shifted_right(a, b)")
    for name, meaning in (("and", "a & b"), ("or", "a | b"), ("xor", "a ^ b"), ("not", "~a"), ("mov", "a")):
        sources = ("pred",) * (1 if name in ("not", "mov") else 2)
        yield Form(f"{name}.pred", "pred", sources, meaning)
    for t in (*INTEGERS, "b16", "b32", "b64", "f32", "f64"):
        yield Form(f"mov.{t}", t, (t,), "a")
        yield Form(f"selp.{t}", t, (t, t, "pred"), "c ? a : b")
    # The translator's names for ``mov`` between a number and its halves.
    yield Form("pack.b64", "b64", ("b32", "b32"), "(uint64_t)b << 32 | a")
    yield Form("pack.b32", "b32", ("b16", "b16"), "(uint32_t)b << 16 | a")
    for bits in (32, 64):
        yield Form(f"low.b{bits}", f"b{bits // 2}", (f"b{bits}",), "a")
        yield Form(f"high.b{bits}", f"b{bits // 2}", (f"b{bits}",), f"a >> {bits // 2}")


def float_forms() -> Iterator[Form]:
    """Arithmetic of floats. With ``.ftz`` subnormal operands and results are 0 of the same sign."""
    for ftz, t in FLOATS:
        z = "flushed" if ftz else ""
        a, b, c = (f"{z}({x})" for x in "abc")
        for name, sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("div", "/")):
            yield Form(f"{name}.rn{ftz}.{t}", t, (t, t), f"{z}({a} {sign} {b})")
        yield Form(f"fma.rn{ftz}.{t}", t, (t, t, t), f"{z}(fused({a}, {b}, {c}))")
        yield Form(f"sqrt.rn{ftz}.{t}", t, (t,), f"{z}(root({a}))")
        yield Form(f"rcp.rn{ftz}.{t}", t, (t,), f"{z}(1 / {a})")
        yield Form(f"min{ftz}.{t}", t, (t, t), f"smaller({a}, {b})")
        yield Form(f"max{ftz}.{t}", t, (t, t), f"-smaller(-{a}, -{b})")
        yield Form(f"neg{ftz}.{t}", t, (t,), f"-{a}")
        yield Form(f"abs{ftz}.{t}", t, (t,), f"magnitude({a})")
    yield Form("rcp.approx.ftz.f64", "f64", ("f64",), "coarse_reciprocal(a)")


def comparison_forms() -> Iterator[Form]:
    """Comparisons; those of floats whose name ends in u hold if an operand is not a number."""
    for t in (*INTEGERS, "b16", "b32", "b64"):
        for name, sign in (COMPARISONS | (UNSIGNED_COMPARISONS if t[0] == "u" else {})).items():
            if t[0] != "b" or name in ("eq", "ne"):
                yield Form(f"setp.{name}.{t}", "pred", (t, t), f"a {sign} b")
    for ftz, t in FLOATS:
        a, b = ("flushed(a)", "flushed(b)") if ftz else ("a", "b")
        numbers = f"!is_nan({a}) && !is_nan({b})"
        meanings = {name: f"{a} {sign} {b}" for name, sign in COMPARISONS.items()}
        meanings |= {name: f"!({a} {sign} {b})" for name, sign in OPPOSITES.items()}
        meanings |= {"ne": f"{numbers} && {a} != {b}", "equ": f"!({numbers}) || {a} == {b}", "neu": f"{a} != {b}"}
        meanings |= {"num": numbers, "nan": f"!({numbers})"}
        for name, meaning in meanings.items():
            yield Form(f"setp.{name}{ftz}.{t}", "pred", (t, t), meaning)


def conversion_forms() -> Iterator[Form]:
    """Conversions; those to integers saturate."""
    integers = (*INTEGERS, "s8", "u8")
    for source in integers:
        for result in integers:
            yield Form(f"cvt.{result}.{source}", result, (source,), "a")
        for t in ("f32", "f64"):
            yield Form(f"cvt.rn.{t}.{source}", t, (source,), "a")
    for ftz, t in FLOATS:
        a = "flushed(a)" if ftz else "a"
        for name, rounding in ROUNDINGS.items():
            for result in ("s32", "u32", "s64", "u64"):
                meaning = f"saturated<{C_TYPES[result]}>({rounding}({a}))"
                yield Form(f"cvt.{name}{ftz}.{result}.{t}", result, (t,), meaning)
            yield Form(f"cvt.{name}{ftz}.{t}.{t}", t, (t,), f"{rounding}({a})")
        if t == "f32":
            yield Form(f"cvt{ftz}.f64.f32", "f64", ("f32",), a)
            yield Form(f"cvt.rn{ftz}.f32.f64", "f32", ("f64",), "flushed((float)a)" if ftz else "a")


def address_forms() -> Iterator[Form]:
    """Between addresses of one kind of memory and those of any."""
    for window in ("shared", "local"):
        yield Form(f"cvta.{window}.u64", "u64", ("u64",), f"a + {window.upper()}_WINDOW")
        yield Form(f"cvta.to.{window}.u64", "u64", ("u64",), f"a - {window.upper()}_WINDOW")
    yield Form("cvta.global.u64", "u64", ("u64",), "a")
    yield Form("cvta.to.global.u64", "u64", ("u64",), "a")


@cache
def table() -> dict[str, Form]:
    """All instructions that compute, by opcode."""
    makers = (integer_forms, bit_forms, float_forms, comparison_forms, conversion_forms, address_forms)
    return {form.opcode: form for make in makers for form in make()}


ATOMIC = {
    "add": "a + b",
    "min": "a < b ? a : b",
    "max": "a > b ? a : b",
    "and": "a & b",
    "or": "a | b",
    "xor": "a ^ b",
    "exch": "b",
    "cas": "a == b ? c : a",
}
"""What an atomic operation leaves in memory: from a, which is there, and the operands b and c."""

ATOMIC_TYPES = ("b32", "u32", "s32", "b64", "u64", "s64")


@cache
def atomic_table() -> dict[str, tuple[str, str]]:
    """(type, meaning in C++) of atomic operations, by the end of their opcode such as ``add.u32``."""
    return {f"{name}.{t}": (t, meaning) for name, meaning in ATOMIC.items() for t in ATOMIC_TYPES}


def cpp() -> str:
    """The table as C++, in terms of the macros of `lanes.hpp`; operations are numbered as they follow in the tables."""
    lines = []
    for number, form in enumerate(table().values()):
        if form.result == "pred":
            kind = f"MASKS{len(form.sources)}" if form.sources[0] == "pred" else "COMPARISON"
        else:
            kind = "CHOICE" if form.sources[-1] == "pred" else f"OPERATION{len(form.sources)}"
        types = [C_TYPES[t] for t in (form.result, *form.sources) if t != "pred"]
        lines.append(f"{kind}({', '.join([str(number), *types, form.meaning])})  // {form.opcode}")
    for number, (t, meaning) in enumerate(atomic_table().values()):
        lines.append(f"ATOMIC({number}, {C_TYPES[t]}, {meaning})")
    for what, count in (("operation", len(table())), ("atomic", len(atomic_table()))):
        names = ", ".join(f"{what}_{number}" for number in range(count))
        lines.append(f"static const {what.capitalize()} {what.upper()}S[] = {{{names}}};")
    return "\n".join(lines) + "\n"
