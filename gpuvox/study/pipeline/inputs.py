"""What a study is of: participants, maps, comparisons and variables; all that can be found wrong before work begins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files, ironmyelin, participants
from gpuvox.cuda import resolve
from gpuvox.errors import FileError
from gpuvox.plain import several
from gpuvox.study.designs.cross_sectional import Design, group_design
from gpuvox.study.measures import rois
from gpuvox.study.measures.labels import read_regions
from gpuvox.study.pipeline.config import IRONMYELIN, Config, Map
from gpuvox.study.pipeline.variables import Variables
from gpuvox.tables.columns import as_name, complete, require
from gpuvox.tables.conditions import LeftOut, left_out, select
from gpuvox.tables.reading import MISSING, labels, typed

IMAGES = ("qsm", "r1", "csf", "jacobian")
REGION_IMAGES = ("labels", "jacobian", "lesions")
DIRECTIONS = ("gt", "lt")


@dataclass(frozen=True)
class Comparison:
    """A map, and a direction of the difference.

    Attributes
    ----------
    map : str
    contrast : {1, 2}
        As numbered by randomise.
    name : str
        ``iron_MS_gt_HC``.
    title : str
        ``MS > HC``.
    """

    map: str
    contrast: int
    name: str
    title: str


@dataclass(frozen=True, eq=False)
class StudyInputs:
    """What a study is of.

    Attributes
    ----------
    config : Config
    line : tuple of str
        The command, for the record.
    """

    config: Config
    line: tuple[str, ...] = ()

    # -- what there is ------------------------------------------------------------------------------------------

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """Participants who are in the study, cells as text.

        Raises
        ------
        FileError
            A column is missing, a group has nobody, or somebody is of neither group.
        """
        groups, path = self.config.groups, self.config.file(self.config.study.table)
        chosen = self.everyone[self._is_chosen].reset_index(drop=True)
        columns = typed(chosen)
        members = labels(columns[groups.column])
        others = chosen[~members.isin(groups.order)]
        if len(others):
            who, value = others["participant_id"].iloc[0], others[groups.column].iloc[0]
            raise self.config.error(
                ("groups", "order"),
                f"{who} has {value!r} in column {groups.column} of {path}; expected {' or '.join(groups.order)} "
                "(groups.subset leaves others out)",
            )
        for name in groups.order:
            if (members == name).sum() < 2:
                raise self.config.error(
                    ("groups", "order"), f"fewer than two participants of {path} have {groups.column} {name!r}"
                )
        with self.config.reading(("groups", "covariates")):
            complete(columns, groups.covariates, path)
        return chosen

    @cached_property
    def everyone(self) -> pd.DataFrame:
        """The table, cells as text."""
        with self.config.reading(("study", "table")):
            return files.read_table(self.config.file(self.config.study.table), ["participant_id"])

    @cached_property
    def _is_chosen(self) -> NDArray[np.bool_]:
        """Rows of the table who are in the study."""
        groups, columns = self.config.groups, typed(self.everyone)
        for key, names in (("column", [groups.column]), ("covariates", groups.covariates)):
            with self.config.reading(("groups", key)):
                require(columns, names, self.config.file(self.config.study.table))
        with self.config.reading(("groups", "subset")):
            return select(columns, groups.subset)

    @cached_property
    def left_out(self) -> LeftOut:
        """Whom the subset leaves out."""
        return left_out(typed(self.everyone), self.config.groups.subset)

    @cached_property
    def columns(self) -> pd.DataFrame:
        """The same, numbers as numbers."""
        return typed(self.cohort)

    @cached_property
    def members(self) -> pd.Series:
        """The group of each, as text."""
        return labels(self.columns[self.config.groups.column])

    @cached_property
    def design(self) -> Design:
        """Design and contrasts of the voxelwise tests."""
        groups = self.config.groups
        return group_design(self.columns, groups.column, groups.order, groups.covariates)

    @property
    def reference(self) -> str:
        """Condition that the reference group fulfils."""
        groups = self.config.groups
        if groups.reference:
            return groups.reference
        column, second = self.columns[groups.column], groups.order[1]
        value = second if pd.api.types.is_numeric_dtype(column) else repr(second)
        return f"`{groups.column}` == {value}"

    @cached_property
    def maps(self) -> dict[str, Map]:
        """Maps of the study: image, title, unit.

        Raises
        ------
        FileError
            The configuration names one that there is not.
        """
        found: dict[str, Map] = {}
        if self.config.ironmyelin is not None:
            content = ("jacobian" in self.cohort.columns) * ("ironmass", "myelinmass")
            for name in ("iron", "myelin", *content):
                title, unit = IRONMYELIN[name]
                found[name] = Map(image=self.path(f"maps/{name}"), title=title, unit=unit)
        for name, given in self.config.maps.items():
            # Where the subset leaves somebody out, the volumes of the others are copied.
            image = self.path(f"maps/{name}") if f"maps/{name}" in self.copied else self.config.file(given.image)
            found[name] = Map(image=image, title=given.title or name, unit=given.unit)
        for section in ("voxelwise", "rois"):
            wanted = getattr(getattr(self.config, section), "maps", ())
            for name in wanted:
                if name not in found:
                    raise self.config.error((section, "maps"), f"names {name!r}; there are {', '.join(found)}")
        return found

    @cached_property
    def copied(self) -> dict[str, str]:
        """Image in the results → image of everybody, of which those in the study have their volumes copied there."""
        if self._is_chosen.all():
            return {}
        found = {f"maps/{name}": self.config.file(given.image) for name, given in self.config.maps.items()}
        for kind in REGION_IMAGES:
            image = self._region_image(kind)
            if image and image not in self.cohort.columns:
                with self.config.reading(("rois", kind)):
                    if files.read_header(image).shape[3] > 1:
                        found[f"regions/{kind}"] = image
        return found

    def region_image(self, kind: str) -> str:
        """Labels, Jacobians or lesions of those in the study: a column of the table or an image; empty for none."""
        return self.path(f"regions/{kind}") if f"regions/{kind}" in self.copied else self._region_image(kind)

    def _region_image(self, kind: str) -> str:
        given, template = self.config.rois, self.config.template
        value = getattr(given, kind, "")
        if given is not None and kind == "labels" and template is not None:
            value = value or template.labels
        return value if value in self.cohort.columns else self.config.file(value)

    # -- what can be wrong --------------------------------------------------------------------------------------

    @cached_property
    def measured(self) -> list[str]:
        """Names of what is measured in regions; some may have nobody to be measured in."""
        given, template = self.config.rois, self.config.template
        if given is None:
            return []
        where = ("rois", "names") if given.names else ("template", "names")
        with self.config.reading(where):
            regions = read_regions(self.config.file(given.names or (template.names if template else "")) or None)
        with self.config.reading(("rois", "merge")):
            structures = rois.members(regions, given.merge)
        measures = [".volume", *([".volume_normalised"] if given.head_size else [])]
        masses = (".mass", *([".mass_raw"] if given.head_size else []))
        for name in given.maps or self.maps:
            kinds = ("", ".median", ".sd", *(masses if name in rois.MASSES else ()))
            measures += [f".{name}{kind}" for kind in kinds]
        places = [f"{side}.{name}" if side in ("left", "right") else name for name, side in structures]
        # One structure with sides and one without have the same place where both sides are measured together.
        return list(dict.fromkeys(place + measure for place in places for measure in measures))

    def check(self) -> None:
        """Raise `FileError` for what can be found wrong before anything runs; it names the key and its line."""
        with self.config.reading(("study", "device")):
            resolve(self.config.study.device)
        # The maps first: where one is not there, neither is anything that is measured in it.
        _ = self.maps
        self._check_files()
        self._check_ironmyelin()
        self._check_head_size()
        clustered = [comparison.name for comparison in self.comparisons] if self.config.clusters else []
        if self.config.voxelwise is not None:
            with self.config.reading(("groups", "covariates")):
                _ = self.design
        Variables(self.config, self.columns, self.measured, clustered).check(self.reference)

    def _check_files(self) -> None:
        """Images are there, and lie on one grid; those of everyone have a volume for each row of the table."""
        config, mask = self.config, None
        if config.template is not None:
            with config.reading(("template", "mask")):
                mask = files.read_header(config.file(config.template.mask))
        for where, image in self._given_images():
            with config.reading(where):
                header = files.read_header(image)
                if mask is not None:
                    files.check_headers(header, mask)
                self._check_volumes(where, image, header.shape[3])
        if mask is not None:
            with config.reading(("template", "mask")):
                files.read_mask(mask.path)
        for where in (("template", "names"), ("rois", "names"), ("ironmyelin", "model")):
            path = config.file(getattr(getattr(config, where[0]), where[1], ""))
            if path and not os.path.isfile(path):
                raise config.error(where, f"there is no file {path}")
            if path and where[1] == "names":
                with config.reading(where):
                    read_regions(path)

    def _check_volumes(self, where: tuple[str, ...], image: str, n_volumes: int) -> None:
        """Raise `FileError` for an image of everybody that has not a volume for each row of the table."""
        key = where[-1]
        if where[0] == "rois" and getattr(self.config.rois, key) in self.cohort.columns:
            if n_volumes != 1:
                raise FileError(f"{image} has {n_volumes} volumes; that of a participant alone expected")
            return
        of_all = where[0] == "maps" or (where[0] == "rois" and (n_volumes > 1 or key == "jacobian"))
        if of_all and n_volumes != len(self.everyone):
            raise FileError(
                f"{image} has {several(n_volumes, 'volume')}; the table has {several(len(self.everyone), 'row')}"
            )
        if of_all:
            who = participants.of_table(self.everyone, self.config.file(self.config.study.table))
            participants.compare(who, participants.of_volumes(image))

    def _given_images(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Key and file of each image that the configuration names, and of the first in a column."""
        config = self.config
        keys: list[tuple[str, ...]] = [("template", "labels"), ("template", "underlay"), ("ironmyelin", "mask")]
        keys += [("rois", name) for name in REGION_IMAGES]
        for section, key in keys:
            value = getattr(getattr(config, section), key, "")
            in_table = section == "rois" and value in self.cohort.columns
            if value:
                yield (section, key), self._images(value)[0] if in_table else config.file(value)
        for name, given in config.maps.items():
            yield ("maps", name, "image"), config.file(given.image)
        if config.ironmyelin is not None and "qsm" in self.cohort.columns:
            yield ("ironmyelin",), self._images("qsm")[0]

    def _check_ironmyelin(self) -> None:
        given = self.config.ironmyelin
        if given is None:
            return
        with self.config.reading(("ironmyelin",)):
            command = ironmyelin.Command(out="", **self.ironmyelin_options)
            require(self.cohort, ironmyelin.needed_kinds(command), self.config.file(self.config.study.table))
            images = {kind: self._images(kind) for kind in IMAGES if kind in self.cohort.columns}
            ironmyelin.check(command, self.cohort["participant_id"].tolist(), images)

    @property
    def ironmyelin_options(self) -> dict[str, Any]:
        """Those of ``[ironmyelin]``, as the command has them."""
        given = self.config.ironmyelin
        assert given is not None
        options = asdict(given) | {name: self.config.file(getattr(given, name)) for name in ("mask", "model")}
        return options | {name: options[name] or None for name in ("from_field", "to_field")}

    def _check_head_size(self) -> None:
        given = self.config.rois
        if given is not None and given.head_size:
            with self.config.reading(("rois", "head_size")):
                rois.head_size(self.cohort, given.head_size, self.config.file(self.config.study.table))

    def _relative(self, path: str) -> str:
        """A file from the results; links are followed, as opening it does."""
        return os.path.relpath(os.path.realpath(path), os.path.realpath(self.config.out))

    def path(self, name: str) -> str:
        """A file of the results."""
        return os.fspath(self.config.out / name)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every map that is tested, in both directions."""
        if self.config.voxelwise is None:
            return []
        a, b = self.config.groups.order
        first, second = (as_name(group) for group in (a, b))
        return [
            Comparison(name, number, f"{name}_{first}_{how}_{second}", f"{a} {sign} {b}")
            for name in self.config.voxelwise.maps or tuple(self.maps)
            for number, (how, sign) in enumerate(zip(DIRECTIONS, "><"), 1)
        ]

    def _of_image(self, name: str) -> tuple[str, ...]:
        """Files of an image, and the JSON beside it."""
        found = [os.fspath(path) for path in files.image_files(name)]
        beside = files.split_suffix(found[0])[0] + ".json"
        return (*found, *([beside] if os.path.exists(beside) else []))

    def _of_maps(self, *names: str) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """(stages, outside files by map) that maps come from."""
        given = [name for name in names if name in self.config.maps]
        if not self._is_chosen.all():
            stages = tuple(copy_stage(f"maps/{name}") for name in given)
            return ("iron and myelin",) * (len(given) < len(names)) + stages, {}
        outside = {f"map {name}": self._of_image(self.maps[name].image) for name in given}
        return ("iron and myelin",) * (len(given) < len(names)), outside

    def _of_template(self, *names: str) -> dict[str, tuple[str, ...]]:
        """Files of the template, by what they are."""
        template = self.config.template
        given = {name: self.config.file(getattr(template, name)) for name in names if getattr(template, name, "")}
        return {n: (path,) if n == "names" else self._of_image(path) for n, path in given.items()}

    def _images(self, column: str) -> list[str]:
        """Images in a column of the table, from here."""
        for name, value in zip(self.cohort["participant_id"], self.cohort[column].str.strip()):
            if value in MISSING:
                raise FileError(f"{self.config.file(self.config.study.table)} has no {column} of {name}")
        return self._paths(column)

    def _paths(self, column: str) -> list[str]:
        """The same, where cells may be missing."""
        folder = Path(self.config.file(self.config.study.table)).parent
        return [os.fspath(folder / value.strip()) for value in self.cohort[column]]

    def _cells(self, *names: str) -> dict[str, Any]:
        """Cells of the table that a stage reads, for its settings: others may change."""
        return {name: self.cohort[name].str.strip().tolist() for name in ("participant_id", *names)}

    @property
    def _adjustment(self) -> dict[str, Any]:
        """What z-scores depend on."""
        groups = self.config.groups
        inside = select(self.columns, self.reference)
        return {"covariates": self._cells(*groups.covariates), "reference": [bool(each) for each in inside]}

    def _column_files(self, column: str) -> tuple[str, ...]:
        images = dict.fromkeys(self._images(column))
        return tuple(file for image in images for file in self._of_image(image))


def copy_stage(name: str) -> str:
    """Name of the stage that copies an image of everybody: ``map fa``, ``regions jacobian``."""
    folder, image = name.split("/")
    return f"{'map' if folder == 'maps' else folder} {image}"
