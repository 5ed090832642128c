"""The TOML file that describes a study, checked key by key; errors state the key and its line."""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from gpuvox import files
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.study.pipeline.toml import Derived, Reader, error_at, key_lines
from gpuvox.subject_images import QSM_UNITS, R1_UNITS

EXAMPLE = "example.toml"
TESTS = ("student", "welch", "mannwhitney", "fisher", "chi2")
PAIRS = ("tukey", "bonferroni", "holm", "sidak", "none")
CORRECTIONS = ("fdr_bh", "bonferroni", "none")
IRONMYELIN = {
    "iron": ("Iron concentration", "mg/kg"),
    "myelin": ("Myelin concentration", "volume fraction"),
    "ironmass": ("Iron content", "mg/kg × J"),
    "myelinmass": ("Myelin content", "volume fraction × J"),
}
"""Maps that ``gpuvox ironmyelin`` writes: title, unit."""

Check = Callable[[Any], str]
"""A check of a value: what is expected instead, or empty if the value is accepted."""


def _between(low: float, high: float, *, open_ends: bool = False) -> Check:
    def check(value: float) -> str:
        inside = low < value < high if open_ends else low <= value <= high
        return (
            ""
            if inside
            else f"a number {'between' if open_ends else 'from'} {low:g} {'and' if open_ends else 'to'} {high:g}"
        )

    return check


def _at_least(low: float) -> Check:
    return lambda value: "" if value >= low else f"a number of at least {low:g}"


def _one_of(*allowed: Any) -> Check:
    return lambda value: "" if value in allowed else " or ".join(str(each) for each in allowed)


def _one_of_or_empty(*allowed: str) -> Check:
    return lambda value: "" if value in ("", *allowed) else " or ".join(allowed)


def _positive(value: float) -> str:
    return "" if value > 0 else "a number above 0"


def _not_empty(value: Any) -> str:
    return "" if value else "something"


def _tests(value: Mapping[str, str]) -> str:
    return "" if set(value.values()) <= set(TESTS) else f"tests among {', '.join(TESTS)}"


def _key(default: Any = MISSING, check: Check | None = None, *, is_file: bool = False) -> Any:
    """A key of a section; text in it gets composed accents unless it names a file, or a file or a column."""
    metadata = {"is_file": is_file} | ({"check": check} if check else {})
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Study:
    """``[study]``: title, table and results folder."""

    table: str = _key(check=_not_empty, is_file=True)
    out: str = _key("results", _not_empty, is_file=True)
    title: str = _key("A study", _not_empty)
    seed: int = _key(1, _between(0, 2**63 - 1))
    device: str = _key("auto", _not_empty)
    threads: int = _key(0, _at_least(0))


@dataclass(frozen=True, kw_only=True)
class Groups:
    """``[groups]``: the groups, and the covariates. Without an order, everybody is in one group."""

    column: str = _key("group", _not_empty)
    order: tuple[str, ...] = _key(())
    covariates: tuple[str, ...] = _key(())
    reference: str = _key("")
    subset: str = _key("")


@dataclass(frozen=True, kw_only=True)
class IronMyelin:
    """``[ironmyelin]``: options of ``gpuvox ironmyelin``."""

    from_field: float = _key(0.0, _at_least(0))
    to_field: float = _key(0.0, _at_least(0))
    field_method: str = _key("curve", _one_of("curve", "power"))
    reference: str = _key("cohort", _one_of("cohort", "subject", "none"))
    fwhm: float = _key(0.0, _at_least(0))
    mask: str = _key("", is_file=True)
    model: str = _key("", is_file=True)
    qsm_units: str = _key("", _one_of_or_empty(*QSM_UNITS))
    r1_units: str = _key("", _one_of_or_empty(*R1_UNITS))
    coefficient_error: float = _key(0.1, _between(0, 0.5))


@dataclass(frozen=True, kw_only=True)
class Map:
    """``[maps.NAME]``: a 4D image or a column of the table, and its title."""

    image: str = _key(check=_not_empty, is_file=True)
    title: str = _key("")
    unit: str = _key("")


@dataclass(frozen=True, kw_only=True)
class Template:
    """``[template]``: images common to all participants."""

    mask: str = _key(check=_not_empty, is_file=True)
    labels: str = _key("", is_file=True)
    names: str = _key("", is_file=True)
    underlay: str = _key("", is_file=True)


