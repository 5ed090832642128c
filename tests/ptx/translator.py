"""A kernel of a module → numbers for the machine: instructions, constants, and where each instruction comes from."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from tests.ptx.calls import inlined
from tests.ptx.flow import END, meeting_points
from tests.ptx.instructions import Form, atomic_table, table
from tests.ptx.parser import Function, Functions, PtxError, Statement, bits_of

KINDS = ("compute", "nothing", "branch", "barrier", "exit", "load", "store", "atomic", "parameter")
SPACES = ("any", "global", "shared", "local")
SPECIAL = ("%tid.x", "%ntid.x", "%ctaid.x", "%ctaid.y", "%nctaid.x", "%nctaid.y")
"""Registers that the machine fills in, in this order."""

INSTRUCTION = np.dtype(
    [
        *((name, np.int32) for name in ("kind", "operation", "is_free", "is_float64")),
        ("predicate", np.uint32),
        ("negated", np.int32),
        ("result", np.uint32, 4),
        ("source", np.uint32, 5),
        ("offset", np.int64),
        *((name, np.int32) for name in ("target", "meeting", "phase", "space", "bytes", "register_bytes")),
        *((name, np.int32) for name in ("is_signed", "width", "is_strong", "address_bytes", "line")),
    ],
    align=True,
)
"""`Instruction` of lanes.hpp."""

CONSTANT, NO_PREDICATE = 0x80000000, 0xFFFFFFFF
LANES, SLOT = 32, 256


@dataclass(frozen=True)
class Encoded:
    """A kernel as the machine runs it.

    Attributes
    ----------
    instructions : (n,) array of `INSTRUCTION`
    constants : (c, 256) uint8
        One slot each, the same number in all lanes.
    n_registers : int
    parameters : tuple of (str, int)
        Type and offset of each.
    phases : tuple of str
        Where each phase begins in the source, ``file:line``, and from where that is inlined; the first one begins with
        the kernel.
    places : tuple of tuple of str
        Where each instruction comes from, `Statement.place`.
    """

    name: str
    instructions: np.ndarray
    constants: np.ndarray
    n_registers: int
    shared_bytes: int
    local_bytes: int
    most_threads: int
    parameters: tuple[tuple[str, int], ...]
    phases: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]


@dataclass
class Translator:
    """The state of one translation."""

    function: Function
    slots: dict[str, int] = field(default_factory=lambda: {name: i for i, name in enumerate(SPECIAL)})
    constants: dict[bytes, int] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=lambda: {"": 0})

    def encoded(self) -> Encoded:
        """The whole kernel."""
        offsets = parameter_offsets(self.function.parameters)
        rows, origins, labels = [], [], {}
        for one in self.function.statements:
            if not one.opcode:
                labels[one.operands[0]] = len(rows)
                continue
            for part in self.expanded(one):
                try:
                    rows.append(self.row(part, offsets))
                except (KeyError, ValueError, PtxError) as error:
                    text = f"{part.opcode} {', '.join(part.operands)}"
                    raise PtxError(f"line {one.line}, {' in '.join(one.place)}: {text}: {error}") from None
                origins.append(part)
        for row in rows:
            if "target" in row:
                row["target"] = labels[row["target"]]
        code = np.array([tuple(row.get(name, 0) for name in INSTRUCTION.names) for row in rows], INSTRUCTION)
        code["meeting"] = meeting_points(successors(code))
        slots = sorted(self.constants, key=self.constants.__getitem__)
        return Encoded(
            self.function.name, code, np.frombuffer(b"".join(slots), np.uint8).reshape(-1, SLOT).copy(),
            len(self.slots), self.function.shared_bytes, self.function.local_bytes, self.function.most_threads,
            tuple((self.function.parameters[name], offset) for name, offset in offsets.items()),
            tuple(self.phases), tuple(origin.place for origin in origins),
        )  # fmt: skip

    def expanded(self, one: Statement) -> list[Statement]:
        """The same in the machine's words, which has no registers within registers."""
        if one.opcode.startswith("mov.b") and any(operand.startswith("{") for operand in one.operands):
            return halves(one)
        if one.opcode.startswith("cvt.") and one.operands[1] in self.function.registers:
            return self.narrowed(one)
        return [one]

    def narrowed(self, one: Statement) -> list[Statement]:
        """A conversion of a register that is wider than its type, of which it takes the low bits."""
        needed = max(bits_of(one.opcode.rsplit(".", 1)[1]), 16)
        out, source = [], one.operands[1]
        bits = bits_of(self.function.registers[source])
        while bits > needed:
            bits //= 2
            part = f"%low{bits}"
            self.function.registers[part] = f"b{bits}"
            out.append(replace(one, opcode=f"low.b{2 * bits}", operands=(part, source), is_free=True))
            source = part
        return [*out, replace(one, operands=(one.operands[0], source))]

    def row(self, one: Statement, offsets: dict[str, int]) -> dict:
        """Fields of one instruction."""
        row = {
            "predicate": self.register(one.predicate, "pred") if one.predicate else NO_PREDICATE,
            "negated": one.negated, "is_free": one.is_free, "line": one.line, "result": [0] * 4, "source": [0] * 5,
        }  # fmt: skip
        family, *parts = one.opcode.split(".")
        if family == "nop":
            return row | {"kind": KINDS.index("nothing")}
        if family == "bra":
            return row | {"kind": KINDS.index("branch"), "target": one.operands[0]}
        if family in ("ret", "exit"):
            return row | {"kind": KINDS.index("exit")}
        if one.opcode == "bar.sync" and one.operands == ("0",):
            return row | {"kind": KINDS.index("barrier"), "phase": self.phase(one)}
        if family in ("ld", "st", "atom", "red"):
            return row | self.access(one, family, parts, offsets)
        return row | self.computation(one)

    def phase(self, barrier: Statement) -> int:
        """Number of the phase that a barrier begins; the compiler's copies of one barrier begin the same."""
        written = [place for place in barrier.place if not place.startswith("common.cuh")]
        return self.phases.setdefault(" in ".join(written) or f"line {barrier.line}", len(self.phases))

    def computation(self, one: Statement) -> dict:
        """An instruction of the table."""
        form = table().get(one.opcode)
        if form is None:
            raise PtxError(why_unknown(one.opcode))
        if len(one.operands) != 1 + len(form.sources):
            raise PtxError(f"expected {1 + len(form.sources)} operands")
        return {
            "kind": KINDS.index("compute"), "operation": numbers()[one.opcode], "is_float64": form.is_float64,
            "result": [self.register(one.operands[0], form.result), 0, 0, 0],
            "source": self.sources(one, form),
        }  # fmt: skip

    def sources(self, one: Statement, form: Form) -> list[int]:
        """Slots of the operands."""
        found = [self.operand(operand, kind) for operand, kind in zip(one.operands[1:], form.sources)]
        return found + [0] * (5 - len(found))

    def access(self, one: Statement, family: str, parts: list[str], offsets: dict[str, int]) -> dict:
        """A load, a store, or an atomic operation."""
        kind = parts[-1]
        is_strong = bool({"volatile", "relaxed"} & set(parts)) or family in ("atom", "red")
        row = {"bytes": bits_of(kind) // 8, "width": 1, "is_strong": is_strong}
        row["space"] = next((SPACES.index(part) for part in parts if part in SPACES), 0)
        if "param" in parts:
            name = one.operands[1].strip("[]").removesuffix("+0")
            row |= self.transfer(kind, [one.operands[0]], []) | {"kind": KINDS.index("parameter")}
            return row | {"offset": offsets[name]}
        known = {"global", "shared", "local", "volatile", "relaxed", "cta", "v2", "v4", kind}
        if family in ("ld", "st"):
            if set(parts) - known:
                raise PtxError("the emulator does not know this access of memory")
            address, values = one.operands[::-1] if family == "ld" else one.operands
            listed = [value.strip() for value in values.strip("{}").split(",")]
            row |= self.transfer(kind, listed if family == "ld" else [], listed if family == "st" else [])
            row |= {"kind": KINDS.index("load" if family == "ld" else "store"), "width": len(listed)}
        else:
            operation = f"{parts[-2]}.{kind}"
            if operation not in atomic_table() or set(parts[:-2]) - known - {"relaxed", "gpu"}:
                raise PtxError("the emulator does not know this atomic operation")
            results, rest = ([one.operands[0]], one.operands[1:]) if family == "atom" else ([], one.operands)
            address, *values = rest
            row |= self.transfer(kind, results, [*values, values[0]][:2])
            row |= {"kind": KINDS.index("atomic"), "width": len(results)}
            row["operation"] = list(atomic_table()).index(operation)
        row["source"][0], row["offset"], row["address_bytes"] = self.address(address)
        return row

    def transfer(self, kind: str, results: list[str], sources: list[str]) -> dict:
        """Slots of the registers between which and memory values go; those may be wider than in memory."""
        names = [name for name in (*results, *sources) if name.startswith("%")]
        widths = {max(bits_of(self.function.registers[name]) // 8, 1) for name in names} or {bits_of(kind) // 8}
        if len(widths) > 1 or min(widths) < bits_of(kind) // 8:
            raise PtxError("registers of these widths")
        slots = [self.operand(name, self.function.registers.get(name, kind)) for name in sources]
        return {
            "result": ([self.slot(name) for name in results] + [0] * 4)[:4],
            "source": ([0, *slots] + [0] * 5)[:5],
            "register_bytes": widths.pop(), "is_signed": kind[0] == "s" and bool(results),
        }  # fmt: skip

    def address(self, operand: str) -> tuple[int, int, int]:
        """(slot of the base, offset, bytes of the base) of ``[register+offset]`` or ``[variable+offset]``."""
        match = re.fullmatch(r"\[([^+\]]+)(?:\+(-?\d+))?\]", operand)
        if not match:
            raise PtxError(f"not an address: {operand}")
        bits = bits_of(self.function.registers.get(match[1], "u64"))
        return self.operand(match[1], f"u{bits}"), int(match[2] or 0), bits // 8

    def register(self, name: str, kind: str) -> int:
        """Slot of a register, which must be as wide as the type; a byte lives in a register of 16 bits."""
        bits = bits_of(self.function.registers[name])
        if bits != (16 if bits_of(kind) == 8 else bits_of(kind)):
            raise PtxError(f"{name} has {bits} bits, expected {bits_of(kind)}")
        return self.slot(name)

    def slot(self, name: str) -> int:
        """Slot of a register."""
        return self.slots.setdefault(name, len(self.slots))

    def operand(self, text: str, kind: str) -> int:
        """Slot of a register or of a constant."""
        if text in SPECIAL:
            if bits_of(kind) != 32:
                raise PtxError(f"{text} has 32 bits")
            return self.slots[text]
        if text.startswith("%"):
            return self.register(text, kind)
        for variables in (self.function.shared, self.function.local):
            if text in variables:
                return self.constant(number(str(variables[text]), kind))
        return self.constant(number(text, kind))

    def constant(self, value: bytes) -> int:
        """Slot of a constant."""
        return CONSTANT | self.constants.setdefault((value * LANES).ljust(SLOT, b"\0"), len(self.constants))


def why_unknown(opcode: str) -> str:
    """Why an instruction is not in the table."""
    name, _, rest = opcode.partition(".")
    if f"{name}.rn.{rest}" in table():
        return "without .rn, which ptxas may contract with another one, so that its bits are not known"
    return "the emulator does not know this instruction"


@cache
def numbers() -> dict[str, int]:
    """Number of each instruction of the table."""
    return {opcode: i for i, opcode in enumerate(table())}


def number(text: str, kind: str) -> bytes:
    """A literal as it lies in a lane of a register."""
    if text.startswith(("0f", "0F")):
        return struct.pack("<I", int(text[2:], 16))
    if text.startswith(("0d", "0D")):
        return struct.pack("<Q", int(text[2:], 16))
    value = int(text.rstrip("U"), 0)
    if kind == "pred":
        return struct.pack("<I", 0xFFFFFFFF if value else 0)
    size = max(bits_of(kind), 16) // 8
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def halves(one: Statement) -> list[Statement]:
    """A ``mov`` between a number and its halves."""
    bits = one.opcode.removeprefix("mov.")
    target, value = one.operands
    if value.startswith("{"):
        parts = tuple(part.strip() for part in value.strip("{}").split(","))
        return [replace(one, opcode=f"pack.{bits}", operands=(target, *parts))]
    named = zip(("low", "high"), (part.strip() for part in target.strip("{}").split(",")))
    kept = [(name, part) for name, part in named if part != "_"]
    return [
        replace(one, opcode=f"{name}.{bits}", operands=(part, value), is_free=i > 0)
        for i, (name, part) in enumerate(kept)
    ]


def parameter_offsets(parameters: dict[str, str]) -> dict[str, int]:
    """Offset of each parameter, which is aligned to its size."""
    offsets, end = {}, 0
    for name, kind in parameters.items():
        size = bits_of(kind) // 8
        offsets[name] = -(-end // size) * size
        end = offsets[name] + size
    return offsets


def successors(code: np.ndarray) -> list[tuple[int, ...]]:
    """For each instruction those that may follow it."""
    out: list[tuple[int, ...]] = []
    columns = zip(code["kind"].tolist(), code["predicate"].tolist(), code["target"].tolist())
    for i, (number_of_kind, predicate, target) in enumerate(columns):
        always, kind = predicate == NO_PREDICATE, KINDS[number_of_kind]
        if kind == "branch":
            out.append((target,) if always else (target, i + 1))
        elif kind == "exit":
            out.append((END,) if always else (END, i + 1))
        else:
            out.append((i + 1,))
    return out


class Translated:
    """The kernels of a module by their name in it, each translated when it is first asked for.

    Raises
    ------
    PtxError
        An instruction that the emulator does not know, with its line.
    """

    def __init__(self, ptx: str):
        self._functions = Functions(ptx)
        self._kernels: dict[str, Encoded] = {}

    def __getitem__(self, name: str) -> Encoded:
        if name not in self._kernels:
            self._kernels[name] = Translator(inlined(self._functions[name], self._functions)).encoded()
        return self._kernels[name]
