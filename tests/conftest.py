"""Shared by the tests of the command: a small seeded study on disk."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (7, 6, 5)

# As a shell starts what it runs in the background, and nohup; the processes that tests interrupt would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    image = nib.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2, 2, 1]) if affine is None else affine)
    image.header.set_sform(image.affine, 2)
    nib.save(image, path)


def vest(path: Path, rows, names=("NumWaves", "NumPoints")) -> None:
    rows = np.atleast_2d(rows)
    body = "\n".join(" ".join(f"{value:g}" for value in row) for row in rows)
    path.write_text(f"/{names[0]} {rows.shape[1]}\n/{names[1]} {rows.shape[0]}\n\n/Matrix\n{body}\n")


REPEATABLE = {"--map", "--merge", "--select", "--clusters", "--family", "--test", "--block"}


def overriding(base: Iterable[str], extra: Iterable[str]) -> list[str]:
    """The options of a base line, without those that others replace, and then the others."""
    extra = list(extra)
    names = {word.split("=")[0] for word in extra if word.startswith("-")} - REPEATABLE
    kept: list[str] = []
    dropped = False
    for word in base:
        if word.startswith("-"):
            dropped = word in names
        if not dropped:
            kept.append(word)
    return kept + extra


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with data, mask, design.mat/.con/.fts/.grp of 10 subjects, made the current one."""
    rng = np.random.default_rng(0)
    n = 10
    data = rng.normal(size=(*SHAPE, n)) + 10
    data[2:5, 2:4, 1:4, :5] += 2
    save(tmp_path / "data.nii.gz", data)
    mask = np.zeros(SHAPE)
    mask[1:, 1:-1, :] = 1
    save(tmp_path / "mask.nii.gz", mask)
    group = np.arange(n) < 5
    vest(tmp_path / "design.mat", np.c_[group, ~group, rng.normal(size=n).round(3)])
    vest(tmp_path / "design.con", [[1, -1, 0], [-1, 1, 0], [0, 0, 1]], ("NumWaves", "NumContrasts"))
    vest(tmp_path / "design.fts", [[1, 0, 1]], ("NumWaves", "NumContrasts"))
    vest(tmp_path / "design.grp", np.repeat([1, 2, 3, 4, 5], 2)[:, None])
    monkeypatch.chdir(tmp_path)
    return tmp_path