@dataclass(frozen=True, kw_only=True)
class Voxelwise:
    """``[voxelwise]``: options of ``gpuvox voxelwise``. Without tests, every two groups are compared."""

    maps: tuple[str, ...] = _key(())
    model: str = _key("")
    tests: tuple[str, ...] = _key(())
    against: dict[str, float] = field(default_factory=dict)
    paired: str = _key("")
    within: tuple[str, ...] = _key(())
    blocks: tuple[str, ...] = _key(())
    whole: str = _key("")
    permutations: int = _key(5000, _at_least(1))
    variance_smoothing: float = _key(0.0, _at_least(0))
    tfce_height: float = _key(2.0, _positive)
    tfce_extent: float = _key(0.5, _positive)
    connectivity: int = _key(6, _one_of(6, 18, 26))

    @property
    def in_words(self) -> bool:
        """Whether tests, their model or what is exchangeable are given in words, as ``gpuvox voxelwise`` takes them."""
        return bool(self.model or self.tests or self.paired or self.within or self.blocks or self.whole)


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """``[clusters]``: options of ``gpuvox clusters``."""

    p: float = _key(0.05, _between(0, 1, open_ends=True))
    extent: int = _key(1, _at_least(1))
    connectivity: int = _key(26, _one_of(6, 18, 26))


@dataclass(frozen=True, kw_only=True)
class Rois:
    """``[rois]``: options of ``gpuvox rois``; the default labels are those of ``[template]``."""

    maps: tuple[str, ...] = _key(())
    labels: str = _key("", is_file=True)
    names: str = _key("", is_file=True)
    merge: dict[str, str] = field(default_factory=dict)
    jacobian: str = _key("", is_file=True)
    lesions: str = _key("", is_file=True)
    head_size: str = _key("")
    erosion: int = _key(0, _at_least(0))


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """``[volumes.NAME]``: volumes that other software measured; see `gpuvox volumes`."""

    file: str = _key("", is_file=True)
    column: str = _key("")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``[demographics.comparisons.NAME]``: further groups, side by side in the same table."""

    group: str = _key(check=_not_empty)
    order: tuple[str, ...] = _key((), lambda v: "" if len(v) != 1 else "two groups or more")


@dataclass(frozen=True, kw_only=True)
class Demographics:
    """``[demographics]``: the table of the cohort."""

    variables: tuple[str, ...] = _key(check=_not_empty)
    tests: dict[str, str] = field(default_factory=dict, metadata={"check": _tests})
    comparisons: dict[str, Comparison] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """``[[group_table]]``: analyses of covariance, one per variable."""

    title: str = _key(check=_not_empty)
    variables: tuple[str, ...] = _key(())
    families: dict[str, tuple[str, ...]] = field(default_factory=dict)
    group: str = _key("")
    order: tuple[str, ...] = _key(())
    covariates: tuple[str, ...] | None = _key(None)
    posthoc: str = _key("tukey", _one_of(*PAIRS))
    correction: str = _key("fdr_bh", _one_of(*CORRECTIONS))
    subset: str = _key("")
    log: tuple[str, ...] = _key(())
    against: float | None = _key(None)


@dataclass(frozen=True, kw_only=True)
class Regression:
    """``[[regression]]``: hierarchical regression, one model for each outcome and each of `each`."""

    title: str = _key(check=_not_empty)
    outcome: str | tuple[str, ...] = _key(check=_not_empty)
    model: str = _key("linear", _one_of("linear", "logistic"))
    event: str = _key("")
    errors: str = _key("ols", _one_of("ols", "hc3"))
    blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    each: tuple[str, ...] = _key(())
    adjusted: tuple[str, ...] = _key(())
    subset: str = _key("")
    log: tuple[str, ...] = _key(())
    sqrt: tuple[str, ...] = _key(())
    rank: tuple[str, ...] = _key(())
    ladder: tuple[str, ...] = _key(())
    bootstrap: int = _key(5000, _at_least(0))
    strata: tuple[str, ...] = _key(())
    correction: str = _key("fdr_bh", _one_of(*CORRECTIONS))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes, also where there is one."""
        return (self.outcome,) if isinstance(self.outcome, str) else self.outcome

    @property
    def has_words(self) -> bool:
        """Whether `each` holds words that replace ``{each}``, and not variables."""
        return any("{each}" in name for name in [*self.outcomes, *(n for of in self.blocks.values() for n in of)])


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """``[[correlation]]``: partial correlations of every x with every y."""

    title: str = _key(check=_not_empty)
    x: tuple[str, ...] = _key(check=_not_empty)
    y: tuple[str, ...] = _key(check=_not_empty)
    paired: bool = _key(False)
    given: tuple[str, ...] = _key(())
    adjusted: tuple[str, ...] = _key(())
    method: str = _key("pearson", _one_of("pearson", "spearman"))
    subset: str = _key("")
    log: tuple[str, ...] = _key(())
    sqrt: tuple[str, ...] = _key(())
    rank: tuple[str, ...] = _key(())
    bootstrap: int = _key(0, _at_least(0))
    strata: tuple[str, ...] = _key(())
    correction: str = _key("fdr_bh", _one_of(*CORRECTIONS))


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """``[[sample_size]]``: number of participants for a new study."""

    title: str = _key(check=_not_empty)
    variables: tuple[str, ...] = _key(check=_not_empty)
    reduction: float = _key(1.0, _positive)
    power: float = _key(0.8, _between(0, 1, open_ends=True))
    alpha: float = _key(0.05, _between(0, 1, open_ends=True))


