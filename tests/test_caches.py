"""Compiled code is kept and read only where nobody else can write; where nothing can be written, runs go on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gpuvox import cuda
from gpuvox.errors import CacheWarning
from gpuvox.runtime import caches

ROOT = Path(__file__).parents[1]
LINE = "randomise -i data -m mask -d design.mat -t design.con -x -n 25 --seed 1 --device cpu --quiet".split()


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A folder that only root and the user can write, as are those above it."""
    monkeypatch.setattr(caches, "_is_private", lambda group: False)
    above = {os.fspath(each) for each in tmp_path.parents}
    plain = caches._fault_of
    monkeypatch.setattr(
        caches, "_fault_of", lambda path, *a, **more: "" if path in above else plain(path, *a, **more)
    )
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


def test_a_folder_that_others_can_write(private):
    assert caches.why_untrusted(private) == ""
    for mode in (0o777, 0o702, 0o770, 0o1777):
        private.chmod(mode)
        assert "others can write to" in caches.why_untrusted(private), oct(mode)
    private.chmod(0o755)
    assert caches.why_untrusted(private) == caches.why_untrusted(private / "not" / "there") == ""


def test_a_file_that_others_can_write(private, tmp_path):
    file = private / "glm.nbi"
    file.write_bytes(b"")
    assert caches.why_untrusted(private) == ""
    file.chmod(0o666)
    assert caches.why_untrusted(private) == ""  # nobody else can enter the folder; so it is with a umask of 002
    os.link(file, tmp_path / "another")
    assert "glm.nbi" in caches.why_untrusted(private)
    (tmp_path / "another").unlink()
    private.chmod(0o711)
    assert "glm.nbi" in caches.why_untrusted(private)


def test_a_folder_above_that_others_can_write(private):
    inner = private / "inner"
    inner.mkdir(mode=0o700)
    private.chmod(0o777)
    assert "others can write to" in caches.why_untrusted(inner)
    private.chmod(0o1777)  # as /tmp: others cannot replace what is there
    assert caches.why_untrusted(inner) == ""


def test_a_link_is_followed(private, tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (private / "link").symlink_to(tmp_path / "open")
    assert "others can write to" in caches.why_untrusted(private / "link")


def test_a_folder_of_another_user(private, monkeypatch):
    user = private.stat().st_uid
    monkeypatch.setattr(caches.os, "geteuid", lambda: user + 1)
    if user == 0:
        assert caches.why_untrusted(private) == ""  # root's, as in an installation
        monkeypatch.undo()
        os.chown(private, 12345, -1)
    assert "belongs to another user" in caches.why_untrusted(private)


def test_a_group_of_the_users_own(private, monkeypatch):
    """With a umask of 002 everything that the user makes can be written by that group."""
    private.chmod(0o775)
    monkeypatch.setattr(caches, "_is_private", lambda group: group == private.stat().st_gid)
    assert caches.why_untrusted(private) == ""
    private.chmod(0o777)
    assert caches.why_untrusted(private) != ""


def test_a_cache_beside_sources_that_a_group_may_change(private):
    """Who can write the one can write the other."""
    kept = private / "__pycache__"
    kept.mkdir()
    private.chmod(0o775)
    kept.chmod(0o775)
    assert "others can write" in caches.why_untrusted(kept)
    assert caches.why_untrusted(kept, beside=private) == ""
    private.chmod(0o755)
    assert "others can write" in caches.why_untrusted(kept, beside=private)


def test_what_is_made_is_the_users_alone(tmp_path):
    old = os.umask(0)
    try:
        assert caches.make(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert not caches.make("/proc/none/a")


def test_kernels_go_to_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "good"))
    monkeypatch.setattr(
        caches, "why_untrusted", lambda folder: f"others can write to {folder}" if "bad" in folder else ""
    )
    cuda.settle_cache.__wrapped__()
    assert os.environ["CUPY_CACHE_DIR"] == str(tmp_path / "good")
    for folder in (str(tmp_path / "bad"), "/proc/none/cupy"):
        monkeypatch.setenv("CUPY_CACHE_DIR", folder)
        with pytest.warns(CacheWarning, match=f"compiled kernels are not kept because .*{folder}"):
            cuda.settle_cache.__wrapped__()
        ours = Path(os.environ["CUPY_CACHE_DIR"])
        assert ours.stat().st_mode & 0o777 == 0o700
        assert ours.parent == Path(tempfile.gettempdir())


# ---------------------------------------------------------------------------------------------------- whole runs


def run(folder, **more):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gpuvox", *LINE, "-o", "out"], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | more, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.long
def test_a_cache_that_others_can_write_is_not_read(study, tmp_path):
    """What stands in it is not loaded, and nothing is added."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    said = run(study, NUMBA_CACHE_DIR=str(cache))
    assert said.count("\n") == 1
    assert said.startswith("Warning: compiled loops are not kept because others can write to")
    assert not list(cache.rglob("*.nb?"))


@pytest.mark.long
def test_nothing_can_be_written(study, tmp_path):
    """A read-only installation, without a home; the same maps, and one line."""
    shutil.copytree(ROOT / "gpuvox", tmp_path / "site" / "gpuvox", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "kernels", tmp_path / "site" / "kernels")
    for folder, _, _ in os.walk(tmp_path / "site" / "gpuvox"):
        Path(folder, "__pycache__").touch()  # as good as a folder that cannot be written, also for root
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), "/proc/none")
    site = {"PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": ""}
    said = run(study, **nowhere, **site)
    assert said.count("\n") == 1
    assert "there is no folder that can be written; set NUMBA_CACHE_DIR" in said
    maps = {path.name: path.read_bytes() for path in study.glob("out*.nii.gz")}
    assert run(study, NUMBA_DISABLE_JIT="1").splitlines() == [
        "Warning: NUMBA_DISABLE_JIT is ignored: gpuvox's loops are correct only when they are compiled"
    ]
    assert {path.name: path.read_bytes() for path in study.glob("out*.nii.gz")} == maps
