"""The files of a run, with PALM's names."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gpuvox import files
from gpuvox.application.palm.contrasts import Contrast, PalmTest
from gpuvox.application.palm.description import PalmDescription
from gpuvox.application.palm.inputs import Modality
from gpuvox.files.permutations import write_permidx
from gpuvox.types import AnyArray

APPROXIMATIONS = {
    "tail": "approximate p: generalised Pareto law of the tail",
    "gamma": "approximate p: gamma law of the null distribution",
    "negbin": "approximate p: negative binomial",
    "noperm": "approximate p: moments of the permutation distribution",
}
"""What headers of images say of p, by the values of ``-accel``."""


@dataclass(frozen=True, eq=False)
class Writer:
    """Writes maps, tables and numbers of tests.

    Attributes
    ----------
    description : PalmDescription
    modalities : tuple of Modality
    files : list of str
        What was written, in that order.
    """

    description: PalmDescription
    modalities: tuple[Modality, ...]
    files: list[str] = field(default_factory=list)

    def name(self, unit: str, kind: str, test: PalmTest, p: str = "", last: str = "") -> str:
        """``<prefix>_<unit>_<statistic>[_<p>][_m#][_d#][_c#][<last>]``, without an extension."""
        return f"{self.description.prefix}_{unit}_{kind}" + (f"_{p}" if p else "") + test.suffix + last

    def statistic(self, name: str, values: AnyArray, test: PalmTest) -> None:
        """Write a map or a table of values that are 0 where nothing was tested."""
        self._write(name, values, test, 0.0)

    def p(self, name: str, values: AnyArray, test: PalmTest, label: str | None = None) -> None:
        """Write p on the scale that was asked for; nothing is significant where nothing was tested.

        The label in headers of images says by default whether p is an approximation.
        """
        scale = self.description.saved.scale
        label = APPROXIMATIONS.get(self.description.acceleration, "") if label is None else label
        if scale == "1-p":
            self._write(name, 1 - values, test, 0.0, label)
        elif scale == "-log10 p":
            self._write(name, -np.log10(np.maximum(values, np.finfo(float).tiny)), test, 0.0, label)
        else:
            self._write(name, values, test, 1.0, label)

    def numbers(self, name: str, values: AnyArray, extension: str = ".csv") -> None:
        """Write numbers with all their digits, one a line."""
        self.text(f"{name}{extension}", "".join(f"{value:.17g}\n" for value in np.ravel(values).tolist()))

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        files.write_text(name, text)
        self.files.append(name)

    def shufflings(self, contrast: Contrast, rows: AnyArray) -> None:
        """Write the shufflings of a contrast: signed row numbers from 1."""
        self.files.append(f"{self.description.prefix}{contrast.suffix}_permidx.csv")
        write_permidx(self.files[-1], rows)

    def mask(self, number: int) -> None:
        """Write the voxels of a modality that were analysed."""
        modality = self.modalities[number]
        several = len(self.modalities) > 1 or self.description.saved.all_numbers
        name = f"{self.description.prefix}_mask" + (f"_m{number + 1}" if several else "")
        if modality.header is not None:
            self.files.append(f"{name}.nii.gz")
            files.write_map(
                self.files[-1],
                np.ones(modality.grid.n_voxels),
                modality.grid,
                modality.header,
                file_type="NIFTI_GZ",
            )

    def _write(self, name: str, values: AnyArray, test: PalmTest, outside: float, label: str = "") -> None:
        modality = self.modalities[test.modality]
        if modality.header is None:
            self.text(f"{name}.csv", ",".join(f"{value:.4f}" for value in values.tolist()) + "\n")
            return
        self.files.append(f"{name}.nii.gz")
        files.write_map(
            self.files[-1], values[None], modality.grid, modality.header,
            file_type="NIFTI_GZ", dtype="<f8", outside=outside, label=files.Label(label),
        )  # fmt: skip