@dataclass(frozen=True, kw_only=True)
class Visits:
    """``[visits]``: a table with a row for each visit of each participant, for models of change."""

    table: str = _key(check=_not_empty, is_file=True)
    column: str = _key("session", _not_empty)
    time: str = _key(check=_not_empty)


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """``[[mixed]]``: linear mixed models of change per year, one for each outcome."""

    title: str = _key(check=_not_empty)
    outcome: tuple[str, ...] = _key(check=_not_empty)
    order: tuple[str, ...] | None = _key(None)
    covariates: tuple[str, ...] | None = _key(None)
    random: str = _key("slope", _one_of("slope", "intercept"))
    subset: str = _key("")
    log: tuple[str, ...] = _key(())
    sqrt: tuple[str, ...] = _key(())
    correction: str = _key("fdr_bh", _one_of(*CORRECTIONS))
    trial: tuple[float, ...] = _key(())
    reduction: float = _key(1.0, _positive)
    power: float = _key(0.8, _between(0, 1, open_ends=True))
    alpha: float = _key(0.05, _between(0, 1, open_ends=True))


@dataclass(frozen=True, kw_only=True)
class Report:
    """``[report]``."""

    zscores: tuple[str, ...] = _key(())


@dataclass(frozen=True, kw_only=True)
class Config:
    """A study. Sections that are None, or empty, are not part of it.

    Attributes
    ----------
    path : Path
        The file; other paths in it are relative to its folder.
    text : str
    """

    path: Path
    text: str
    study: Study
    groups: Groups = field(default_factory=Groups)
    template: Template | None = None
    ironmyelin: IronMyelin | None = None
    maps: dict[str, Map] = field(default_factory=dict)
    voxelwise: Voxelwise | None = None
    clusters: Clusters | None = None
    rois: Rois | None = None
    volumes: dict[str, Volumes] = field(default_factory=dict)
    derived: Derived = field(default_factory=lambda: Derived())
    demographics: Demographics | None = None
    group_table: tuple[GroupTable, ...] = ()
    regression: tuple[Regression, ...] = ()
    correlation: tuple[Correlation, ...] = ()
    sample_size: tuple[SampleSize, ...] = ()
    visits: Visits | None = None
    mixed: tuple[Mixed, ...] = ()
    report: Report = field(default_factory=Report)

    def file(self, name: str) -> str:
        """A path in the file, relative to the current folder; empty stays empty."""
        return os.fspath(self.path.parent / os.path.expanduser(name)) if name else ""

    @property
    def out(self) -> Path:
        """The results folder."""
        return Path(self.file(self.study.out))

    def error(self, where: tuple[str | int, ...], message: str) -> FileError:
        """An error in the file, with its line and key."""
        return error_at(self.path, key_lines(self.text), where, message)

    @contextlib.contextmanager
    def reading(self, where: tuple[str | int, ...]) -> Iterator[None]:
        """Add line and key to errors about the value of a key.

        The option of a command (`error.option`) is translated to the key in this file.
        """
        try:
            yield
        except InputError as error:
            key, keys = error.option.removeprefix("--").replace("-", "_"), self._keys(where)
            key = "tests" if key == "test" and "tests" in keys else key
            inside = bool(key) and key in keys
            reason = error.reason if isinstance(error, OptionError) else error.message
            text = reason if inside or not isinstance(error, OptionError) else f"{key}: {reason}"
            raise self.error((*where, key) if inside else where, text) from None

    def _keys(self, where: tuple[str | int, ...]) -> list[str]:
        """Keys of a section; none for anything else."""
        part: Any = self
        for name in where:
            is_item = isinstance(name, int) or isinstance(part, Mapping)
            part = part[name] if is_item else getattr(part, str(name), None)
        return [field.name for field in fields(part)] if is_dataclass(part) else []


def example() -> str:
    """The example file, with an explanation of every key."""
    return (resources.files("gpuvox.study") / EXAMPLE).read_text(encoding="utf-8")


