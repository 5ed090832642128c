"""The one place that asks whether there is a GPU."""

from __future__ import annotations

import re


class DeviceError(RuntimeError):
    """A device was asked for that cannot be used."""


def resolve(name: str = "auto") -> str:
    """Device on which a run takes place.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.

    Returns
    -------
    str
        ``cpu``: the CUDA kernels are not part of this version.

    Raises
    ------
    DeviceError
        ``cuda`` is asked for.
    ValueError
        No such device name.
    """
    if name in ("auto", "cpu"):
        return "cpu"
    if re.fullmatch(r"cuda(:\d+)?", name):
        raise DeviceError(
            f"--device {name}: this version of gpuvox has no CUDA kernels yet; use --device cpu (or auto)"
        )
    raise ValueError(f"--device {name}: expected auto, cpu, cuda or cuda:i")
