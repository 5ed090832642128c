"""The files of any finished run: of ``gpuvox voxelwise``, of ``gpuvox randomise``, or of FSL, recognised by names.

A run of voxelwise is a folder with ``voxelwise.json``. A run of randomise is an output root: ``ROOT_randomise.json``
and ``ROOT_tstat1`` …, or, of FSL, the maps alone.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.findings.map_names import KINDS, map_entities, title
from gpuvox.types import Float64

VOXELWISE, RANDOMISE = "voxelwise.json", "_randomise.json"
STATISTIC = re.compile(r"(?P<root>.*)_(?P<test>[tf]stat\d+)\.(nii|hdr)(\.gz)?")
PRECEDENCE = ("tfce", "tfceNormalised", "clusterMass", "clusterSize", "clusterNormalised", "vox")
"""Which of several corrected maps is reported, unless the user chooses."""
SIZES = {"d": "d", "partialr": "partialr", "partialetasq": "partialetasq"}
LIMITS = {"": "", "CI95lower": "_low", "CI95upper": "_high"}


@dataclass(frozen=True)
class CorrectedMap:
    """A map of corrected p-values.

    Attributes
    ----------
    path : Path
    is_log : bool
        It holds −log10 p, not 1 − p.
    """

    path: Path
    is_log: bool = False


@dataclass(frozen=True, eq=False)
class RunTest:
    """A test of a run, and its files.

    Attributes
    ----------
    label : str
        Of letters and digits, for names of files.
    name : str
        As the run calls it.
    kind : str
        What the statistic is: ``t`` or ``F``.
    statistic : Path
    corrected : dict of str to CorrectedMap
        By correction, ``tfceFWE``, in the order of precedence.
    effects : dict of str to Path
        Maps of estimate, standard error, effect size and limits, by the columns of `clusters.EFFECTS`.
    weights : (k, p) float64 or None
        Of the design's columns.
    meaning : str
        A sentence; empty where the run has none.
    permutations : int
        0 if unknown.
    df : tuple of float
    method : str
        ``permutations``, ``sign-flips``, or ``permutations with sign-flips``.
    repeats : bool
        They were drawn with repeats.
    exchangeability : str
        A clause that says what they may move; empty if it is not known.
    nulls : dict of str to Path
        Largest statistic of each permutation, the unpermuted data first, by correction.
    critical : dict of str to float
    images : str
        The set of images, where a run has several.
    two_sided : bool
        p is of the size of t, whatever its sign.
    approximation : str
        The law that p of voxels and of TFCE are taken from; empty if all are shares of permutations.
    """

    label: str
    name: str
    kind: str
    statistic: Path
    corrected: Mapping[str, CorrectedMap]
    effects: Mapping[str, Path] = field(default_factory=dict)
    weights: Float64 | None = None
    meaning: str = ""
    permutations: int = 0
    df: tuple[float, ...] = ()
    method: str = "permutations"
    repeats: bool = False
    exchangeability: str = ""
    nulls: Mapping[str, Path] = field(default_factory=dict)
    critical: Mapping[str, float] = field(default_factory=dict)
    images: str = ""
    two_sided: bool = False
    approximation: str = ""

    def multiples_of(self, desc: str) -> int:
        """p of a correction are multiples of 1 / this number; 0 if it is unknown, or there is none."""
        return 0 if desc.endswith("FDR") or self.approximation else self.permutations

    def correction(self, chosen: str = "") -> str:
        """The correction that is reported: the first by precedence, or that which the user chose.

        Raises
        ------
        FileError
            The test has no map of it.
        """
        if not self.corrected:
            return ""
        if chosen and chosen not in self.corrected:
            raise FileError(
                f"{self.name} has no map of {chosen}; there is {', '.join(self.corrected)}", option="--correction"
            )
        return chosen or next(iter(self.corrected))


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes
    ----------
    origin : Path
        Its folder (voxelwise) or output root (randomise).
    maker : str
        ``gpuvox voxelwise``, ``gpuvox randomise`` or ``FSL randomise``.
    tests : tuple of RunTest
    record : dict
        What the run says of itself; empty for FSL.
    records : tuple of dict
        The records of its runs of randomise.
    design : (n, p) float64 or None
    columns : tuple of str
        Names of its columns; empty if there are none.
    ids : tuple of str
        Participants of its rows; empty if unknown.
    """

    origin: Path
    maker: str
    tests: tuple[RunTest, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Mapping[str, Any], ...] = ()
    design: Float64 | None = None
    columns: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.origin if self.maker == "gpuvox voxelwise" else self.origin.parent

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of the design; their numbers if they have none."""
        count = 0 if self.design is None else self.design.shape[1]
        return list(self.columns) or [f"column {i}" for i in range(1, count + 1)]

    @property
    def title(self) -> str:
        """For the head of the page."""
        return self.origin.resolve().name

    def beside(self, name: str) -> Path:
        """A file of the report: in the folder of voxelwise, or with the output root."""
        return self.origin / name if self.maker == "gpuvox voxelwise" else Path(f"{self.origin}_{name}")


def read_run(path: str | os.PathLike[str]) -> Run:
    """Find the files of a run.

    Parameters
    ----------
    path : path
        The folder of voxelwise; the output root of randomise, or its record; or a folder that holds one run.

    Raises
    ------
    FileError
        There is no run, or several; it is not finished; its record cannot be read.
    """
    path = Path(path)
    if path.name == VOXELWISE:
        path = path.parent
    if path.name.endswith(RANDOMISE):
        path = Path(os.fspath(path).removesuffix(RANDOMISE))
    if (path / VOXELWISE).is_file():
        return _of_voxelwise(path)
    if path.is_dir():
        path = _only_root(path)
    record = Path(f"{path}{RANDOMISE}")
    return _of_record(path, record) if record.is_file() else _of_names(path)


def _only_root(folder: Path) -> Path:
    """The output root of the one run in a folder."""
    names = sorted(each.name for each in folder.iterdir())
    roots = {name.removesuffix(RANDOMISE) for name in names if name.endswith(RANDOMISE)}
    matches = [STATISTIC.fullmatch(name) for name in names]
    maps = {match["root"] for match in matches if match}
    ends = tuple(f"_{kind}{part}" for kind in KINDS for part in ("_corrp", "_p", ""))
    roots = roots or {root for root in maps if not root.endswith(ends)}
    if len(roots) == 1:
        return folder / roots.pop()
    if roots:
        raise FileError(
            f"{folder} holds {len(roots)} runs; name the output root of one: {', '.join(sorted(roots)[:4])}"
        )
    if (folder / "design.tsv").is_file() and (folder / "randomise").is_dir():
        raise FileError(f"{folder} holds a run of gpuvox voxelwise that is not finished: there is no {VOXELWISE}")
    if any(name.endswith(".tally") for name in names):
        raise FileError(f"{folder} holds a run that is not finished; gpuvox randomise --resume finishes it")
    raise FileError(
        f"{folder} holds no run: neither {VOXELWISE}, nor ROOT{RANDOMISE}, nor a map such as ROOT_tstat1"
    )


# -- gpuvox voxelwise -----------------------------------------------------------------------------------------------


def _of_voxelwise(folder: Path) -> Run:
    record = _record(folder / VOXELWISE)
    runs = tuple(each for each in record.get("runs", ()) if isinstance(each, Mapping))
    try:
        tests = tuple(_voxelwise_test(folder, each, record, runs) for each in record["tests"])
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{folder / VOXELWISE} is not a record of gpuvox voxelwise: {error!r}") from None
    if not tests:
        raise FileError(f"{folder / VOXELWISE} lists no test")
    design, columns, ids = _table_of_design(folder / "design.tsv")
    return Run(folder, "gpuvox voxelwise", tests, record, runs, design, columns, ids)


def _voxelwise_test(
    folder: Path, test: Mapping[str, Any], record: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]
) -> RunTest:
    label, kind, columns = test["label"], test["statistic"], record["columns"]
    if not re.fullmatch(r"[A-Za-z0-9]+", label):
        raise FileError(f"{folder / VOXELWISE} has the label {label!r}; letters and digits are expected")
    images = test.get("images", "")
    if not re.fullmatch(r"[A-Za-z0-9]*", images):
        raise FileError(f"{folder / VOXELWISE} has the images {images!r}; letters and digits are expected")
    stem = f"{f'map-{images}_' if images else ''}contrast-{label}_stat-"
    logs: dict[str, CorrectedMap] = {}
    effects: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{stem}*_statmap.nii*")):
        stat, _, desc = (
            files.split_suffix(path.name)[0].removeprefix(stem).removesuffix("_statmap").partition("_desc-")
        )
        if stat == "logp" and desc.endswith(("FWE", "FWEacross", "FDR")):
            logs[desc] = CorrectedMap(path, is_log=True)
        elif stat in ("effect", "se") and not desc:
            effects["estimate" if stat == "effect" else "se"] = path
        elif stat in SIZES and desc in LIMITS:
            effects[stat + LIMITS[desc]] = path
    about, run = _test_of_record(runs, test["name"], kind)
    weights = np.array([[row.get(name, 0.0) for name in columns] for row in test["weights"]], dtype=np.float64)
    return RunTest(
        f"{images}_{label}" if images else label, test["name"], kind,
        files.find_image(folder / f"{stem}{kind}_statmap"), _ordered(logs), effects, weights, test["meaning"],
        images=images, nulls=_nulls_of_voxelwise(folder, images, kind, about, run), **_facts(about, run, kind),
    )  # fmt: skip


def _nulls_of_voxelwise(
    folder: Path, images: str, kind: str, about: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, Path]:
    """Null distributions of a test that ``-N`` writes beside the designs of the runs of randomise."""
    start = f"{images}_" if images else ""
    start += "f*" if kind == "F" else "mean" if about.get("method") == "sign-flips" else "t"
    named = str(run.get("run", ""))
    start = named if re.fullmatch(r"[A-Za-z0-9_]+", named) else start  # earlier records have no names of runs
    nulls = {}
    for statistic in KINDS:
        paths = list((folder / "randomise").glob(f"{start}_{statistic}_corrp_{about.get('name')}.txt"))
        if len(paths) == 1:
            nulls[f"{KINDS[statistic]}FWE"] = paths[0]
    return nulls


def _test_of_record(
    runs: Sequence[Mapping[str, Any]], name: str, kind: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The entry of a test in the records of the runs of randomise, and the record."""
    for run in runs:
        for test in run.get("tests", ()):
            if test.get("contrast_name") == name and str(test.get("name", "")).startswith(kind.casefold()):
                return test, run
    return {}, {}


