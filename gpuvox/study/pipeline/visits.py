"""The visits of a study's participants: a table with a row for each, beside that of the participants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.ironmyelin import Command, needed_kinds
from gpuvox.plain import several
from gpuvox.study.pipeline.config import Mixed
from gpuvox.study.pipeline.config import Visits as Section
from gpuvox.study.pipeline.inputs import REGION_IMAGES, StudyInputs
from gpuvox.tables.columns import fitting, require
from gpuvox.tables.reading import read_visit_rows, typed, with_columns

ID = "participant_id"


@dataclass(frozen=True, eq=False)
class Visits:
    """The visits of the participants in the study.

    Attributes
    ----------
    inputs : StudyInputs
    section : Section
    """

    inputs: StudyInputs
    section: Section

    @property
    def path(self) -> str:
        """The file of the table."""
        return self.inputs.config.file(self.section.table)

    @cached_property
    def all_rows(self) -> pd.DataFrame:
        """The whole table, with cells as text."""
        with self.inputs.config.reading(("visits", "table")):
            return read_visit_rows(self.path, self.section.column, [self.section.time])

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The visits of the study's participants, with the columns of both tables.

        What the table of visits does not say is taken from that of the participants, except images.

        Raises
        ------
        FileError
            No participant of the study has a visit.
        """
        own, people = self.all_rows, self.inputs.cohort.set_index(ID)
        chosen = own[own[ID].isin(people.index)].reset_index(drop=True)
        if not len(chosen):
            raise self.inputs.config.error(
                ("visits", "table"), f"{self.path} has no {ID} of {self.inputs.table}, such as {people.index[0]}"
            )
        added = [name for name in people.columns if name not in (*own.columns, *self.image_columns)]
        return with_columns(chosen, people.loc[chosen[ID], added].reset_index(drop=True))

    @property
    def image_columns(self) -> list[str]:
        """Columns that name images."""
        config = self.inputs.config
        regions = [getattr(config.rois, kind) for kind in REGION_IMAGES] if config.rois is not None else []
        names = [*self.inputs.image_kinds, *(each.image for each in config.maps.values()), *filter(None, regions)]
        return list(dict.fromkeys(names))

    def images(self, column: str) -> list[str]:
        """The images that a column names, of each row."""
        folder = os.path.dirname(self.path)
        return [os.path.join(folder, cell.strip()) for cell in self.rows[column]]

    @property
    def left_out(self) -> list[str]:
        """Whose visits are not part of the study, and who has none."""
        known, seen = set(self.inputs.cohort[ID]), set(self.all_rows[ID])
        others, none = len(seen - known), len(known - seen)
        lines = (
            [f"visits of {several(others, 'participant')} who are not in the study are left out"] if others else []
        )
        return [
            *lines,
            *([f"{several(none, 'participant')} of the study without a visit in {self.path}"] if none else []),
        ]

    @property
    def has_ironmyelin(self) -> bool:
        """Whether iron and myelin of the visits are computed."""
        return self.inputs.config.ironmyelin is not None and set(self.inputs.model.names) <= set(self.rows.columns)

    @cached_property
    def maps(self) -> dict[str, str]:
        """Maps of all visits: those of iron and myelin in the results, and columns of images."""
        names = [name for name in self.inputs.maps if name not in self.inputs.config.maps]
        content = {"ironmass", "myelinmass"} if "jacobian" not in self.rows.columns else set()
        made = {name: self.inputs.path(f"visits/{name}") for name in names if name not in content}
        found = made if self.has_ironmyelin else {}
        columns = {name: each.image for name, each in self.inputs.config.maps.items()}
        return found | {name: column for name, column in columns.items() if column in self.rows.columns}

    @property
    def has_regions(self) -> bool:
        """Whether regions are measured at the visits: if there is a map, or an image of the regions, of each."""
        section = self.inputs.config.rois
        if section is None:
            return False
        each = [name for kind in REGION_IMAGES if (name := getattr(section, kind)) in self.rows.columns]
        return bool(self.maps or each)

    def region_image(self, kind: str) -> str:
        """Labels, Jacobians or lesions: a column of the table of visits, or one image for all.

        Raises
        ------
        FileError
            It is an image of each participant, which has no volumes of the other visits.
        """
        image = self.inputs.region_image(kind)
        named = getattr(self.inputs.config.rois, kind)
        if not image or named in self.rows.columns:
            return named if image else ""
        if named in self.inputs.cohort.columns or files.read_header(image).shape[3] > 1:
            raise self.inputs.config.error(
                ("rois", kind), f"{named} has an image of each participant; a column of {self.path} is expected"
            )
        return image

    def with_paths(self, target: str) -> pd.DataFrame:
        """The rows, with paths relative to the folder of a file."""
        table = self.rows.copy()
        real = os.path.realpath(Path(target).parent)
        for column in self.image_columns:
            if column in table.columns:
                table[column] = [os.path.relpath(os.path.realpath(image), real) for image in self.images(column)]
        return table

    def check(self) -> None:
        """Raise `FileError` for what is wrong with the table, images, and outcomes of models."""
        config = self.inputs.config
        columns = typed(self.rows)
        if not pd.api.types.is_numeric_dtype(columns[self.section.time]):
            raise config.error(
                ("visits", "time"), f"{self.section.time} of {self.path} is text; years are expected"
            )
        if self.has_ironmyelin:
            with config.reading(("visits", "table")):
                require(self.rows, needed_kinds(Command(out="", **self.inputs.ironmyelin_options)), self.path)
        for column in self.image_columns:
            if column in self.rows.columns:
                self._check_images(column)
        if self.has_regions:
            for kind in REGION_IMAGES:
                self.region_image(kind)
        measured = self.inputs.measured if self.has_regions else []
        for number, model in enumerate(config.mixed):
            self._check_model(number, model, columns, [*columns.columns, *measured])

    def _check_images(self, column: str) -> None:
        """Raise `FileError` for an image that is missing."""
        for who, visit, image in zip(self.rows[ID], self.rows[self.section.column], self.images(column)):
            try:
                files.read_header(image)
            except FileError as error:
                where = f"{column} of {who} at {self.section.column} {visit}"
                raise self.inputs.config.error(("visits", "table"), f"{where}: {error.message}") from None

    def _check_model(self, number: int, model: Mixed, columns: pd.DataFrame, names: Sequence[str]) -> None:
        config, where = self.inputs.config, ("mixed", number)
        for pattern in model.outcome:
            if not fitting(names, pattern):
                raise config.error((*where, "outcome"), f"there is no variable {pattern!r} of visits")
        with config.reading((*where, "covariates")):
            require(columns, self.covariates_of(model), self.path)
        order = self.order_of(model)
        if len(order) > 2:
            raise config.error(
                (*where, "order"), f"{len(order)} groups; one or two are expected, such as the first two"
            )
        if len(set(model.trial)) == 1 or not np.isfinite(model.trial).all():
            raise config.error((*where, "trial"), "years of two visits or more are expected")
        if model.trial and model.random == "intercept":
            raise config.error(
                (*where, "trial"),
                'is for models with random = "slope"; without random slopes its size would be too small where '
                "participants change differently",
            )

    def order_of(self, model: Mixed) -> tuple[str, ...]:
        """The groups of a model."""
        return self.inputs.config.groups.order if model.order is None else model.order

    def covariates_of(self, model: Mixed) -> tuple[str, ...]:
        """The covariates of a model."""
        return self.inputs.config.groups.covariates if model.covariates is None else model.covariates
