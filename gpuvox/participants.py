"""The participants of table rows and image volumes, compared wherever two files meet.

Participant ids come from a column `participant_id` of a table; from the header of a design that ``gpuvox design``
wrote, or from the file ``OUT_design.json`` beside it; from ``Subjects`` in the JSON file beside a 4D image, or a table
of the image's name beside it; and from the names of image files: BIDS' ``sub-…``, or an id of the other side that
occurs in the name as a whole word. If a design has ``Visits``, they are compared too, with those beside an image or
with ``ses-…`` in the names. Information that only one side has is not compared. Case, leading zeros, a ``sub-`` before
an id and a ``ses-`` before a visit are ignored (``sub-01``, ``01`` and ``1`` are equal), unless two ids of one file
differ only in these.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files import Matrix, Name
from gpuvox.names import Names
from gpuvox.plain import composed, several

Say = Callable[[str], None]

SUBJECTS, VISITS = "Subjects", "Visits"
EVS, CONTRASTS, F_TESTS = "EVs", "Contrasts", "FTests"
"""Keys of the JSON files."""
ID = "participant_id"
VISIT_COLUMNS = ("session_id", "session", "ses", "visit_id", "visit", "timepoint", "time_point", "wave", "run")
"""Columns that tell the rows of one participant apart; the first that is there counts."""


@dataclass(frozen=True)
class Rows:
    """Participants of the rows of a table or the volumes of an image.

    Attributes
    ----------
    ids : tuple of str
        Participants, in order.
    origin : str
        The file, for messages.
    kind : str
        ``row`` or ``volume``.
    visits : tuple of str
        Visits of the rows, if there are several; empty if unknown.
    from_names : bool
        The ids were taken from file names, which may follow another naming scheme.
    named_visits : bool
        The visits were taken from file names.
    """

    ids: tuple[str, ...]
    origin: str
    kind: str = "row"
    visits: tuple[str, ...] = ()
    from_names: bool = False
    named_visits: bool = False

    def __post_init__(self) -> None:
        if self.visits and len(self.visits) != len(self.ids):
            raise FileError(f"{self.origin} has {len(self.visits)} {VISITS} and {len(self.ids)} {SUBJECTS}")
        object.__setattr__(self, "ids", tuple(map(composed, self.ids)))
        object.__setattr__(self, "visits", tuple(map(composed, self.visits)))

    def keys(self, with_visits: bool = False, *, exact: bool = False) -> list[str]:
        """Canonical id and visit of each row, which are compared."""
        who = list(self.ids) if exact else [canonical(name) for name in self.ids]
        return [f"{a} at {canonical_visit(b)}" for a, b in zip(who, self.visits)] if with_visits else who

    @property
    def needs_spelling(self) -> bool:
        """Whether two ids differ only in their spelling."""
        return len(set(self.ids)) > len(set(self.keys()))

    def of(self, rows: Sequence[int]) -> Rows:
        """A selection of the rows."""
        visits = tuple(self.visits[row] for row in rows) if self.visits else ()
        return replace(self, ids=tuple(self.ids[row] for row in rows), visits=visits)

    def named(self, row: int) -> str:
        """A row as described in messages."""
        return f"{self.ids[row]} at {self.visits[row]}" if self.visits else self.ids[row]


def canonical(name: str) -> str:
    """An id in lower case, without leading zeros and ``sub-``."""
    text = re.sub(r"^(\d+)\.0+$", r"\1", name.strip().casefold())  # whole numbers in a column with a missing value
    return re.sub(r"(?<!\d)0+(?=\d)", "", text).removeprefix("sub-")


def canonical_visit(name: str) -> str:
    """A visit in the same form, without ``ses-``."""
    return canonical(name).removeprefix("ses-")


def _distinct(names: Iterable[str]) -> dict[str, str]:
    """Canonical form → id; the ids themselves if two of them have the same form."""
    unique = list(dict.fromkeys(names))
    by_form = {canonical(name): name for name in unique}
    return by_form if len(by_form) == len(unique) else {name: name for name in unique}


# -- finding ids ---------------------------------------------------------------------------------------------------


def of_table(table: Any, origin: Name, column: str = "participant_id") -> Rows | None:
    """Participants of a table (a DataFrame of str), or None if it has no such column."""
    if column not in table.columns:
        return None
    return Rows(tuple(str(name).strip() for name in table[column]), os.fspath(origin))


def of_images(names: Name | Sequence[Name], known: Rows | None = None) -> Rows | None:
    """Participants of the volumes of a cohort, or None if they are unknown.

    Parameters
    ----------
    names : path or sequence of paths
        See `files.image_names`.
    known : Rows, optional
        Ids that may occur as words in the names of the files.

    Raises
    ------
    FileError
        As for `files.image_names`; the number of participants in a JSON file differs from the number of volumes.
    """
    text = os.fspath(names) if isinstance(names, str | os.PathLike) else ""
    table, colon, _ = text.rpartition(":")
    if colon and table.endswith((".tsv", ".csv")):
        rows = of_table(files.read_table(table, long=True), table)
        if rows is None or known is None or not known.visits:
            return rows
        return _with_visits(rows, files.image_names(names), known)
    paths = files.image_names(names)
    if len(paths) == 1:
        return of_volumes(paths[0])
    rows = _of_file_names(paths, text or "the list of images", known)
    return rows and _with_visits(rows, paths, known)


def of_volumes(name: Name, visit_column: str = "") -> Rows | None:
    """Participants of the volumes of a 4D image, from the JSON file or the table beside it; None if neither lists them.

    Parameters
    ----------
    name : path
    visit_column : str
        Column of visits to prefer in that table, before `VISIT_COLUMNS`.

    Raises
    ------
    FileError
        The number of participants differs from the number of volumes.
    """
    content = files.sidecar(name)
    ids = _texts(content, SUBJECTS)
    if not ids:
        return _of_companion(files.find_image(name), visit_column)
    header = files.read_header(name)
    if len(ids) != header.shape[3]:
        beside = files.split_suffix(header.path)[0] + ".json"
        raise FileError(
            f"{beside} names {len(ids)} {SUBJECTS}; "
            f"{header.path} has {several(header.shape[3], 'volume')}: write it again, or "
            f"remove {SUBJECTS} from it"
        )
    return Rows(ids, os.fspath(header.path), "volume", _texts(content, VISITS))


def _of_companion(image: Path, visit_column: str) -> Rows | None:
    """The participants of the volumes of a 4D image, from the table beside it; None if there is no table of them."""
    stem = files.split_suffix(image)[0]
    path = next((stem + ending for ending in (".tsv", ".csv") if os.path.isfile(stem + ending)), None)
    table = None if path is None else files.read_table(path, long=True)
    if path is None or table is None or ID not in table.columns:
        return None
    n = files.count_volumes(image)
    if len(table) != n:
        raise FileError(
            f"{path} has {several(len(table), 'row')}, and {image} beside it {several(n, 'volume')}; a table of "
            f"the participants of an image has a row for each volume, and any other needs another name",
            file=path,
        )
    ids = tuple(str(name).strip() for name in table[ID])
    visit = next((column for column in (visit_column, *VISIT_COLUMNS) if column in table.columns), None)
    return Rows(ids, path, "volume", tuple(str(each).strip() for each in table[visit]) if visit else ())


def _texts(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = content.get(key)
    return tuple(str(each) for each in value) if isinstance(value, list) else ()


def _of_file_names(paths: Sequence[Path], origin: str, known: Rows | None) -> Rows | None:
    """Ids from BIDS' entity ``sub``, or else the ids of the other side, if most names contain exactly one of them."""
    entities = [_entity(path, "sub") for path in paths]
    bids = None
    if all(entities):
        bids = Rows(tuple(name or "" for name in entities), origin, "volume", from_names=True)
    if known is None or (bids and set(bids.keys()) & set(known.keys())):
        return bids
    ids = _distinct(known.ids)
    words = _words_of(paths, ids)
    counts, expected = Counter(word for word in words if word), Counter(known.ids)
    if 2 * sum(counts.values()) < len(paths) or any(n > expected[word] for word, n in counts.items()):
        return bids
    named = tuple(word or path.name for word, path in zip(words, paths))
    return Rows(named, origin, "volume", from_names=True)