def _facts(about: Mapping[str, Any], record: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What the record of a run says of a test, as fields of `RunTest`."""
    critical = {}
    for statistic, value in about.get("critical_values", {}).items():
        if statistic in KINDS and value is not None:
            critical[f"{KINDS[statistic]}FWE"] = float(value)
    df = about.get("degrees_of_freedom", ())
    return {
        "permutations": int(about.get("permutations") or 0),
        "df": tuple(np.atleast_1d(df).astype(float).tolist()),
        "method": str(about.get("method", "permutations")),
        "repeats": bool(about.get("repeats")),
        "exchangeability": str(about.get("exchangeability", "")),
        "critical": critical,
        "approximation": str(about.get("approximation", "")),
        "two_sided": kind == "t" and bool(record.get("statistics", {}).get("t", {}).get("two_sided")),
    }


def _table_of_design(path: Path) -> tuple[Float64, tuple[str, ...], tuple[str, ...]]:
    table = files.read_table(path, ["participant_id"], long=True)
    columns = tuple(str(name) for name in table.columns if name != "participant_id")
    try:  # n/a is a voxelwise covariate, whose values differ between voxels
        values = table[list(columns)].replace("n/a", "nan").to_numpy().astype(np.float64)
    except ValueError as error:
        raise FileError(f"{path} holds a cell that is not a number: {error}") from None
    return values, columns, tuple(table["participant_id"])


# -- randomise ------------------------------------------------------------------------------------------------------


def _of_record(root: Path, path: Path) -> Run:
    record = _record(path)
    try:
        names, tests = record["names"], record["tests"]
        design = np.array(record["design"], dtype=np.float64)
        made = tuple(_recorded_test(root, each, record) for each in tests)
        columns = tuple(names["evs"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} is not a record of gpuvox randomise: {error!r}") from None
    ordered = sorted(made, key=lambda test: (test.kind == "F", int(re.sub(r"\D", "", test.label))))
    return Run(root, "gpuvox randomise", tuple(ordered), record, (record,), design, columns)


def _recorded_test(root: Path, about: Mapping[str, Any], record: Mapping[str, Any]) -> RunTest:
    test = about["name"]
    kind = "F" if test.startswith("f") else "t"
    number = re.sub(r"\D", "", test)
    name = about.get("contrast_name") or (f"F test {number}" if kind == "F" else f"contrast {number}")
    weights = np.atleast_2d(np.array(about["contrast"], dtype=np.float64))
    corrected, nulls = _maps_by_name(root, test)
    return RunTest(
        test,
        name,
        kind,
        _statistic(root, test),
        corrected,
        weights=weights,
        nulls=nulls,
        **_facts(about, record, kind),
    )


def _of_names(root: Path) -> Run:
    """A run of FSL, or one whose record is gone."""
    tests = []
    folder = root.parent
    names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    for name in names:
        match = STATISTIC.fullmatch(name)
        if match and match["root"] == root.name:
            tests.append(match["test"])
    if not tests:
        if any(name.startswith(f"{root.name}_") and name.endswith(".tally") for name in names):
            raise FileError(f"the run {root} is not finished; gpuvox randomise --resume finishes it")
        raise FileError(
            f"there is no run {root}: neither a folder with {VOXELWISE}, nor {root}{RANDOMISE}, nor {root}_tstat1"
        )
    order = sorted(set(tests), key=lambda test: (test[0] == "f", int(test[5:])))
    return Run(root, "FSL randomise", tuple(_named_test(root, test) for test in order))


def _named_test(root: Path, test: str) -> RunTest:
    kind, number = ("F" if test.startswith("f") else "t"), test[5:]
    corrected, nulls = _maps_by_name(root, test)
    permutations = 0
    for path in nulls.values():
        permutations = len(files.read_bytes(path).split())
    name = f"F test {number}" if kind == "F" else f"contrast {number}"
    return RunTest(test, name, kind, _statistic(root, test), corrected, permutations=permutations, nulls=nulls)


def _statistic(root: Path, test: str) -> Path:
    try:
        return files.find_image(Path(f"{root}_{test}"))
    except FileError:
        raise FileError(f"{root}_{test} is missing, the map of the statistic of {test}") from None


def _maps_by_name(root: Path, test: str) -> tuple[dict[str, CorrectedMap], dict[str, Path]]:
    """Corrected maps of a test under FSL's names, and the null distributions that ``-N`` writes."""
    maps: dict[str, CorrectedMap] = {}
    nulls: dict[str, Path] = {}
    for statistic, correction in itertools.product(KINDS, ("corrp", "acrossp")):
        stem = f"{statistic}_{correction}_{test}"
        entities = map_entities(stem, test)
        assert entities is not None
        try:
            maps[entities[1]] = CorrectedMap(files.find_image(Path(f"{root}_{stem}")))
        except FileError:
            continue
        null = Path(f"{root}_{stem}.txt")
        if null.is_file():
            nulls[entities[1]] = null
    return _ordered(maps), nulls


def _ordered(maps: Mapping[str, CorrectedMap]) -> dict[str, CorrectedMap]:
    return {desc: maps[desc] for desc in by_precedence(maps)}


def by_precedence(corrections: Iterable[str]) -> list[str]:
    """Family-wise error of a test first, then over all tests, then false discovery rates; each by `PRECEDENCE`."""

    def rank(desc: str) -> tuple[int, int]:
        kind = re.sub("(FWE|FWEacross|FDR)$", "", desc)
        correction = ("FWE", "FWEacross", "FDR").index(desc.removeprefix(kind))
        return correction, PRECEDENCE.index(kind) if kind in PRECEDENCE else len(PRECEDENCE)

    return sorted(corrections, key=rank)


def correction_title(desc: str) -> str:
    """A correction in words: ``tfceFWE`` is TFCE."""
    ends = {"FDR": ", false discovery rate", "FWEacross": ", corrected across tests"}
    return title(desc) + next((text for end, text in ends.items() if desc.endswith(end)), "")


def _record(path: Path) -> dict[str, Any]:
    record = files.read_json(path)
    if not isinstance(record, dict):
        raise FileError(f"{path} is not a JSON object, as the record of a run is")
    return record
