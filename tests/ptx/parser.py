"""PTX text → functions: their parameters, registers, memory and statements. Nothing is interpreted here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

HEADER = re.compile(
    r"^(?:\.visible |\.weak )*\.(?:entry|func)\s+(?:\((?P<results>[^)]*)\)\s*)?"
    r"(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)(?P<limits>[^{;]*)(?P<end>[{;])",
    re.MULTILINE,
)
EXTERNAL = re.compile(r"^\.extern \.shared \.align (\d+) \.b8 (\w+)\[\];", re.MULTILINE)
FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.MULTILINE)
PARAMETER = re.compile(
    r"\.param(?: \.align \d+)? \.(?P<type>\w+)(?:\s+\.ptr)?(?:\s+\.(?:global|shared|local|const))?"
    r"(?:\s+\.align \d+)?\s+(?P<name>\w+)(?:\[(?P<size>\d+)\])?"
)
VARIABLE = re.compile(r"\.(shared|local) \.align (\d+) \.(\w+)\s+(\w+)(?:\[(\d+)\])?$")
REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%?[\w$]+)(?:<(\d+)>)?$")
LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*inlined_at\s+(\d+)\s+(\d+))?")


class PtxError(Exception):
    """PTX that the emulator cannot read or does not know; the message has the line."""


def bits_of(kind: str) -> int:
    """Width of a type."""
    return 1 if kind == "pred" else int(re.sub(r"\D", "", kind))


@dataclass(frozen=True)
class Statement:
    """An instruction, or a label.

    Attributes
    ----------
    opcode : str
        With all its parts, such as ``ld.global.u32``; empty for a label.
    operands : tuple of str
        As written; vectors keep their braces. A label's name is its only operand.
    predicate : str
        Register that decides whether the instruction runs, or empty; `negated` if it runs where that is false.
    line : int
        Of the PTX.
    place : tuple of str
        Where that is in the source, ``file:line``, then from where that was inlined.
    is_free : bool
        It counts for nothing: the machine has it, the PTX does not.
    """

    opcode: str
    operands: tuple[str, ...]
    predicate: str = ""
    negated: bool = False
    line: int = 0
    place: tuple[str, ...] = ()
    is_free: bool = False


@dataclass
class Function:
    """A kernel or a device function.

    Attributes
    ----------
    parameters, results : dict
        Types by name.
    registers : dict
        Types by name.
    shared, local : dict
        Offset of each variable; the dynamic shared memory starts at `shared_bytes`.
    most_threads : int
        Of a block; 0 if not limited.
    """

    name: str
    parameters: dict[str, str]
    results: dict[str, str]
    most_threads: int = 0
    registers: dict[str, str] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    local: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0
    local_bytes: int = 0
    statements: list[Statement] = field(default_factory=list)


class Functions(Mapping[str, Function]):
    """The functions of a module by name, each parsed when it is first asked for.

    Raises
    ------
    PtxError
        A line that the parser does not understand.
    """

    def __init__(self, ptx: str):
        self._ptx = ptx
        self._files = {number: path.rsplit("/", 1)[-1] for number, path in FILE.findall(ptx)}
        self._external = [name for _, name in EXTERNAL.findall(ptx)]
        # Declarations end with a semicolon.
        self._headers = {match["name"]: match for match in HEADER.finditer(ptx) if match["end"] == "{"}
        self._parsed: dict[str, Function] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)

    def __getitem__(self, name: str) -> Function:
        if name not in self._parsed:
            self._parsed[name] = self._parse(self._headers[name])
        return self._parsed[name]

    def _parse(self, header: re.Match[str]) -> Function:
        limit = re.search(r"\.maxntid (\d+)", header["limits"])
        parameters, results = types_of(header["parameters"]), types_of(header["results"] or "")
        function = Function(header["name"], parameters, results, int(limit[1]) if limit else 0)
        start = header.end()
        body = self._ptx[start : self._ptx.index("\n}", start)]
        read_body(function, body, self._ptx.count("\n", 0, start) + 1, self._files)
        for name in self._external:
            function.shared_bytes = -(-function.shared_bytes // 16) * 16
            function.shared[name] = function.shared_bytes
        return function


def types_of(parameters: str) -> dict[str, str]:
    """Types of the parameters of a function, in order."""
    found = {}
    for match in PARAMETER.finditer(parameters):
        if match["size"]:
            raise PtxError(f"parameter {match['name']} is a structure")
        found[match["name"]] = match["type"]
    return found


def read_body(function: Function, body: str, first_line: int, files: dict[str, str]) -> None:
    """Fill in everything between the braces of a function."""
    scopes: list[dict[str, str]] = [{}]
    n_scopes = 0
    for text, line, place in pieces(body, first_line, files):
        if text == "{":
            n_scopes += 1
            scopes.append({})
        elif text == "}":
            scopes.pop()
        elif text.endswith(":"):
            function.statements.append(Statement("", (text[:-1],), line=line, place=place))
        elif text.startswith("."):
            declare(function, text, line, scopes[-1] if len(scopes) > 1 else None, n_scopes)
        else:
            function.statements.append(renamed(statement(text, line, place), scopes))


def pieces(body: str, first_line: int, files: dict[str, str]) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """(text, line, place in the source) of every statement, label, declaration, and brace of a scope."""
    current, started = "", 0
    place: tuple[str, ...] = ()
    for number, raw in enumerate(body.split("\n"), first_line):
        line = raw.split("//")[0].strip()
        location = LOCATION.match(line)
        if location:
            place = chain(place, location, files)
            continue
        for part in re.split(r"([;:{}])", f"{line} "):
            if not current.strip():
                current, started = "", number
            if part == ";":
                yield " ".join(current.split()), started, place
                current = ""
            elif part and part in "{}" and not current:
                yield part, number, place
            elif part == ":" and re.fullmatch(r"[\w$]+", current.strip()):
                yield f"{current.strip()}:", started, place
                current = ""
            else:
                current += part


def chain(before: tuple[str, ...], location: re.Match[str], files: dict[str, str]) -> tuple[str, ...]:
    """A place in the source, then those from which it was inlined, as far as the lines before said so."""
    here = f"{files.get(location[1], '?')}:{location[2]}"
    if not location[3]:
        return (here,)
    caller = f"{files.get(location[3], '?')}:{location[4]}"
    return (here, *(before[before.index(caller) :] if caller in before else (caller,)))


def declare(function: Function, text: str, line: int, scope: dict[str, str] | None, number: int) -> None:
    """A declaration of registers or of memory; names of an inner scope are made unique."""
    if text.startswith((".pragma", ".file", ".param")):
        if scope is not None and (match := PARAMETER.match(text)):
            # The parameters of a call.
            scope[match["name"]] = f"%{match['name']}_{number}"
            function.registers[f"%{match['name']}_{number}"] = match["type"]
        return
    if match := REGISTERS.match(text):
        kind, name, count = match.groups()
        if scope is not None:
            scope[name] = f"%{name.strip('%')}_{number}"
            name = scope[name]
        names = [f"{name}{i}" for i in range(int(count))] if count else [name]
        function.registers.update(dict.fromkeys(names, kind))
    elif match := VARIABLE.match(text):
        space, align, kind, name, size = match.groups()
        bytes_ = int(size or 1) * max(bits_of(kind) // 8, 1)
        where, attribute = getattr(function, space), f"{space}_bytes"
        where[name] = -(-getattr(function, attribute) // int(align)) * int(align)
        setattr(function, attribute, where[name] + bytes_)
    else:
        raise PtxError(f"line {line}: unknown declaration: {text}")


def statement(text: str, line: int, place: tuple[str, ...]) -> Statement:
    """An instruction from its text without the semicolon."""
    match = re.fullmatch(r"(?:@(!?)(%[\w$]+) )?([a-z][\w.:]*)(?: (.*))?", text)
    if not match:
        raise PtxError(f"line {line}: not an instruction: {text}")
    operands = re.split(r",\s*(?![^({\[]*[)}\]])", match[4].strip()) if match[4] else []
    return Statement(match[3], tuple(o.strip() for o in operands), match[2] or "", match[1] == "!", line, place)


def renamed(one: Statement, scopes: list[dict[str, str]]) -> Statement:
    """The same with the unique names of registers that were declared in inner scopes."""
    names = {name: unique for scope in scopes for name, unique in scope.items()}
    if not names:
        return one
    swap = lambda text: re.sub(r"%?[\w$]+", lambda m: names.get(m[0], m[0]), text)  # noqa: E731
    return replace(one, operands=tuple(map(swap, one.operands)), predicate=swap(one.predicate))