def _with_visits(rows: Rows, paths: Sequence[Path], known: Rows | None) -> Rows:
    """The same with visits, if the other side has them: BIDS' entity ``ses``, or else its visits as words."""
    if known is None or not known.visits:
        return rows
    visits = [_entity(path, "ses") for path in paths]
    if not all(visits):
        there = _distinct(known.visits)
        visits = _words_of(paths, there)
        if Counter(visits) != Counter(known.visits):
            return rows
    return replace(rows, visits=tuple(name or "" for name in visits), named_visits=True)


def _entity(path: Path, key: str) -> str | None:
    """The entity, such as ``sub-01``, from the last part of the path that has it."""
    for part in map(composed, reversed(path.parts)):
        match = re.search(rf"(?<![A-Za-z0-9]){key}-[A-Za-z0-9]+", part)
        if match:
            return match[0]
    return None


def _words_of(paths: Sequence[Path], ids: Mapping[str, str]) -> list[str | None]:
    """The only id that occurs as a whole word in the name of each file, or else in those of its folders.

    A word common to all names, such as the 1 of ``con_0001``, is not an id unless all are of one participant.
    """
    candidates = [[_ids_in(part, ids) for part in reversed(path.parts)] for path in paths]
    depth = min(map(len, candidates)) if len(ids) > 1 < len(paths) else 0
    everywhere = [set.intersection(*(levels[k] for levels in candidates)) for k in range(depth)]
    words: list[str | None] = []
    for levels in candidates:
        telling = [there - common for there, common in zip(levels, everywhere)] + levels[depth:]
        first = next((there for there in telling if there), set())
        words.append(next(iter(first)) if len(first) == 1 else None)
    unclaimed = set().union(*everywhere).difference(words)
    if unclaimed and None in words:  # the 1 of 1_con_0001 is common to all names
        return (
            [word or unclaimed.pop() for word in words]
            if words.count(None) == len(unclaimed) == 1
            else [None] * len(words)
        )
    return words


