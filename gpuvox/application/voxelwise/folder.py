"""The folder of a voxelwise analysis, a BIDS derivative.

====================================  ==============================================================================
``contrast-…_statmap.nii.gz``         a map, and beside it a ``.json`` that says what it is
``design.tsv``                        the model matrix, a row for each image, columns with names
``design.png``, ``design.svg``        a picture of it, and of the correlations of its columns
``contrasts.tsv``                     the tests: their weights of these columns
``participants.tsv``                  the rows of the table that are analysed, with the name of each image
``voxelwise.json``                    the record: what was read, what was tested and how, what it shows
``randomise/``                        the same as designs for ``gpuvox randomise``; with ``--fsl-names``, its maps
====================================  ==============================================================================
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox import __version__, files, participants, private
from gpuvox.application.effects import DF_OF_VOXEL, Effects, make_effects, stats_of
from gpuvox.application.findings import Finding, find, log_p, p_values
from gpuvox.application.voxelwise.analysis import VoxelwiseAnalysis
from gpuvox.application.voxelwise.combined import image_of_rows
from gpuvox.application.voxelwise.runs import Run
from gpuvox.cohort.hypotheses import Hypothesis
from gpuvox.cohort.images import CohortImages
from gpuvox.cohort.longitudinal import Longitudinal
from gpuvox.cohort.table import ID, new_column
from gpuvox.errors import FileError, InputError
from gpuvox.files import locks
from gpuvox.files.delimited import format_table
from gpuvox.files.targets import check_targets
from gpuvox.files.writing import write_json, write_text
from gpuvox.findings.map_names import MAP, OF_VOXELS, contrast_labels, map_entities, map_name
from gpuvox.grid import Grid
from gpuvox.plain import several
from gpuvox.pvalues import FALSE_DISCOVERY_RATES
from gpuvox.tables.relocate import relocated
from gpuvox.types import Float32, Float64

RECORD = "voxelwise.json"
WRITTEN = ("participants.tsv", "design.tsv", "design.png", "design.svg", "contrasts.tsv", RECORD)
"""Files of every analysis beside its maps."""
RANDOMISE = "randomise"
RUN_FILE = re.compile(
    r"([A-Za-z0-9]+_)?((t|mean|f\d*)(\.(mat|con|fts|grp)|_[\w.]+)|images\.(json|nii|hdr|img)(\.gz)?)"
)
"""Files of the runs of randomise: a record may come from others, and list anything."""
DATASET = {
    "Name": "Voxelwise permutation tests",
    "BIDSVersion": "1.10.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "gpuvox", "Version": __version__}],
}
"""``dataset_description.json``."""
CORRECTIONS = {
    "family-wise error": "family-wise error over the voxels of this test",
    "family-wise error over all tests": "family-wise error over the voxels of all tests of this analysis",
    "false discovery rate": "false discovery rate over the voxels of this test (Benjamini and Hochberg)",
    "adaptive false discovery rate": "false discovery rate over the voxels of this test (Benjamini, Krieger and "
    "Yekutieli)",
    "none": "none",
}
"""What the record of a run calls them, and what stands beside a map."""
RATES = {"bh": "false discovery rate", "bky": "adaptive false discovery rate"}
CONTRASTS = ("cope", "varcope")
"""Estimates of ``--glm_output`` from which effects are made."""
LOGP_OF_05 = 1.3010299956639813
"""−log10(0.05)."""


@dataclass(frozen=True, eq=False)
class _RunMap:
    """A map of a run of randomise, or derived from one: entities of its name, values everywhere, what it is, p."""

    stat: str
    desc: str
    values: Float32
    header: files.ImageHeader
    about: Mapping[str, Any]
    p: Float64 | None = None
    is_derived: bool = False


@dataclass(frozen=True, eq=False)
class _TestMaps:
    """Maps of a test from which its findings are taken: the statistic, and p by correction."""

    kind: str
    stat: Float32
    header: files.ImageHeader
    df: Any
    df_of_voxel: Float32 | None
    corrected: Mapping[str, Float64]
    two_sided: bool

    def finding(self, hypothesis: Hypothesis, effects: Effects) -> Finding:
        """What the test shows."""
        mask = self.stat != 0 if np.any(self.stat) else np.ones(len(self.stat), dtype=bool)
        grid = self.header.grid(mask.reshape(self.header.shape[:3], order="F"))
        inside = {desc: p[mask] for desc, p in self.corrected.items()}
        return find(
            hypothesis.name,
            self.kind,
            self.stat[mask],
            inside,
            grid,
            effects.inside(mask),
            two_sided=self.two_sided,
        )


class ResultFolder:
    """The folder of a voxelwise analysis.

    Parameters
    ----------
    out : path
        It is made if it does not exist.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.path = Path(out)
        self._made: list[Path] = []
        self._approximated: dict[tuple[str, str], Float64] = {}

    def root(self, run: Run) -> str:
        """The output root of a run of randomise."""
        return os.fspath(self.path / RANDOMISE / run.name)

    def keep_approximated(self, root: str, grid: Grid, found: Mapping[str, Float64]) -> None:
        """Keep the approximate p of a run for `finish`: of a small p, the maps of 1 − p in float32 have few digits.

        Parameters
        ----------
        root : str
            See `root`.
        grid : Grid
        found : dict of (V,) float64
            By the name of the map, without the root.
        """
        for name, values in found.items():
            everywhere = np.ones(grid.mask.size)
            everywhere[grid.index] = values
            self._approximated[root, name] = everywhere

    def prepare(self, analysis: VoxelwiseAnalysis, read: Sequence[str]) -> None:
        """Make the folder, once it is known that nothing that is read would be replaced.

        Parameters
        ----------
        analysis : VoxelwiseAnalysis
        read : sequence of path
            Files that are read, besides the images.

        Raises
        ------
        FileError
            It cannot be made or written, is a file, or holds what is read under a name that is written.
        """
        written = [self.path / name for name in WRITTEN]
        files.check_not_read(written, read)
        maps = []
        for each, label in _labels(analysis).items():
            names = [("logp", "clusterNormalisedFWEacross"), *stats_of(each, analysis.group_sizes(each))]
            maps += [os.sep + map_name(label, *entities, each.images) for entities in names]
        with self._without_empty_folders():
            self._make()
            check_targets(self.path, [os.sep + RECORD, os.sep + "design.tsv"], maps=maps)

    def _make(self) -> None:
        """Make the folders that are not there."""
        try:
            for folder in (*reversed(self.path.parents), self.path, self.path / RANDOMISE):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    self._made.append(folder)
            (self.path / RANDOMISE).mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(
                f"the folder {self.path} cannot be made: {error.strerror}", option="--out", file=self.path
            ) from error

    @contextlib.contextmanager
    def writing(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Write in the folder, which no other process does meanwhile: everything or, after an `InputError`, nothing.

        The progress of runs (tallies) stays, and so do files that were there before.
        """
        with self._without_empty_folders(), locks.output(self.path / "voxelwise", warn):
            before = self._files()
            try:
                yield
            except InputError:
                for path in self._files() - before:
                    with contextlib.suppress(OSError):
                        path.unlink()
                raise

    def _files(self) -> set[Path]:
        """Files in the folder, without the progress of runs and what locks it."""
        paths = (path for folder in (self.path, self.path / RANDOMISE) for path in folder.iterdir())
        return {path for path in paths if path.is_file() and path.suffix not in (".tally", ".lock")}

    @contextlib.contextmanager
    def _without_empty_folders(self) -> Iterator[None]:
        """Folders that were made for nothing are removed after an `InputError`."""
        try:
            yield
        except InputError:
            with contextlib.suppress(OSError):  # not empty
                while self._made:
                    self._made.pop().rmdir()
            raise

    # -- the design -------------------------------------------------------------------------------------------------

    def write_design(self, analysis: VoxelwiseAnalysis, *, keep: bool = False) -> None:
        """Write tables of rows, columns and tests, and the designs of the runs of randomise.

        Unless they are to be kept (by shards, which run at the same time), files of runs that an earlier analysis has
        left are removed first.
        """
        if not keep:
            self._remove(RANDOMISE, self._earlier("randomise_files", RUN_FILE))
        self._write_participants(analysis)
        names, ids = analysis.model.names, analysis.cohort.ids
        columns = analysis.model.voxelwise
        rows = [
            [who, *("n/a" if i in columns else _digits(value) for i, value in enumerate(row))]
            for who, row in zip(ids, analysis.model.matrix.tolist())
        ]
        write_text(self.path / "design.tsv", format_table([ID, *names], rows))
        self._draw_design(analysis)
        rows = []
        first = analysis.hypotheses[0].images
        for each in (each for each in analysis.hypotheses if each.images == first):
            for number, row in enumerate(each.weights.tolist(), start=1):
                name = f"{each.own_name} ({number})" if each.is_f else each.own_name
                rows.append([name, "F" if each.is_f else "t", *map(_digits, row)])
        write_text(self.path / "contrasts.tsv", format_table(["contrast", "statistic", *names], rows))
        for run in analysis.runs:
            self._write_run(analysis, run)

    def _draw_design(self, analysis: VoxelwiseAnalysis) -> None:
        """Write a picture of the design; voxelwise covariates have no values to show."""
        from gpuvox.findings.design_plots import design_picture  # matplotlib takes a while to load

        model = analysis.model
        shown = [i for i in range(len(model.names)) if i not in model.voxelwise]
        picture = design_picture(
            model.matrix[:, shown], [model.names[i] for i in shown], several(len(model.matrix), "row")
        )
        for extension, content in (("png", picture.png), ("svg", picture.svg)):
            with files.atomic(self.path / f"design.{extension}") as temporary:
                Path(temporary).write_bytes(content)

    def _write_run(self, analysis: VoxelwiseAnalysis, run: Run) -> None:
        root = self.root(run)
        files.write_vest(f"{root}.mat", analysis.model.matrix, names=analysis.cohort.ids)
        files.write_vest(f"{root}.con", run.contrasts, "con", names=run.names.contrasts)
        if len(run.f_tests):
            files.write_vest(f"{root}.fts", run.f_tests, "fts")
        blocks = analysis.exchangeability.blocks
        if blocks is not None and analysis.exchangeability.multi_level:
            rows = [",".join(map(str, row)) for row in blocks.tolist()]
            write_text(Path(f"{root}_blocks.csv"), "\n".join(rows) + "\n")
        elif blocks is not None:
            files.write_vest(f"{root}.grp", blocks, "grp", names=analysis.cohort.ids)
        if run.labels is not None:
            files.write_vest(f"{root}_effective.mat", run.labels)
        who = analysis.cohort.who
        participants.write_design_sidecar(root, run.names, who.ids, who.visits)

    def _write_participants(self, analysis: VoxelwiseAnalysis) -> None:
        """The rows that are analysed, with the place of each image beside this table."""
        target = self.path / "participants.tsv"
        table = analysis.cohort.text
        if os.path.isfile(analysis.cohort.origin):
            table = relocated(table, analysis.cohort.origin, target)
        for name, columns in self._columns_of_images(analysis).items():
            images = analysis.sources[name]
            table = table.assign(**{columns["column"]: self._image_cells(images, analysis.rows)})
            if images.stacked:
                volumes = [str(images.volumes[row] + 1) for row in analysis.rows]
                table = table.assign(**{columns["volume"]: volumes})
        files.write_table(target, table)

    def blocks(self, analysis: VoxelwiseAnalysis, run: Run) -> Any:
        """What ``-e`` of randomise is; multi-level blocks, for which it has no file, as an array."""
        exchangeability = analysis.exchangeability
        if exchangeability.blocks is None or exchangeability.multi_level:
            return exchangeability.blocks
        return f"{self.root(run)}.grp"

    def image_column(self, analysis: VoxelwiseAnalysis, name: str = "") -> str:
        """The column of ``participants.tsv`` that names the images of a set: that of the table, or one more."""
        return analysis.sources[name].column or new_column(analysis.cohort.text, name or "image")

    def _columns_of_images(self, analysis: VoxelwiseAnalysis) -> dict[str, dict[str, str]]:
        """Of each source: columns of ``participants.tsv`` that name the image of a row and, if it is 4D, its volume."""
        named = {
            name: images for name, images in analysis.sources.items() if not (images.combined or images.in_memory)
        }
        columns = {name: {"column": self.image_column(analysis, name)} for name in named}
        table = analysis.cohort.text.assign(**{each["column"]: "" for each in columns.values()})
        for name, images in named.items():
            if images.stacked:
                columns[name]["volume"] = new_column(table, f"{name}_volume" if name else "volume")
        return columns

    def _image_cells(self, images: CohortImages, rows: Sequence[int]) -> list[str]:
        return [
            os.path.relpath(os.path.realpath(path), os.path.realpath(self.path)) for path in images.names(rows)
        ]

    def data(self, analysis: VoxelwiseAnalysis, name: str = "") -> str:
        """What ``-i`` of randomise is: a column of ``participants.tsv``, or a 4D image, written if only some count."""
        images = analysis.sources[name]
        if images.combined or images.stacked:
            out = self.path / RANDOMISE / (f"{name}_images" if name else "images")
            return os.fspath(image_of_rows(analysis, name, out))
        return f"{self.path / 'participants.tsv'}:{self.image_column(analysis, name)}"

    # -- maps and record --------------------------------------------------------------------------------------------

    def finish(
        self, analysis: VoxelwiseAnalysis, *, fsl_names: bool, line: Sequence[str], estimates: bool = False
    ) -> list[Finding]:
        """Write the maps of all tests under their names, what they are, and the record.

        Parameters
        ----------
        analysis : VoxelwiseAnalysis
            Whose runs have been written under `root`.
        fsl_names : bool
            Randomise's own files stay.
        line : sequence of str
            The command.
        estimates : bool
            All estimates of ``--glm_output`` stay.
        """
        labels = _labels(analysis)
        earlier = self._earlier("files", MAP)
        written: list[str] = []
        findings: dict[Hypothesis, Finding] = {}
        runs = []
        for run in analysis.runs:
            root = self.root(run)
            record = files.read_json(f"{root}_randomise.json")
            contrasts = self._contrast_estimates(run)
            for test, hypothesis in run.tests:
                names, maps = self._write_test(run, test, hypothesis, labels[hypothesis], record, fsl_names)
                more, effects = self._write_effects(
                    analysis, run, hypothesis, labels, maps, next(contrasts), record
                )
                written += [*names, *more]
                findings[hypothesis] = maps.finding(hypothesis, effects)
            if not len(run.f_tests) and not (estimates or fsl_names):
                self._remove_estimates(root)
            runs.append({"run": run.name, **_without_maps(record, fsl_names)})
            if not fsl_names:
                Path(f"{root}_randomise.json").unlink()
        found = [findings[each] for each in analysis.hypotheses]
        self._remove("", earlier - set(written))
        self._write_record(analysis, labels, found, written, {"command": list(line), "runs": runs})
        return found

    def _earlier(self, key: str, ours: re.Pattern[str]) -> set[str]:
        """Files that the record of an earlier analysis in this folder lists, as far as gpuvox writes such names."""
        try:
            names = files.read_json(self.path / RECORD).get(key)
        except FileError:
            return set()
        listed = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        return {name for name in listed if ours.fullmatch(name)}

    def _remove(self, folder: str, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                (self.path / folder / name).unlink()

    def _randomise_files(self) -> list[str]:
        """Files of the runs of randomise."""
        names = (path.name for path in (self.path / RANDOMISE).iterdir() if path.suffix != ".tally")
        return sorted(name for name in names if RUN_FILE.fullmatch(name))

    def _write_test(
        self, run: Run, test: str, hypothesis: Hypothesis, label: str, record: Mapping[str, Any], keep: bool
    ) -> tuple[list[str], _TestMaps]:
        """Files of the maps of one test, and what its findings are taken from."""
        written: list[str] = []
        sources: list[Path] = []
        corrected: dict[str, Float64] = {}
        kind = "F" if hypothesis.is_f else "t"
        df_of_voxel: Float32 | None = None
        for each in self._maps_of(run, test, record):
            if each.stat == kind:
                stat, header, df = each.values, each.header, each.about["degrees_of_freedom"]
            if each.stat == "dof":
                df_of_voxel = each.values
            if each.p is not None and not each.desc.endswith("Unc"):
                corrected[each.desc] = each.p
            name = map_name(label, each.stat, each.desc, hypothesis.images)
            written += self._write_map(name, each, _sidecar(hypothesis, run, each.about, record), _has_one_df(run))
            if not keep and not each.is_derived:
                sources += files.image_files(each.header.path)
        for path in sources:
            path.unlink()
        two_sided = run.options.statistics.two_sided and not hypothesis.is_f
        return written, _TestMaps(kind, stat, header, df, df_of_voxel, corrected, two_sided)

    def _contrast_estimates(self, run: Run) -> Iterator[tuple[Float32, Float32] | None]:
        """Estimate and variance of each test of a run; None for F."""
        if len(run.f_tests):
            return repeat(None)
        return zip(*(files.read_volumes(f"{self.root(run)}_glm_{name}") for name in CONTRASTS))

    def _write_effects(
        self,
        analysis: VoxelwiseAnalysis,
        run: Run,
        hypothesis: Hypothesis,
        labels: Mapping[Hypothesis, str],
        maps: _TestMaps,
        estimates: tuple[Float32, Float32] | None,
        record: Mapping[str, Any],
    ) -> tuple[list[str], Effects]:
        """Files of the effect of a test, and the effect."""
        effects = make_effects(
            hypothesis, analysis.group_sizes(hypothesis), len(analysis.cohort), maps.stat, estimates, maps.df,
            maps.df_of_voxel,
        )  # fmt: skip
        written: list[str] = []
        for (stat, desc), values in effects.maps.items():
            about = {**_common(hypothesis, run), **effects.about[stat, desc], **_made_by(record)}
            of_effect = _RunMap(stat, desc, values, maps.header, {})
            name = map_name(labels[hypothesis], stat, desc, hypothesis.images)
            written += self._write_map(name, of_effect, about)
        return written, effects

    def _remove_estimates(self, root: str) -> None:
        """Remove the contrast estimates of a run, which are written under other names."""
        for name in CONTRASTS:
            for path in files.image_files(files.read_header(f"{root}_glm_{name}").path):
                path.unlink()

    def _maps_of(self, run: Run, test: str, record: Mapping[str, Any]) -> Iterator[_RunMap]:
        """The maps of one test that a run of randomise wrote, but for those that keep their names; and what follows."""
        for name, about in record["maps"].items():
            stem = files.split_suffix(name)[0].removeprefix(f"{run.name}_")
            entities = map_entities(stem, test) if about.get("test") == test else None
            if entities is None:
                continue
            header = files.read_header(self.path / RANDOMISE / name)
            values = next(files.read_volumes(header.path))
            if entities[0] != "logp":
                yield _RunMap(*entities, values, header, about)
                continue
            p = self._approximated.get((self.root(run), stem))
            p = p_values(values, about["permutations"]) if p is None else p
            yield _RunMap(*entities, log_p(p), header, about, p)
            if run.fdr and entities[1] in OF_VOXELS:
                q = FALSE_DISCOVERY_RATES[run.fdr](p, record["voxels"])
                more = {**about, "correction": RATES[run.fdr], "smallest_p": float(q.min())}
                yield _RunMap("logp", OF_VOXELS[entities[1]], log_p(q), header, more, q, is_derived=True)

    def _write_map(
        self, name: str, of_run: _RunMap, about: Mapping[str, Any], has_one_df: bool = True
    ) -> list[str]:
        header = of_run.header
        grid = header.grid(np.ones(header.shape[:3], dtype=bool))
        intent: tuple[str, tuple[float, ...]] = ("none", ())
        if of_run.stat == "logp":
            intent = ("log10 p value", ())
        elif of_run.stat in ("t", "F") and has_one_df:
            df = np.atleast_1d(of_run.about["degrees_of_freedom"]).astype(float).tolist()
            intent = ("t test" if of_run.stat == "t" else "f test", tuple(df))
        label = files.Label.cut(f"gpuvox {__version__} {name}", *intent)
        path = files.write_map(self.path / name, of_run.values, grid, header, label=label)
        write_json(self.path / f"{name}.json", about)
        return [path.name, *(other.name for other in files.image_files(path) if other != path), f"{name}.json"]

    def _write_record(
        self,
        analysis: VoxelwiseAnalysis,
        labels: Mapping[Hypothesis, str],
        findings: Sequence[Finding],
        written: Sequence[str],
        more: Mapping[str, Any],
    ) -> None:
        folder = os.fspath(self.path)
        of_images = self._columns_of_images(analysis)
        groups = analysis.variance_groups
        record = {
            "software": {"gpuvox": __version__, "formulaic": version("formulaic")},
            "table": analysis.cohort.origin,
            "rows": len(analysis.cohort),
            "rows_of_table": analysis.of_table,
            **({"subset": analysis.subset, "rows_of_subset": analysis.total} if analysis.subset else {}),
            "dropped": {
                name: " ".join(private.words(reason.split(" "), folder))
                for name, reason in analysis.dropped.reasons_by_name().items()
            },
            "model": analysis.model.formula,
            "columns": list(analysis.model.names),
            **({"voxelwise_covariates": list(analysis.covariates)} if analysis.covariates else {}),
            "notes": list(analysis.model.notes),
            "degrees_of_freedom": analysis.model.df,
            **({"longitudinal": _longitudinal(analysis.longitudinal)} if analysis.longitudinal else {}),
            "exchangeability": analysis.exchanged,
            **({"missing": "voxelwise"} if analysis.missing_voxels else {}),
            **({} if groups is None else {"variance_groups": np.bincount(groups).tolist()}),
            **({"false_discovery_rate": analysis.runs[0].fdr} if analysis.runs[0].fdr else {}),
            "tests": [_test_record(*each, labels, analysis) for each in zip(analysis.hypotheses, findings)],
            "images": {name: of_images[name] for name in analysis.sets if name in of_images},
            **more,
            "files": sorted(written),
            "randomise_files": self._randomise_files(),
        }
        write_json(self.path / "dataset_description.json", DATASET)
        write_json(self.path / RECORD, private.record(record, folder))


def _labels(analysis: VoxelwiseAnalysis) -> dict[Hypothesis, str]:
    """The label of each test in names of files; a test has the same label whatever the images."""
    names = list(dict.fromkeys(each.own_name for each in analysis.hypotheses))
    labels = dict(zip(names, contrast_labels(names)))
    return {each: labels[each.own_name] for each in analysis.hypotheses}


def _test_record(
    hypothesis: Hypothesis, finding: Finding, labels: Mapping[Hypothesis, str], analysis: VoxelwiseAnalysis
) -> dict[str, Any]:
    """What the record says of a test."""
    return {
        "name": hypothesis.name,
        "test": hypothesis.text,
        "label": labels[hypothesis],
        **({"images": hypothesis.images} if hypothesis.images else {}),
        "statistic": "F" if hypothesis.is_f else "t",
        "meaning": hypothesis.sentence,
        "weights": _weights(hypothesis, analysis),
        "finding": asdict(finding),
    }


def _longitudinal(how: Longitudinal) -> dict[str, Any]:
    """What the record says of images that are made of several visits."""
    return {**asdict(how), "sentence": how.sentence}


def _digits(value: float) -> str:
    """A number that is read back bit by bit."""
    return repr(value).removesuffix(".0")


def _weights(hypothesis: Hypothesis, analysis: VoxelwiseAnalysis) -> list[dict[str, float]]:
    names = analysis.model.names
    return [{name: value for name, value in zip(names, row) if value} for row in hypothesis.weights.tolist()]


def _without_maps(record: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """The record of a run, in that of the analysis; without the names of maps that are not there."""
    return dict(record) if keep else {key: value for key, value in record.items() if key not in ("maps", "files")}


def _has_one_df(run: Run) -> bool:
    """Whether all voxels have the same degrees of freedom, which headers can say."""
    return not run.options.missing_voxels and not run.options.variance_groups


def _sidecar(
    hypothesis: Hypothesis, run: Run, about: Mapping[str, Any], record: Mapping[str, Any]
) -> dict[str, Any]:
    """What stands beside a map."""
    content = _common(hypothesis, run) | {
        "Tail": about.get("tail"),
        "Scale": "-log10(p)" if about["scale"] == "1-p" else "statistic",
    }
    if about["scale"] == "1-p":
        content |= {
            "Correction": CORRECTIONS[about["correction"]],
            "Permutations": about["permutations"],
            **(
                {"Approximation": about["approximation"]}
                if "approximation" in about
                else {"SmallestPossibleP": about["smallest_possible_p"]}
            ),
            "SmallestP": about["smallest_p"],
            "ValueOfP05": LOGP_OF_05,
        }
    else:
        df = about.get("degrees_of_freedom") if _has_one_df(run) else DF_OF_VOXEL
        content |= {"DegreesOfFreedom": df}
    return content | _made_by(record)


def _common(hypothesis: Hypothesis, run: Run) -> dict[str, Any]:
    """The test of a map."""
    return {
        "Contrast": hypothesis.own_name,
        **({"Images": hypothesis.images} if hypothesis.images else {}),
        "Test": hypothesis.text,
        "Description": hypothesis.sentence,
        "Statistic": "F" if hypothesis.is_f else "t",
        "Columns": list(run.names.evs),
        "Weights": hypothesis.weights.tolist(),
    }


def _made_by(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"Seed": record["seed"], "Software": f"gpuvox {__version__}"}