def read_config(path: str | os.PathLike[str]) -> Config:
    """Read the file of a study.

    Raises
    ------
    FileError
        The file is not TOML, or a key is unknown, missing or of the wrong type; the message states key and line.
    """
    path = Path(path)
    try:
        text = files.read_bytes(path, files.MOST_SETTINGS).decode("utf-8-sig").replace("\r\n", "\n")
        content = tomllib.loads(text)
    except RecursionError:
        raise FileError(f"{path} is not TOML of a study: brackets are nested too deeply") from None
    except (
        ValueError
    ) as error:  # also raised for text that is not UTF-8, and for numbers with more digits than Python accepts
        raise FileError(f"{path} is not TOML: {error}") from None
    reader = Reader(path, key_lines(text))
    values = reader.section(Config, content, (), {"path": path, "text": text})
    config = Config(path=path, text=text, **values)
    _check_together(config, reader)
    return config


def _check_together(config: Config, reader: Reader) -> None:
    """Check what sections require of each other."""
    if config.voxelwise is not None and config.template is None:
        raise reader.error(("voxelwise",), "needs the section [template] with a mask")
    if config.clusters is not None and config.voxelwise is None:
        raise reader.error(("clusters",), "needs the section [voxelwise]")
    if config.rois is not None and not (config.rois.labels or (config.template and config.template.labels)):
        raise reader.error(("rois",), "needs labels, here or in [template]")
    if not (config.ironmyelin or config.maps) and config.voxelwise:
        raise reader.error((), "there are no maps: a section [ironmyelin] or [maps.NAME] is needed")
    _check_group_tables(config, reader)
    _check_one_group(config, reader)
    for name, source in config.volumes.items():
        if bool(source.file) == bool(source.column):
            raise reader.error(
                ("volumes", name), "needs a file, or the column that names the file of each participant"
            )
    for number, model in enumerate(config.regression):
        if not (model.blocks or model.each):
            raise reader.error(("regression", number), "needs blocks, or each, or both")
    if config.mixed and config.visits is None:
        raise reader.error(("mixed", 0), "needs the section [visits]")
    _check_titles(config, reader)


def _check_group_tables(config: Config, reader: Reader) -> None:
    for number, compared in enumerate(config.group_table):
        if not (compared.variables or compared.families):
            raise reader.error(("group_table", number), "needs variables, or families, or both")
        alone = is_alone(config.groups, compared)
        for key in ("families", "covariates", "log") if alone else ():
            if getattr(compared, key):
                message = "is for comparisons; there is one group, which is described"
                raise reader.error(("group_table", number, key), message)
        if compared.against is not None and not alone:
            message = "is for the mean of one group; groups are compared with each other"
            raise reader.error(("group_table", number, "against"), message)


def _check_one_group(config: Config, reader: Reader) -> None:
    """Check that nothing asks for a comparison of groups where there is one."""
    if len(config.groups.order) > 1:
        return
    if config.voxelwise is not None and not config.voxelwise.tests:
        message = (
            'is needed with one group, such as ["age"], a covariate, or ["mean"], whether the mean is above 0'
        )
        raise reader.error(("voxelwise", "tests"), message)
    if config.demographics is not None and config.demographics.tests:
        raise reader.error(("demographics", "tests"), "is for comparisons; there is one group, which is described")
    if config.sample_size:
        raise reader.error(("sample_size", 0), "compares two groups; groups.order has fewer")


def _check_titles(config: Config, reader: Reader) -> None:
    for name in config.maps:
        if name in ("volume", "volume_normalised"):
            raise reader.error(("maps", name), "is the name of a measure of regions; choose another name")
        if config.ironmyelin and name in IRONMYELIN:
            raise reader.error(("maps", name), "is a map of [ironmyelin]; choose another name")
    titles = {("group_table", "demographics")} if config.demographics else set()
    for kind in ("group_table", "regression", "correlation", "sample_size", "mixed"):
        for number, table in enumerate(getattr(config, kind)):
            # Titles become file names.
            if (kind, slug(table.title)) in titles:
                name = slug(table.title)
                raise reader.error((kind, number, "title"), f"another table already has a file called {name!r}")
            titles.add((kind, slug(table.title)))


def order_of(groups: Groups, table: GroupTable) -> tuple[str, ...]:
    """The groups that a table compares; empty for all of a column of its own."""
    return table.order or (groups.order if table.group in ("", groups.column) else ())


def is_alone(groups: Groups, table: GroupTable) -> bool:
    """Whether a table is of one group, which is described and not compared."""
    return len(order_of(groups, table)) == 1 or not (table.group or table.order or groups.order)


def covariates_of(groups: Groups, table: GroupTable) -> tuple[str, ...]:
    """The covariates of a table: its own, or those of the groups; none of one group alone."""
    if is_alone(groups, table):
        return ()
    return groups.covariates if table.covariates is None else table.covariates


def slug(title: str) -> str:
    """A title as a file name."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_") or "table"