def _ids_in(part: str, ids: Mapping[str, str]) -> set[str]:
    """The ids that occur as words in a name, without those that are part of another id in it."""
    text = composed(files.split_suffix(part)[0])
    short = canonical(text)
    there = {name for form, name in ids.items() if _has_word(text, name) or _has_word(short, form)}
    return {a for a in there if not any(a != b and _has_word(b, a) for b in there)}


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text) is not None


def files_of(data: Any) -> Name | Sequence[Name] | None:
    """File names of data from Python: as given, or the files from which nibabel images were loaded.

    None for arrays, and for images that exist only in memory.
    """
    if files.are_names(data):
        names: Name | Sequence[Name] = data
        return names
    images = data if isinstance(data, list | tuple) else [data]
    read = [each.get_filename() if hasattr(each, "get_filename") else None for each in images]
    there = [name for name in read if name and files.split_suffix(name)[1] and os.path.isfile(name)]
    return there if there and len(there) == len(images) else None


# -- comparison -----------------------------------------------------------------------------------------------------


def compare(first: Rows | None, second: Rows | None, warn: Say | None = None) -> None:
    """Check that the rows of two files are the same participants in the same order.

    Parameters
    ----------
    first, second : Rows, optional
        Nothing is compared if one of them is unknown.
    warn : callable, optional
        Receives a warning if ids and file names have nothing in common and cannot be compared.

    Raises
    ------
    FileError
        The participants differ; the message states the first row.
    """
    if first is None or second is None:
        return
    a, b = _keys(first, second, warn)
    refined = bool(first.visits) and not second.visits  # ids such as sub-01_ses-2 include visits
    same = [x == y or (refined and _has_word(y.replace("_", " "), x)) for x, y in zip(a, b)]
    if len(a) == len(b) and all(same):
        return
    if not any(same) and not set(a) & set(b) and (first.from_names or second.from_names):
        if warn:
            warn(
                f"{first.origin} ({first.named(0)}, …) and {second.origin} ({second.named(0)}, …) name participants "
                "differently; gpuvox assumes that they are in the same order"
            )
        return
    if len(a) != len(b):
        raise FileError(
            f"{second.origin} has {several(len(b), second.kind)}; "
            f"{first.origin} has {several(len(a), first.kind)}, of which "
            f"{_only(a, b, first) or _only(b, a, second) or 'some occur twice'}"
        )
    row = same.index(False)
    raise FileError(
        f"{first.kind} {row + 1} of {first.origin} is {first.named(row)}, {second.kind} {row + 1} of {second.origin} "
        f"is {second.named(row)}; {_remedy(a, b, second)}"
    )


