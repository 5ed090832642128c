"""What the template shows, gathered from the files of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.findings import figures, references, sentences, tables
from gpuvox.findings.figures import Picture, Saved
from gpuvox.findings.listings import cluster_table, contrast_table
from gpuvox.findings.page import about_mask, read_null
from gpuvox.findings.scene import Scene, colour_ends
from gpuvox.findings.sentences import Finding
from gpuvox.findings.tables import Table
from gpuvox.findings.viewer import viewer_data
from gpuvox.study.report import findings, listings, methods
from gpuvox.study.report.contents import Contents, check_keys
from gpuvox.study.report.montages import montages
from gpuvox.study.report.volumes import StudyTest, read_scene, read_tests
from gpuvox.types import Float64

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Shown:
    """One test as it is shown: its slices, its sentence, its clusters, its null distribution."""

    test: StudyTest
    finding: Finding
    pictures: list[Picture]
    at: str
    clusters: Table | None
    is_listed: bool
    null: Picture | None
    montage: Picture | None = None


@dataclass(frozen=True)
class Group:
    """Tables under one title: what matters, what else there is, and plots."""

    title: str
    tables: list[Table]
    more: list[Table]
    pictures: list[Picture]
    subset: str = ""
    others: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Page:
    """A report before it is HTML.

    Attributes
    ----------
    source : Contents
    scene : Scene or None
        Without mask and tests, None.
    tests : list of StudyTest
    links : str
        From the report to the folder of the results.
    """

    source: Contents
    scene: Scene | None
    tests: list[StudyTest]
    links: str

    @classmethod
    def of(cls, source: Contents, links: str) -> Page:
        """Read the images of a study.

        Raises
        ------
        FileError
            A key or a file is missing or wrong.
        """
        check_keys(source)
        source.need("title", str)
        source.need("cohort", dict)
        scene = read_scene(source)
        return cls(source, scene, read_tests(source, scene), links)

    @property
    def level(self) -> float:
        """Of corrected p."""
        return self.source.get("level", 0.05)

    @property
    def units(self) -> dict[str, str]:
        """Units of iron and of myelin; see `tables.unit_of`."""
        part = self.source.part("units")
        return {name: part.get(name, unit) for name, unit in tables.OF_TISSUE.items()}

    @property
    def units_of_maps(self) -> dict[str, str]:
        """The same for tables whose variables are maps."""
        return {f".{name}": unit for name, unit in self.units.items()}

    @property
    def vmax(self) -> dict[str, float]:
        """Upper end of the colours, the same for all tests of a kind: t and F are not measured with one scale."""
        return colour_ends(self.tests)

    def variables(self) -> dict[str, Any]:
        """What the template needs; the sections are in its order."""
        source, shown = self.source, [self._shown(test) for test in self.tests]
        groups, models = self._groups(), self._models()
        text, sources = references.cited(methods.paragraphs(source, self.tests))
        test_findings = [each.finding for each in shown]
        return {
            "title": source.need("title", str), "created": source.get("created", "")[:10],
            "gpuvox": source.get("gpuvox", ""), "level": sentences.level_text(self.level),
            "extent": source.get("extent", 1), "oriented": self.scene is not None and self.scene.oriented,
            "overall": sentences.overall(test_findings, self.tests, self.level),
            "findings": [*test_findings, *self._of_groups(), *self._of_models()],
            "cohort": self._cohort(), "flow": self._flow(), "design": self._design(), "checks": self._checks(),
            "mask": self._mask(),
            "groups": groups, "groups_title": self._groups_title, "maps": _by_map(shown), "shown": shown,
            "kinds": sentences.kinds(self.tests),
            "bars": {kind: figures.colour_bar(top, kind) for kind, top in self.vmax.items()},
            "viewer": self._viewer(),
            "regions": self._regions(), "scores": self._scores(), "models": models,
            "methods": text, "references": sources, "record": self._record(),
            "bibtex": references.bibtex([key for key, _ in sources]),
        }  # fmt: skip

    # -- voxelwise tests ------------------------------------------------------------------------------------------

    def _shown(self, test: StudyTest) -> Shown:
        assert self.scene is not None
        clusters = findings.cluster_rows(test)
        table = cluster_table(test, *clusters, self.level) if clusters and clusters[1] else None
        at = ", ".join(figures.signed(value) for value in self.scene.millimetres(test.peak))
        pictures = figures.slices(self.scene, test, self.vmax[test.kind], self.level)
        montage = self.montages.get(test.number)
        return Shown(
            test, findings.of_test(test, self.source), pictures, at, table, clusters is not None, self._null(test),
            montage.picture if montage else None,
        )  # fmt: skip

    @cached_property
    def montages(self) -> dict[int, Saved]:
        """Montages of corrected p, by the number of the test below which they are shown."""
        return montages(self.scene, self.tests, self.level) if self.scene is not None else {}

    def _null(self, test: StudyTest) -> Picture | None:
        path = test.contents.file("null")
        if path is None:
            return None
        with test.contents.reading("null"):
            values = read_null(path)
        return figures.null_distribution(test, values, self.level)

    def _mask(self) -> dict[str, Any] | None:
        if self.scene is None:
            return None
        return {"given": bool(self.source.get("mask", "")), **about_mask(self.scene)}

    def _viewer(self) -> dict[str, Any] | None:
        if self.scene is None or not self.tests:
            return None
        return viewer_data(self.scene, self.tests, self.vmax, self.level)

    # -- cohort ---------------------------------------------------------------------------------------------------

    def _cohort(self) -> dict[str, Any]:
        cohort = self.source.part("cohort")
        counts = cohort.part("n")
        order = cohort.texts("order") or list(counts.values)
        sizes = [(name, counts.need(name, int)) for name in order if name in counts.values]
        return {
            "n": sizes, "total": sum(n for _, n in sizes), "covariates": methods.named(cohort.texts("covariates")),
            "others": findings.left_out(cohort), **{key: cohort.get(key, "") for key in ("table", "group")},
            **{key: methods.plain(cohort.get(key, "")) for key in ("subset", "reference")},
        }  # fmt: skip

    def _design(self) -> dict[str, Any] | None:
        part = self.source.part("design")
        path = part.file("matrix")
        if path is None:
            return None
        with part.reading("matrix"):
            matrix = files.read_named_matrix(path)
        names = list(matrix.column_names) or part.texts("columns") or self._columns(matrix.values.shape[1])
        if len(names) != matrix.values.shape[1]:
            raise part.error("columns", f"has {len(names)} names; {path} has {matrix.values.shape[1]} columns")
        shown: dict[str, Any] = {"picture": figures.design_matrix(matrix.values, names), "contrasts": None}
        path = part.file("contrasts")
        if path is not None:
            with part.reading("contrasts"):
                contrasts = files.read_named_matrix(path)
                if contrasts.values.shape[1] != len(names):
                    raise FileError(f"{path} has {contrasts.values.shape[1]} columns; the design has {len(names)}")
            shown["contrasts"] = contrast_table(contrasts, names)
        return shown

    def _columns(self, count: int) -> list[str]:
        """Names of the columns of a design that has none: groups and covariates, if that is how many there are."""
        cohort = self.source.part("cohort")
        names = [*cohort.texts("order"), *cohort.texts("covariates")]
        return names if len(names) == count else [f"column {i}" for i in range(1, count + 1)]

    def _checks(self) -> list[dict[str, str]]:
        parts = self.source.parts("checks")
        return [{"what": part.need("what", str), "kind": part.get("kind", "info")} for part in parts]

    @property
    def _groups_title(self) -> str:
        """What tables of groups are together: of one group, they compare nothing."""
        orders = [methods.beside(part).get("order", ()) for part in self.source.parts("groups")]
        alone = bool(orders) and all(len(order) == 1 for order in orders)
        return "Descriptions" if alone else "Group comparisons"

    # -- tables ---------------------------------------------------------------------------------------------------

    def _tables(
        self,
        part: Contents,
        key: str,
        id: str,
        caption: str,
        explained: Mapping[str, str],
        log: tables.Transforms = (),
        units: Mapping[str, str] | None = None,
    ) -> list[Table]:
        """The tables of a file that a key names; none where it names none. `log`, `units`: see `tables.tables_of`."""
        path = part.file(key)
        if path is None:
            return []
        with part.reading(key):
            return tables.tables_of(
                f"{id}-{key}", caption, path, level=self.level, explained=explained, log=log,
                units=self.units if units is None else units,
            )  # fmt: skip

    def _rows(self, part: Contents, key: str, needed: Sequence[str] = ()) -> Rows:
        """Rows of a file that a key names; none where it names none."""
        path = part.file(key)
        if path is None:
            return []
        with part.reading(key):
            names, rows = tables.read_rows(path)
            for name in needed:
                if name not in names:
                    raise FileError(f"{path} has no column {name!r}")
        return rows

    def _groups(self) -> list[Group]:
        sections = []
        for number, part in enumerate(self.source.parts("groups")):
            title, about, id = part.need("title", str), methods.beside(part), f"groups-{number}"
            alone = "description" in about
            of = [
                self._tables(part, "demographics", id, f"{title}: description",
                             tables.explained_columns(about, "demographics")),
                self._tables(part, "table", id, f"{title}: {'description' if alone else 'analysis of covariance'}",
                             tables.explained_columns(about, "description" if alone else "ancova")),
                self._tables(part, "pairs", id, f"{title}: pairs of groups", tables.explained_columns(about, "pairs")),
            ]  # fmt: skip
            main, more = [t for each in of for t in each[:1]], [t for each in of for t in each[1:]]
            sections.append(Group(title, main, more, [], methods.plain(str(about.get("subset") or ""))))
        return [*sections, *self._csf(), *self._coefficients()]

    def _coefficients(self) -> list[Group]:
        """How differences depend on the coefficients of the model; none without such a table."""
        part = self.source.part("coefficients")
        if not part.get("table", ""):
            return []
        about = methods.beside(part)
        share, draws = about.get("relative_standard_error"), about.get("draws", 0)
        errors = "standard errors of their model" if share is None else f"standard error {100 * share:g} %"
        untransformed = methods.of_untransformed(self.source)
        caption = f"Differences with {draws} sets of coefficients, {errors}{untransformed}"
        found = self._tables(part, "table", "coefficients", caption, tables.explained_columns(about, "dependence"))
        main = [table for table in found[:1] if table.rows]
        return [Group("Dependence on the coefficients", main, found[1:], [])] if main else []

    def _csf(self) -> list[Group]:
        """Both references in CSF side by side; none if the maps are not referenced."""
        part = self.source.part("csf")
        if not part.get("comparison", ""):
            return []
        about, tables_of = methods.beside(part), []
        untransformed = methods.of_untransformed(self.source)
        captions = {
            "sensitivity": f"Differences with either reference{untransformed}",
            "comparison": "Mean in CSF",
        }
        for key, caption in captions.items():
            units = self.units_of_maps if key == "comparison" else None
            explained = tables.explained_columns(about, key)
            tables_of.append(self._tables(part, key, "csf", caption, explained, units=units))
        main = [table for of in tables_of for table in of[:1] if table.rows]
        return [
            Group("Sensitivity to the CSF reference", main, [table for of in tables_of for table in of[1:]], [])
        ]

    def _of_groups(self) -> list[Finding]:
        order, parts = self.source.part("cohort").texts("order"), self.source.parts("groups")
        group_findings = [
            findings.of_group_table(
                part.need("title", str),
                self._rows(part, "table"),
                methods.beside(part).get("order") or part.texts("order") or order,  # a table may have other groups
                self.level,
            )
            for part in parts
        ]
        return [each for each in group_findings if each]

    def _models(self) -> list[Group]:
        sections = []
        for number, part in enumerate(self.source.parts("models")):
            title, about, id = part.need("title", str), methods.beside(part), f"models-{number}"
            what = MODELS.get(part.get("kind", ""), "models")
            recorded = methods.Recorded(title, about)
            options = recorded.options()
            log, subset = recorded.transforms(), methods.plain(str(options.get("subset") or ""))
            main = self._tables(part, "table", id, f"{title}: {what}", tables.explained_columns(about, ""), log)
            explained = tables.explained_columns(about, "_coefficients")
            coefficients = self._tables(part, "coefficients", id, f"{title}: coefficients", explained, log)
            extra = [*coefficients, *main[1:]]
            for key, caption in (("diagnostics", "diagnostics"), ("ladder", "ladder of powers")):
                columns = tables.explained_columns(about, f"_{key}")
                extra += self._tables(part, key, id, f"{title}: {caption}", columns)
            main = [*main[:1], *self._tables(part, "trial", id, f"{title}: participants that a trial needs",
                                             tables.explained_columns(about, "_trial"))]  # fmt: skip
            if part.get("kind", "") == "correlation":
                matrix = self._matrix(part, log, bool(options.get("given")))
                sections.append(Group(title, main, extra, [], subset, matrix))
            else:
                sections.append(Group(title, main, extra, self._plots(part, log), subset, self._checks_of(part)))
        return sections

    def _of_models(self) -> list[Finding]:
        model_findings = []
        for part in self.source.parts("models"):
            title, kind = part.need("title", str), part.get("kind", "")
            if kind == "regression":
                log = methods.Recorded(title, methods.beside(part)).transforms()
                model_findings.append(findings.of_regression(title, self._rows(part, "table"), self.level, log))
        return [each for each in model_findings if each]

    def _plots(self, part: Contents, log: tables.Transforms) -> list[Picture]:
        """Plots of outcome and predictor, adjusted for the preceding blocks; one per model."""
        rows = self._rows(part, "data", ("model", "role", "variable", "residual"))
        models: dict[str, Rows] = {}
        for row in rows:
            models.setdefault(row["model"], []).append(row)
        with part.reading("data"):
            pictures = [_added_variable(of, log) for of in models.values()]
        return [picture for picture in pictures if picture]

    def _checks_of(self, part: Contents) -> list[Picture]:
        """Residuals, quantiles and Cook's distances of every linear model."""
        models: dict[str, dict[str, list[float]]] = {}
        for row in self._rows(part, "data", ("model", "role", "value")):
            if row["role"] in ("outcome", "fitted", "studentised", "cook"):
                of = models.setdefault(row["model"], {})
                of.setdefault(row["role"], []).append(tables.number(row["value"]))
        return [
            figures.diagnostics(
                {role: np.array(values) for role, values in of.items()}, tables.variable_name(model)
            )
            for model, of in models.items()
            if "cook" in of
        ]

    def _matrix(self, part: Contents, log: tables.Transforms, partial: bool) -> list[Picture]:
        """Scatter plots of all pairs of a table of correlations, side by side."""
        pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
        rows = self._rows(part, "data", ("x", "y", "residual_x", "residual_y", "value_x", "value_y"))
        ranks = any("spearman" in row.get("method", "") for row in self._rows(part, "table"))
        kind = "residual" if partial or ranks else "value"
        for row in rows:
            names = tables.analysed_name(row["x"], log), tables.analysed_name(row["y"], log)
            values = tables.number(row[f"{kind}_x"]), tables.number(row[f"{kind}_y"])
            pairs.setdefault(names, []).append(values)
        if not pairs:
            return []
        what = {
            (False, False): "",
            (True, False): "residuals given the covariates",
            (False, True): "ranks, centred",
        }
        note = what.get((partial, ranks), "residuals of ranks given the covariates")
        counted = [(tables.number(row["n"]), tables.number(row["df"])) for row in self._rows(part, "table")]
        spent = int(counted[0][0] - 2 - counted[0][1]) if counted else 0
        return [figures.scatter_matrix({k: np.array(v) for k, v in pairs.items()}, note, spent)]

    def _regions(self) -> dict[str, Any] | None:
        """What was measured where."""
        rows = self._rows(self.source, "rois", ("participant_id", "structure", "map"))
        if not rows:
            return None
        participants, structures, maps = (
            list(dict.fromkeys(row[name] for row in rows)) for name in ("participant_id", "structure", "map")
        )
        return {
            "participants": len(participants), "file": self.source.get("rois", ""),
            "structures": methods.named(structures), "maps": methods.named(maps),
        }  # fmt: skip

    # -- z-scores -------------------------------------------------------------------------------------------------

    def _scores(self) -> list[Picture]:
        """Box plots of z-scores, one for each kind of measure."""
        part, cohort = self.source.part("zscores"), self.source.part("cohort")
        rows = self._rows(part, "table", ("participant_id",))
        if not rows:
            return []
        group = cohort.get("group", "")
        with part.reading("table"):
            members = self._members(group, rows)
        order = cohort.texts("order") or sorted(set(members.tolist()))
        kinds: dict[str, dict[str, dict[str, Float64]]] = {}
        for name in rows[0]:
            if name not in ("participant_id", group):
                measure, structure = tables.measure_and_structure(name)
                values = np.array([tables.number(row[name]) for row in rows])
                of = {level: values[(members == level) & np.isfinite(values)] for level in order}
                kinds.setdefault(measure or "z-scores", {})[structure] = of
        titles = {test.map: test.title for test in self.tests}
        p = self._p_of_variables()
        return [
            figures.box_plots(
                titles.get(measure, measure),
                values,
                {name: p.get((measure if measure != "z-scores" else "", name), 1.0) for name in values},
            )
            for measure, values in kinds.items()
        ]

    def _p_of_variables(self) -> dict[tuple[str, str], float]:
        """p of the groups' differences in the tables of everybody, by measure and structure; corrected if it is."""
        cohort, known = self.source.part("cohort"), dict[tuple[str, str], float]()
        order, group = cohort.texts("order"), cohort.get("group", "")
        for part in self.source.parts("groups"):
            about = methods.beside(part)
            is_other = part.texts("order") not in ([], order) or (about.get("group") or group) != group
            if is_other or about.get("subset") or "description" in about:
                continue
            for row in self._rows(part, "table"):
                p = [tables.number(row.get(column, "")) for column in ("p_corrected", "p")]
                known.setdefault(tables.measure_and_structure(row["variable"]), p[0] if p[0] == p[0] else p[1])
        return known

    def _flow(self) -> Picture | None:
        """Who is in the study, and in each of its analyses."""
        cohort = self.source.part("cohort")
        counts, of, out = cohort.part("n"), cohort.part("of"), cohort.part("left_out")
        order = [name for name in cohort.texts("order") if name in counts.values]
        rows = of.get("rows", 0)
        if not order or not rows:
            return None
        false, unknown = out.get("subset", 0), out.get("undecided", 0)
        reasons = [f"condition not fulfilled: {false}"] * bool(false) + [f"value missing: {unknown}"] * bool(
            unknown
        )
        excluded = "\n".join([f"excluded: {false + unknown}", *reasons]) if reasons else ""
        lines = [f"voxelwise tests: {sum(counts.need(name, int) for name in order)}"] if self.tests else []
        for kind in ("groups", "models"):
            for part in self.source.parts(kind):
                sizes = [tables.number(row.get("n", "")) for row in self._rows(part, "table")]
                sizes = [size for size in sizes if size == size]
                if sizes:
                    low, high = int(min(sizes)), int(max(sizes))
                    lines.append(f"{part.need('title', str)}: {low}{f' to {high}' if high > low else ''}")
        groups = [f"{name}: {counts.need(name, int)}" for name in order]
        top = f"rows of {of.get('table', '') or 'the table'}: {rows}"
        return figures.flow_chart(top, excluded, groups, [figures.short(line, 80) for line in lines])

    def _members(self, group: str, rows: Rows) -> NDArray[np.str_]:
        """Group of each row, from the table itself or from that of the participants."""
        if not group:
            return np.full(len(rows), self.source.part("cohort").texts("order")[0])
        if group in rows[0]:
            return np.array([row[group].strip() for row in rows])
        cohort = self.source.part("cohort")
        path = cohort.located("table", cohort.need("table", str))
        table = files.read_table(path, ["participant_id", group])
        known = dict(zip(table["participant_id"], table[group].str.strip()))
        for row in rows:
            if row["participant_id"] not in known:
                raise FileError(f"{path} has no participant {row['participant_id']}")
        return np.array([known[row["participant_id"]] for row in rows])

    # -- the record -----------------------------------------------------------------------------------------------

    def _record(self) -> dict[str, Any]:
        source, config = self.source, self.source.part("config")
        path = config.get("path", "")
        return {
            "command": source.get("command", ""), "config": config.get("text", ""), "path": Path(path).name,
            "stages": listings.stage_table(source), "files": listings.file_table(source, self.links),
        }  # fmt: skip


