"""The inputs of a study: participants, maps, comparisons, and the names of what will be measured."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.cohort.table import Cohort
from gpuvox.errors import FileError
from gpuvox.findings.labels import read_regions
from gpuvox.qmri import DEFAULT_MODEL
from gpuvox.study.measures import rois, volumetry
from gpuvox.study.pipeline.config import IRONMYELIN, Config, Map
from gpuvox.study.pipeline.hypotheses import Hypotheses, RunOfTests, Tested, compare_groups, test_words
from gpuvox.study.statistics.groups import EVERYONE
from gpuvox.tables.columns import complete, require
from gpuvox.tables.conditions import LeftOut, left_out, select
from gpuvox.tables.reading import MISSING, is_missing, labels, typed
from gpuvox.tissue_models import LinearModel

REGION_IMAGES = ("labels", "jacobian", "lesions")


@dataclass(frozen=True)
class Comparison:
    """A map, and what is tested of it.

    Attributes
    ----------
    map : str
    run : RunOfTests
    test : Tested
    """

    map: str
    run: RunOfTests
    test: Tested

    @property
    def name(self) -> str:
        """``iron_MS_gt_HC``."""
        return f"{self.map}_{self.test.name}"

    @property
    def root(self) -> str:
        """Root of the names of its run, in the results: ``voxelwise/iron``."""
        return self.run.of(f"voxelwise/{self.map}")


@dataclass(frozen=True, eq=False)
class StudyInputs:
    """The inputs of a study, read from the files that its configuration names.

    Attributes
    ----------
    config : Config
    line : tuple of str
        The command, for the record.
    """

    config: Config
    line: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """The file of the table of participants."""
        return self.config.file(self.config.study.table)

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """Participants of the study, with cells as text.

        Raises
        ------
        FileError
            A column is missing, a group is empty, or a participant belongs to none of the groups.
        """
        groups, path = self.config.groups, self.table
        chosen = self.everyone[self.is_included].reset_index(drop=True)
        columns = typed(chosen)
        if self.has_groups:
            self._check_members(chosen, labels(columns[groups.column]))
        with self.config.reading(("groups", "covariates")):
            complete(columns, groups.covariates, path)
        return chosen

    def _check_members(self, chosen: pd.DataFrame, members: pd.Series) -> None:
        """Raise `FileError` if a participant is in no group, or a group has no two participants."""
        groups, path = self.config.groups, self.table
        others = chosen[~members.isin(groups.order)]
        if len(others):
            who, value = others["participant_id"].iloc[0], others[groups.column].iloc[0]
            raise self.config.error(
                ("groups", "order"),
                f"{who} has {value!r} in column {groups.column} of {path}; expected {' or '.join(groups.order)} "
                "(groups.subset excludes others)",
            )
        for name in groups.order:
            if (members == name).sum() < 2:
                raise self.config.error(
                    ("groups", "order"), f"fewer than two participants of {path} have {groups.column} {name!r}"
                )

    @property
    def has_groups(self) -> bool:
        """Whether a column has the group of each participant; otherwise everybody is in one group."""
        return bool(self.config.groups.order)

    @property
    def levels(self) -> tuple[str, ...]:
        """The groups."""
        return self.config.groups.order or (EVERYONE,)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two groups."""
        return list(combinations(self.config.groups.order, 2))

    @cached_property
    def everyone(self) -> pd.DataFrame:
        """The whole table, with cells as text."""
        with self.config.reading(("study", "table")):
            return files.read_table(self.table, ["participant_id"])

    @cached_property
    def is_included(self) -> NDArray[np.bool_]:
        """(rows,) Whether each row of the table is in the study."""
        groups, columns = self.config.groups, typed(self.everyone)
        column = [groups.column] if self.has_groups else []
        for key, names in (("column", column), ("covariates", groups.covariates)):
            with self.config.reading(("groups", key)):
                require(columns, names, self.table)
        with self.config.reading(("groups", "subset")):
            return select(columns, groups.subset)

    @cached_property
    def excluded(self) -> LeftOut:
        """Rows of the table that the subset excludes."""
        return left_out(typed(self.everyone), self.config.groups.subset)

    @cached_property
    def columns(self) -> pd.DataFrame:
        """The same with numeric columns converted."""
        return typed(self.cohort)

    @cached_property
    def members(self) -> pd.Series:
        """The group of each participant, as text."""
        if not self.has_groups:
            return pd.Series(EVERYONE, index=self.columns.index, dtype=str)
        return labels(self.columns[self.config.groups.column])

    @cached_property
    def hypotheses(self) -> Hypotheses:
        """What is tested in every voxel.

        Raises
        ------
        FileError
            The configuration names a test that cannot be made.
        """
        section, groups = self.config.voxelwise, self.config.groups
        assert section is not None
        if section.in_words:
            with self.config.reading(("voxelwise",)):
                found = test_words(Cohort(self.cohort, self.table), groups, section)
        else:
            with self.config.reading(("groups", "covariates")):
                found = compare_groups(self.columns, groups)
        if section.against and not any(run.is_mean for run in found.runs):
            raise self.config.error(("voxelwise", "against"), "is for tests of a mean, and there is none")
        return found

    @property
    def reference(self) -> str:
        """Condition that the reference group fulfils; everybody does if there are no groups."""
        groups = self.config.groups
        if groups.reference:
            return groups.reference
        if not self.has_groups:
            return "participant_id != ''"
        column, last = self.columns[groups.column], self.levels[:2][-1]
        value = last if pd.api.types.is_numeric_dtype(column) else repr(last)
        return f"`{groups.column}` == {value}"

    @cached_property
    def maps(self) -> dict[str, Map]:
        """Maps of the study: image, title, unit.

        Raises
        ------
        FileError
            The configuration names a map that does not exist.
        """
        maps: dict[str, Map] = {}
        if self.config.ironmyelin is not None:
            content = ("jacobian" in self.cohort.columns) * ("ironmass", "myelinmass")
            for name in ("iron", "myelin", *content):
                title, unit = IRONMYELIN[name]
                unit = unit.replace("mg/kg", self.units["iron"])
                unit = unit.replace("volume fraction", self.units["myelin"] or "volume fraction")
                maps[name] = Map(image=self.path(f"maps/{name}"), title=title, unit=unit)
        for name, settings in self.config.maps.items():
            # Columns are stacked; if the subset excludes participants, the volumes of the others are copied.
            is_made = name in self.stacked or f"maps/{name}" in self.copied
            image = self.path(f"maps/{name}") if is_made else self.config.file(settings.image)
            maps[name] = Map(image=image, title=settings.title or name, unit=settings.unit)
        for section in ("voxelwise", "rois"):
            selected = getattr(getattr(self.config, section), "maps", ())
            for name in selected:
                if name not in maps:
                    raise self.config.error((section, "maps"), f"names {name!r}; there are {', '.join(maps)}")
        return maps

    @cached_property
    def stacked(self) -> dict[str, str]:
        """Map → column of the table with the image of each participant, which are stacked to a 4D image."""
        maps = {name: settings.image for name, settings in self.config.maps.items()}
        return {name: image for name, image in maps.items() if image in self.cohort.columns}

    @cached_property
    def copied(self) -> dict[str, str]:
        """Image in the results → image of all rows, from which the volumes of the study's participants are copied."""
        if self.is_included.all():
            return {}
        originals = {
            f"maps/{name}": self.config.file(settings.image)
            for name, settings in self.config.maps.items()
            if name not in self.stacked
        }
        for kind in REGION_IMAGES:
            image = self._region_image(kind)
            if image and image not in self.cohort.columns:
                with self.config.reading(("rois", kind)):
                    if files.read_header(image).shape[3] > 1:
                        originals[f"regions/{kind}"] = image
        return originals

    def region_image(self, kind: str) -> str:
        """Labels, Jacobians or lesions of the study: a column of the table or an image; empty for none."""
        return self.path(f"regions/{kind}") if f"regions/{kind}" in self.copied else self._region_image(kind)

    def _region_image(self, kind: str) -> str:
        settings, template = self.config.rois, self.config.template
        value = getattr(settings, kind, "")
        if settings is not None and kind == "labels" and template is not None:
            value = value or template.labels
        return value if value in self.cohort.columns else self.config.file(value)

    @cached_property
    def measured(self) -> list[str]:
        """Names of the measures of regions; some may have no values."""
        settings = self.config.rois
        if settings is None:
            return []
        where = ("rois", "names") if settings.names else ("template", "names")
        with self.config.reading(where):
            regions = read_regions(self.region_names or None)
        with self.config.reading(("rois", "merge")):
            structures = rois.members(regions, settings.merge)
        measures = [".volume", *([".volume_normalised"] if settings.head_size else [])]
        masses = (".mass", *([".mass_raw"] if settings.head_size else []))
        maps = settings.maps or tuple(self.maps)
        both = {"iron", "myelin"} <= set(maps) and rois.has_shares(self.model)
        shares = [f".{name}" for name in rois.SHARES] if both else []
        for name in maps:
            kinds = ("", ".median", ".sd", *(masses if name in rois.masses_of(self.model) else ()))
            kinds += tuple(shares) if name == "iron" else ()
            measures += [f".{name}{kind}" for kind in kinds]
        places = [f"{side}.{name}" if side in ("left", "right") else name for name, side in structures]
        # A structure with sides and one without have the same name if both sides are combined.
        return list(dict.fromkeys(place + measure for place in places for measure in measures))

    @property
    def ironmyelin_options(self) -> dict[str, Any]:
        """The options of ``[ironmyelin]``, as the command takes them."""
        settings = self.config.ironmyelin
        assert settings is not None
        options = asdict(settings)
        del options["coefficient_error"]
        options |= {name: self.config.file(getattr(settings, name)) for name in ("mask", "model")}
        return options | {name: options[name] or None for name in ("from_field", "to_field")}

    @cached_property
    def model(self) -> LinearModel:
        """The tissue model of ``[ironmyelin]``."""
        with self.config.reading(("ironmyelin", "model")):
            return LinearModel.read(self.model_file or DEFAULT_MODEL)

    @property
    def model_file(self) -> str:
        """The file of the tissue model; empty for the default."""
        section = self.config.ironmyelin
        return self.config.file(section.model) if section is not None else ""

    @property
    def region_names(self) -> str:
        """The file with the names of regions; empty if there is none."""
        sections = (self.config.rois, self.config.template)
        return self.config.file(next((each.names for each in sections if each is not None and each.names), ""))

    @property
    def units(self) -> dict[str, str]:
        """Units of iron and of myelin in the tissue model; none of a fraction."""
        iron, myelin = self.model.iron_units, self.model.myelin_units
        return {"iron": iron, "myelin": "" if myelin in rois.FRACTION else myelin}

    @property
    def image_kinds(self) -> tuple[str, ...]:
        """Columns of images of which iron and myelin are made."""
        return (*self.model.names, "csf", "jacobian")

    @property
    def has_underlay(self) -> bool:
        """Whether there is anything to show below maps: an image, R1, or a map."""
        template = self.config.template
        return template is not None and bool(template.underlay or "r1" in self.cohort.columns or self.maps)

    @property
    def volume_tables(self) -> dict[str, str]:
        """Tables of volumes that other software measured, by name."""
        return {name: self.config.file(each.file) for name, each in self.config.volumes.items() if each.file}

    @property
    def volume_columns(self) -> dict[str, str]:
        """Columns that name the file of such volumes of each participant, by name."""
        return {name: each.column for name, each in self.config.volumes.items() if each.column}

    @property
    def volume_sources(self) -> dict[str, tuple[str, ...]]:
        """Files of volumes that other software measured, by name."""
        files_of: dict[str, tuple[str, ...]] = {name: (path,) for name, path in self.volume_tables.items()}
        for name, column in self.volume_columns.items():
            with self.config.reading(("volumes", name, "column")):
                require(self.cohort, [column], self.table)
            cells = self.cohort[column]
            files_of[name] = tuple(
                path for path, cell in zip(self.paths(column), cells) if not is_missing(cell.strip())
            )
        return files_of

    @cached_property
    def volumes(self) -> list[str]:
        """Names of the volumes that other software measured."""
        if not self.config.volumes:
            return []
        table = self.cohort.reset_index(drop=True)
        with self.config.reading(("volumes",)):
            volumes = volumetry.gathered(table, self.table, self.volume_tables, self.volume_columns)
        return [str(name) for name in volumes.columns[1:]]

    def path(self, name: str) -> str:
        """A file of the results."""
        return os.fspath(self.config.out / name)

    @property
    def compares_csf(self) -> bool:
        """Whether the references in CSF are compared: maps are referenced to it, and there are groups."""
        section = self.config.ironmyelin
        return section is not None and section.reference != "none" and bool(self.pairs)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every map that is tested, with each test."""
        section = self.config.voxelwise
        if section is None:
            return []
        names = section.maps or tuple(self.maps)
        for name in section.against:
            if name not in names:
                raise self.config.error(("voxelwise", "against"), f"names {name!r}; there are {', '.join(names)}")
        return [
            Comparison(name, run, test) for name in names for run in self.hypotheses.runs for test in run.tests
        ]

    def images(self, column: str) -> list[str]:
        """Images in a column of the table, relative to the current folder."""
        for name, value in zip(self.cohort["participant_id"], self.cohort[column].str.strip()):
            if value in MISSING:
                raise FileError(f"{self.table} has no {column} of {name}")
        return self.paths(column)

    def paths(self, column: str) -> list[str]:
        """The same, but cells may be missing."""
        folder = Path(self.table).parent
        return [os.fspath(folder / value.strip()) for value in self.cohort[column]]