def join(first: Rows, second: Rows, rows: Sequence[int] | None = None) -> dict[int, int]:
    """Row of the first → place in the second of the same participant, and visit where both have visits.

    Parameters
    ----------
    first, second : Rows
    rows : sequence of int, optional
        Rows of the first that are joined (default: all); those without a place are left out.

    Raises
    ------
    FileError
        The participant of a row occurs several times in one of them, and nothing tells these apart; or the two have no
        participant in common.
    """
    a, b = _keys(first, second)
    wanted = range(len(a)) if rows is None else rows
    joined_keys = {a[row] for row in wanted}
    for keys, of in ((b, second), (a, first)):
        twice = next((i for i, key in enumerate(keys) if key in joined_keys and key in keys[:i]), None)
        if twice is not None:
            name = of.named(twice) if first.visits and second.visits else of.ids[twice]
            raise FileError(
                f"{of.origin} has {name} twice, and nothing tells its {of.kind}s apart: a column such as "
                f"{VISIT_COLUMNS[0]} is needed in the table and with the images"
            )
    where = {key: place for place, key in enumerate(b)}
    joined = {row: where[a[row]] for row in wanted if a[row] in where}
    if not joined:
        raise FileError(
            f"{second.origin} ({second.named(0)}, …) and {first.origin} ({first.named(0)}, …) have no participant in "
            "common"
        )
    return joined


def places(first: Rows, second: Rows, rows: Sequence[int] | None = None, warn: Say | None = None) -> list[int]:
    """The place in the second of some rows of the first (default: all), by participant and visit, in any order.

    Raises
    ------
    FileError
        As for `join`; a row is not in the second.
    """
    wanted = list(range(len(first.ids)) if rows is None else rows)
    a, b = _keys(first, second)
    if a == b or not {*a} & {*b}:
        compare(first, second, warn)
        return wanted
    joined = join(first, second, wanted)
    lacking = next((row for row in wanted if row not in joined), None)
    if lacking is not None:
        raise FileError(f"{second.origin} has no {second.kind} of {first.named(lacking)}, a row of {first.origin}")
    return [joined[row] for row in wanted]


def _keys(first: Rows, second: Rows, warn: Say | None = None) -> list[list[str]]:
    """What is compared of the rows of both: canonical ids, and visits where both have them."""
    with_visits, exact = _visits_meet(first, second, warn), first.needs_spelling or second.needs_spelling
    return [each.keys(with_visits, exact=exact) for each in (first, second)]


def _visits_meet(first: Rows, second: Rows, warn: Say | None) -> bool:
    """Whether both have visits that can be compared."""
    if not (first.visits and second.visits):
        return False
    a, b = ({canonical_visit(name) for name in each.visits} for each in (first, second))
    if a & b or not (first.named_visits or second.named_visits):
        return True
    if warn:
        warn(
            f"{first.origin} ({first.visits[0]}, …) and {second.origin} ({second.visits[0]}, …) name visits "
            "differently; gpuvox assumes that they are in the same order"
        )
    return False


def _only(these: Sequence[str], those: Sequence[str], rows: Rows) -> str:
    row = next((i for i, name in enumerate(these) if name not in those), None)
    return "" if row is None else f"{rows.named(row)} is only in {rows.origin}"


def _remedy(a: Sequence[str], b: Sequence[str], images: Rows) -> str:
    if sorted(a) != sorted(b):
        return "both must have the same participants, in the same order"
    way = ", for example with TABLE:COLUMN instead of a pattern" if images.from_names else ""
    return f"the participants are the same, so put one of the files into the order of the other{way}"


def compare_all(rows: Iterable[Rows | None], warn: Say | None = None) -> None:
    """`compare` each with all before it, since later ones may share a naming scheme that the first does not use."""
    known = [each for each in rows if each is not None]
    for i, other in enumerate(known):
        for k, before in enumerate(known[:i]):
            compare(before, other, None if k else warn)


def shared(names: Sequence[Name], who: Rows) -> str:
    """A sentence about the first image that two rows of a table share; empty if there is none."""
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        path = os.path.realpath(name)
        if path in seen:
            return f"{os.fspath(name)} is the image both of {who.named(seen[path])} and of {who.named(row)}"
        seen[path] = row
    return ""


def repeated(names: Sequence[Name]) -> str:
    """A sentence about the first duplicate image in a list; empty if there is none."""
    seen: set[str] = set()
    for name in names:
        path = os.path.realpath(name)
        if path in seen:
            return os.fspath(name)
        seen.add(path)
    return ""


