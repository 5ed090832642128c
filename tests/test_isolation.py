"""Every Python that we start imports nothing from the current folder, which may be data that others sent."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gpuvox.distributed import launch
from tests.selection import few

ROOT = Path(__file__).parents[1]
LINE = "randomise -i data -m mask -o out -d design.mat -t design.con -x -T -n 20 --seed 1 --device cpu --quiet"
PLANTED = (
    "numpy",
    "numba",
    "scipy",
    "multiprocessing",
    "distributed",
    "dask",
    "logging",
    "pickle",
    "json",
    "gpuvox",
)
SCRIPT = "import sys\nfrom gpuvox.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"


@pytest.fixture
def planted(study, tmp_path_factory):
    """A folder of data with modules that leave a mark when they are imported; the path of a script elsewhere."""
    for name in PLANTED:
        (study / name).mkdir()
        (study / name / "__init__.py").write_text(f"open({str(study / 'mark')!r}, 'a').write({name!r} + ' ')\n")
    script = tmp_path_factory.mktemp("bin") / "gpuvox"
    script.write_text(SCRIPT)
    return script


def run(folder, *words, **more):
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | more,
    )  # fmt: skip
    assert not (folder / "mark").exists(), (folder / "mark").read_text()
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.long
def test_the_first_run(planted, study, tmp_path_factory, monkeypatch):
    """It starts a helper that compiles; the helper does so, and imports nothing from here."""
    cache = tmp_path_factory.mktemp("cache")
    more = {"NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    assert "First run" in run(study, planted, *LINE.split()[:-1], **more).stderr


def test_as_a_module(planted, study):
    shutil.rmtree(study / "gpuvox")  # which Python takes for the module that is asked for
    run(study, "-m", "gpuvox", *LINE.split())


def test_workers(planted, study, tmp_path):
    pytest.importorskip("distributed")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run(study, planted, *LINE.split(), "--workers", "2", TMPDIR=str(scratch))
    assert os.listdir(scratch) == []


def test_workers_have_a_folder_of_their_own(tmp_path, monkeypatch):
    """Not one of a fixed name, in which others may have put something before."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with launch.open_client(launch.DaskCluster(n_workers=1)) as client:
        (folder,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        (ours,) = tmp_path.glob("*")
        assert Path(folder).is_relative_to(ours)
        assert ours.stat().st_mode & 0o777 == 0o700
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert not ours.exists()
    assert "PYTHONSAFEPATH" not in os.environ


def test_numba_takes_no_settings_from_the_current_folder(tmp_path, monkeypatch):
    """They could name a cache, whose files are pickles; the file is looked for again whenever a loop is compiled."""
    pytest.importorskip("yaml", reason="numba reads such a file only where there is PyYAML")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    (tmp_path / ".numba_config.yaml").write_text("cache_dir: ./planted\ndisable_jit: 1\ndebug_cache: 1\n")
    program = (
        "import gpuvox.glm, numba, os; print(repr(numba.config.CACHE_DIR), numba.config.DISABLE_JIT, os.getcwd())"
    )
    assert run(tmp_path, "-P", "-c", program).stdout == f"'' 0 {os.path.realpath(tmp_path)}\n"
    program = "import gpuvox.jit, numba, os; os.environ['NUMBA_X'] = '1'; numba.config.reload_config()"
    program += "; print(repr(numba.config.CACHE_DIR), numba.config.DEBUG_CACHE)"
    assert run(tmp_path, "-P", "-c", program).stdout == "'' 0\n"


def test_packages_that_read_settings_are_imported_in_one_place():
    found = []
    for path in sorted((ROOT / "gpuvox").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            found += [(path.name, name.partition(".")[0]) for name in names]
    assert {each for each in found if each[1] in ("numba", "matplotlib")} == {
        ("jit.py", "numba"),
        ("figures.py", "matplotlib"),
    }


@pytest.mark.parametrize("content", few([b"svg.hashsalt: planted\nno_such_key: \x1b[31m\n", b"\xff\xfe"], 1))
def test_figures_take_no_settings_from_the_current_folder(content, tmp_path):
    """Nor from the user, whose file may be broken, nor a way to show windows."""
    (tmp_path / "matplotlibrc").write_bytes(content)
    program = "import os; from gpuvox.findings import figures as f; print(os.getcwd(), os.environ['MPLBACKEND'])"
    more = {"MPLBACKEND": "none", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    done = run(tmp_path, "-P", "-c", program, **more)
    assert done.stdout == f"{os.path.realpath(tmp_path)} none\n"
    assert "key" not in done.stderr


def test_no_other_python_is_started():
    """What starts one is known, and says so."""
    found = []
    for path in sorted((ROOT / "gpuvox").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found += [
            (path.name, ast.unparse(node.elts[1])) for node in ast.walk(ast.parse(text)) if _is_command(node)
        ]
        assert not re.search(r"os\.(system|popen|exec\w+|spawn\w+)\(|multiprocessing\.(Process|Pool)", text), path
        assert "subprocess" not in text or path.name == "first_run.py"
    assert found == [("first_run.py", "'-P'")]


def _is_command(node):
    return isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable"
