"""Checks of matrices and settings given from Python."""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Callable, Collection, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvox import files, participants
from gpuvox.analysis import Options
from gpuvox.application.arrays import real_array
from gpuvox.device import Device
from gpuvox.errors import DesignError, InputError, SettingError
from gpuvox.glm import Nuisance
from gpuvox.runtime.limits import most_threads
from gpuvox.statistics import Statistics
from gpuvox.tail_runs import METHODS, Tail
from gpuvox.tfce import Tfce
from gpuvox.variance_groups import AUTOMATIC, group_labels

Float64 = NDArray[np.float64]


# -- matrices -------------------------------------------------------------------------------------------------------


def matrix_of(array: Any, what: str, *, rows: bool = False) -> files.Matrix:
    """A matrix from an array or a DataFrame, with the names of a DataFrame or Series.

    Parameters
    ----------
    array : array_like, DataFrame or Series
        The index of a Series with one contrast names the columns.
    what : str
        Description for messages: "the design".
    rows : bool
        Whether a vector is one row.

    Raises
    ------
    InputError
        The values are not numbers, or not finite.
    """
    numbers, of_rows, of_columns = participants.values_and_names(array)
    values = real_array(_with_numbers(numbers), f"the values of {what}").astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            f"the values of {what} are not finite in {np.count_nonzero(~np.isfinite(values))} entries"
        )
    if rows and values.ndim == 1:
        return files.Matrix(values[None], (), of_rows)
    return files.Matrix(values, of_rows, of_columns)


def _with_numbers(array: Any) -> Any:
    """Convert a DataFrame with numeric and boolean columns, which would become an array of objects."""
    kinds = getattr(array, "dtypes", None)
    if kinds is None or not hasattr(array, "columns"):
        return array
    wrong = [
        str(name)
        for i, (name, kind) in enumerate(zip(array.columns, kinds))
        if getattr(kind, "kind", "O") not in "biuf" and not all(isinstance(x, Real) for x in array.iloc[:, i])
    ]
    if wrong:
        raise SettingError(
            f"column {wrong[0]!r} of the DataFrame is not of numbers; make indicator columns of categories"
        )
    return array.to_numpy(dtype=np.float64, na_value=np.nan)


def check_voxelwise(evs: Any) -> tuple[tuple[int, Any], ...]:
    """Voxelwise EVs by column, from 0 or −N, as pairs with columns as of ``--vxl``, from 1 or −N.

    Raises
    ------
    SettingError
        The argument is not a dict.
    DesignError
        A column is not a whole number.
    """
    if evs is None:
        return ()
    if not isinstance(evs, Mapping):
        raise SettingError(
            f"voxelwise is {_shown(evs)}; a dict of image by column of the design (from 0) is expected. Voxelwise "
            "statistics alone are the default, without tfce and cluster thresholds"
        )
    for column in evs:
        if not isinstance(column, int | np.integer):
            raise DesignError(
                f"voxelwise names column {column!r}; the number of a column of the design is expected"
            )
    return tuple((int(column) + (column >= 0), image) for column, image in evs.items())


# -- settings -------------------------------------------------------------------------------------------------------


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise SettingError(f"{name} is {_shown(value)}; True or False is expected")


def _tail(name: str, value: Any) -> Tail | None:
    if value is None or isinstance(value, Tail):
        return value
    if value not in METHODS:
        raise SettingError(f"{name} is {_shown(value)}; {' or '.join(map(repr, METHODS))} is expected")
    return Tail(value)


def _whole(name: str, value: Any, least: int = 0) -> int:
    number = _number(name, value, "a whole number")
    if number != math.floor(number):
        raise SettingError(f"{name} is {_shown(value)}; a whole number is expected")
    exact = operator.index(value) if isinstance(value, int | np.integer) else int(number)
    if exact < least:
        raise SettingError(f"{name} is {_shown(value)}; a whole number of at least {least} is expected")
    return exact


def _number(name: str, value: Any, what: str = "a number") -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise SettingError(f"{name} is {_shown(value)}; {what} is expected")
    try:
        number = float(value)
    except OverflowError:  # a whole number with hundreds of digits
        raise SettingError(f"{name} is too large; {what} is expected") from None
    if not math.isfinite(number):
        raise SettingError(f"{name} is {_shown(value)}; {what} is expected")
    return number


def _positive(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = _number(name, value, "a positive number")
    if number <= 0:
        raise SettingError(f"{name} is {_shown(value)}; a positive number is expected")
    return number


def _not_negative(name: str, value: Any) -> float:
    number = _number(name, value, "a number of at least 0")
    if number < 0:
        raise SettingError(f"{name} is {_shown(value)}; a number of at least 0 is expected")
    return number


def _threads(name: str, value: Any) -> int | None:
    asked = None if value is None else _whole(name, value, 1)
    if asked is not None and asked > most_threads():
        files.notice(
            f"{name} is {asked}; {most_threads()} are used, the most on this machine; results do not depend on it"
        )
    return asked


def _tfce(name: str, value: Any) -> Tfce | None:
    if value is None or isinstance(value, Tfce):
        return value
    if isinstance(value, bool | np.bool_):
        return Tfce() if value else None
    raise SettingError(f"{name} is {_shown(value)}; True, or a gpuvox.Tfce with its parameters, is expected")


def _nuisance(name: str, value: Any) -> Nuisance:
    if isinstance(value, str):
        nuisance = Nuisance.__members__.get(value.strip().upper().replace("-", "_").replace(" ", "_"))
    else:
        nuisance = next((each for each in Nuisance if each == value and not isinstance(value, bool)), None)
    if nuisance is None:
        names = ", ".join(each.name.lower() for each in Nuisance)
        raise SettingError(f"{name} is {_shown(value)}; one of {names} is expected")
    return nuisance


def check_device(name: str, value: Any) -> str | Device | tuple[Device, ...] | None:
    """A device, several devices, or their name."""
    if value is None or isinstance(value, str | Device):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(device, Device) for device in value):
        return tuple(value)
    raise SettingError(f"{name} is {_shown(value)}; 'auto', 'cpu', 'cuda', 'cuda:i' or 'cuda:i,j' is expected")