@contextmanager
def sidecar(image: Name, ids: Sequence[str], visits: Sequence[str] = ()) -> Iterator[None]:
    """The JSON file beside a 4D image with the participants of its volumes; it appears only if no error occurs."""
    content = {SUBJECTS: list(ids), VISITS: list(visits)}
    with files.atomic(files.split_suffix(image)[0] + ".json") as temporary:
        files.write_json(temporary, {key: value for key, value in content.items() if value})
        yield


# -- designs --------------------------------------------------------------------------------------------------------


def design_sidecar(name: Name) -> str:
    """``OUT_design.json``, with the names of rows and columns of ``OUT.mat``, ``.con``, ``.fts`` and ``.grp``."""
    return os.path.splitext(os.fspath(name))[0] + "_design.json"


def write_design_sidecar(root: Name, names: Names, ids: Sequence[str] = (), visits: Sequence[str] = ()) -> None:
    """Write ``ROOT_design.json``: names of EVs, contrasts and F tests, and the participants of the rows."""
    content = {SUBJECTS: ids, VISITS: visits, EVS: names.evs, CONTRASTS: names.contrasts, F_TESTS: names.f_tests}
    files.write_json(f"{os.fspath(root)}_design.json", {key: value for key, value in content.items() if value})


def read_matrix(name: Name) -> Matrix:
    """`files.read_named_matrix`, with names of rows and columns from the JSON file beside a VEST matrix.

    Raises
    ------
    FileError
        As for `files.read_named_matrix`; the JSON file belongs to another matrix.
    """
    matrix = files.read_named_matrix(name)
    content = {} if matrix.column_names else files.read_json(design_sidecar(name))
    kind, (n_rows, n_columns) = os.path.splitext(os.fspath(name))[1], matrix.values.shape
    columns = _texts(content, {".mat": EVS, ".con": EVS, ".fts": CONTRASTS}.get(kind, ""))
    rows = _texts(content, {".mat": SUBJECTS, ".grp": SUBJECTS, ".fts": F_TESTS}.get(kind, ""))
    if kind == ".fts" and (n_rows, n_columns) != (len(rows), len(columns)):
        rows = columns = ()  # tests may have been added by hand
    for names, count, what in ((columns, n_columns, "columns"), (rows, n_rows, "rows")):
        if names and len(names) != count:
            raise FileError(
                f"{design_sidecar(name)} names {len(names)} {what} of {os.fspath(name)}, which has {count}; remove it "
                "if it is of another design"
            )
    return replace(matrix, row_names=matrix.row_names or rows, column_names=matrix.column_names or columns)


def values_and_names(data: Any) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """Values of a DataFrame, a Series or an array without names; names of its rows; names of its columns.

    Participants are in a column (`files.ID_COLUMNS`) or in the index, unless that only counts rows.
    """
    if not (hasattr(data, "index") and hasattr(data, "to_numpy")):
        return data, (), ()
    names = list(getattr(data, "columns", ()))
    ids = next((name for name in names if str(name).casefold() in files.ID_COLUMNS), None)
    if ids is None:
        rows = _index_names(data.index)
    else:
        rows = tuple(str(name) for name in data[ids])
        data, names = data.drop(columns=[ids]), [name for name in names if name is not ids]
    return data, rows, () if all(_is_count(name) for name in names) else tuple(str(name) for name in names)


def _index_names(index: Any) -> tuple[str, ...]:
    is_ids = str(index.name).casefold() in files.ID_COLUMNS
    if not is_ids and any(_is_count(name) or isinstance(name, tuple) for name in index):
        return ()
    return tuple(str(name) for name in index)


def _is_count(name: Any) -> bool:
    return isinstance(name, int | np.integer)


def rows_of(matrix: Matrix, title: str, source: Any) -> Rows | None:
    """Participants of a matrix given by the user; `title` is used in messages if it is not a file."""
    if isinstance(source, str | os.PathLike):
        return of_matrix(matrix, source)
    return Rows(matrix.row_names, title) if matrix.row_names else None


def of_matrix(matrix: Matrix, name: Name) -> Rows | None:
    """Participants of a design or of blocks read by `read_matrix`."""
    if not matrix.row_names:
        return None
    beside = design_sidecar(name)
    visits: tuple[str, ...] = ()
    if os.path.exists(beside) and os.path.splitext(os.fspath(name))[1] in (".mat", ".grp"):
        visits = _texts(files.read_json(beside), VISITS)
    return Rows(matrix.row_names, os.fspath(name), "row", visits)
