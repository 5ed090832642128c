"""Standard streams that are closed, or that nobody reads: runs go on or end, and no traceback is seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.selection import few

LINE = f"{sys.executable} -m gpuvox randomise -i data -m mask -o out -d design.mat -t design.con -x -n 25 --seed 1"


@pytest.mark.parametrize("closed", few([">&-", "<&- >&- 2>&-", "2>&-", "<&-", ">&- 2>&-"], 2))
def test_closed_streams(closed, study):
    """As of cron and some schedulers; what a run opens does not take their numbers."""
    done = subprocess.run(
        ["sh", "-c", f"{LINE} --device cpu {closed}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (study / "out_vox_corrp_tstat1.nii.gz").exists()


def test_nobody_reads(study):
    for redirected in ("| true", "2>&1 | true", "2>&1 >/dev/null | true"):
        done = subprocess.run(
            ["bash", "-c", f"{LINE} --threads 1000000 {redirected}; exit ${{PIPESTATUS[0]}}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.returncode in (0, 1)


@pytest.mark.parametrize(
    "words", few(["--version", "randomise --help", "", "--help", "help", "study --example", "nothing"], 3)
)
def test_nobody_reads_what_is_short(words):
    for redirected in ("| true", "2>&1 | true"):
        command = f"(sleep 0.1; {sys.executable} -m gpuvox {words}; exit $?) {redirected}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.returncode in (0, 1, 2)