def _permutations(name: str, value: Any) -> Any:
    if value is None or isinstance(value, Mapping):
        return value
    raise SettingError(
        f"{name} is {_shown(value)}; a dict of arrays by the names of the tests (tstat1) is expected"
    )


def _text(name: str, value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise SettingError(f"{name} is {_shown(value)}; the name of a folder is expected")


def _groups(name: str, value: Any) -> tuple[int, ...] | str:
    if isinstance(value, str):
        if value in ("", AUTOMATIC):
            return value
        raise SettingError(f"{name} is {value!r}; a number for each row, or {AUTOMATIC!r}, is expected")
    values = np.asarray(value)
    return tuple(int(group) for group in group_labels(values, len(values) if values.ndim else 0))


OF_STATISTICS: dict[str, Callable[[str, Any], Any]] = {
    "tfce": _tfce, "voxel": _flag, "uncorrected": _flag, "two_pass": _flag,
    "two_sided": _flag,
    "cluster_extent": _positive, "cluster_mass": _positive,
    "f_cluster_extent": _positive, "f_cluster_mass": _positive,
}  # fmt: skip
OF_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "n_permutations": _whole, "seed": _whole, "flip": _flag, "demean": _flag, "nuisance": _nuisance,
    "whole_blocks": _flag, "tail": _tail,
    "permute_and_flip": _flag, "within_blocks": _flag, "repeats": _flag, "distinct_rows": _flag,
    "detect_null": _flag, "f_only": _flag, "joint_steps": _flag, "missing_voxels": _flag, "variance_groups": _groups,
    "only_test": _whole, "variance_mm": _not_negative, "permutations": _permutations, "threads": _threads,
    "device": check_device, "scratch": _text,
}  # fmt: skip
OTHERS = (
    "mask",
    "f_tests",
    "blocks",
    "voxelwise",
    "effective_design",
    "checkpoint",
    "resume",
    "client",
    "progress",
)
"""Further arguments of `randomise`."""


def check_names(names: Collection[str]) -> None:
    """Raise `SettingError` for unknown settings, with the most similar known one."""
    known = [*OF_STATISTICS, *OF_OPTIONS, *OTHERS]
    for name in sorted(set(names) - set(known)):
        near = difflib.get_close_matches(name, known, 1) or _alias(name, known)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
        raise SettingError(f"unknown setting {name!r}; {hint}")


def _alias(name: str, known: Collection[str]) -> list[str]:
    """The setting that corresponds to nilearn's name, or that begins or ends alike."""
    of_nilearn = {
        "n_perm": "n_permutations",
        "n_jobs": "threads",
        "random_state": "seed",
    }
    return [of_nilearn[name]] if name in of_nilearn else [each for each in known if each.startswith(name)][:1]


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings converted to their types.

    Raises
    ------
    SettingError
        A setting has the wrong type; the message says what was expected.
    """
    check_names(settings)
    return {name: (OF_STATISTICS | OF_OPTIONS)[name](name, value) for name, value in settings.items()}


def make_options(raw_settings: Mapping[str, Any], *, one_sample: bool) -> Options:
    """`Options` from settings.

    Parameters
    ----------
    raw_settings : dict
        Settings of `OF_STATISTICS` and `OF_OPTIONS`, with a seed.
    one_sample : bool
        Whether signs are flipped in any case.

    Raises
    ------
    SettingError
        As for `checked`.
    """
    settings = checked(raw_settings)
    drawn = next((name for name in ("permute_and_flip", "repeats", "distinct_rows") if settings.get(name)), None)
    if drawn and settings.get("permutations") is not None:
        raise SettingError(
            f"{drawn} says which permutations are drawn, and permutations has them already; leave one of the two out"
        )
    tfce, voxel = settings.pop("tfce", None), settings.pop("voxel", True)
    uncorrected, two_pass = settings.pop("uncorrected", False), settings.pop("two_pass", False)
    two_sided = settings.pop("two_sided", False)
    kinds = ("cluster_extent", "cluster_mass", "f_cluster_extent", "f_cluster_mass")
    extent, mass, f_extent, f_mass = (settings.pop(name, None) for name in kinds)
    settings["flip"] = settings.get("flip", False) or one_sample
    return Options(
        statistics=Statistics(voxel, tfce, extent, mass, uncorrected, two_pass, two_sided),
        f_statistics=Statistics(voxel, tfce, f_extent, f_mass, uncorrected),
        **settings,
    )


def need_places(options: Options, shape: tuple[int, ...]) -> None:
    """Raise `InputError` for statistics that depend on neighbours if positions of voxels are unknown.

    Parameters
    ----------
    options : Options
    shape : (n, V)
        Of the data.
    """
    both = (options.statistics, options.f_statistics)
    titles = [info.title for each in both for info in each.infos if info.needs_neighbours]
    titles += ["variance smoothing"] if options.variance_mm > 0 else []
    if titles:
        raise InputError(
            f"the data have shape {shape}, but no mask defines the positions of the {shape[1]} voxels, which "
            f"{titles[0]} needs: give (nx, ny, nz, n) data, or as mask a gpuvox.Grid, whose to_vector lists the voxels"
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