MODELS = {
    "regression": "blocks of the models",
    "correlation": "correlations",
    "samplesize": "sample sizes",
    "mixed": "change per year",
}
"""Kind of a model, and what its table holds."""


def _by_map(shown: Sequence[Shown]) -> list[tuple[str, str, list[Shown]]]:
    """Title, unit and tests of each map."""
    tests_of: dict[str, list[Shown]] = {}
    for each in shown:
        tests_of.setdefault(each.test.map, []).append(each)
    return [(of[0].test.title, of[0].test.unit, of) for of in tests_of.values()]


def _added_variable(rows: Sequence[Mapping[str, str]], log: tables.Transforms) -> Picture | None:
    """Plot of a model whose last block is one predictor."""
    with_residual = [row for row in rows if not np.isnan(tables.number(row["residual"]))]
    predictors = {row["variable"] for row in with_residual if row["role"] == "predictor"}
    outcome = [row for row in with_residual if row["role"] == "outcome"]
    if len(predictors) != 1 or not outcome:
        return None
    x, y = (
        np.array([tables.number(row["residual"]) for row in with_residual if row["role"] == role])
        for role in ("predictor", "outcome")
    )
    if len(x) != len(y):
        raise FileError(f"{rows[0]['model']} has {len(x)} values of its predictor and {len(y)} of its outcome")
    before = {row["variable"] for row in rows if row["role"] == "predictor"} - predictors
    names = tables.analysed_name(predictors.pop(), log), tables.analysed_name(outcome[0]["variable"], log)
    # Before the first block, only the mean is removed.
    scale = "residual" if before else "minus its mean"
    axes = f"{names[0]}, {scale}", f"{names[1]}, {scale}"
    return figures.scatter(x, y, axes, len(before), f"{names[1]} and {names[0]}")
