"""Maps that an earlier run of other inputs left beside the record do not pass for this run's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import overriding, vest

import gpuvox
from gpuvox.application.earlier import OURS, remove_earlier
from gpuvox.cli import main_randomise


@pytest.fixture
def run(study):
    vest(study / "one.con", [[1, -1, 0]], ("NumWaves", "NumContrasts"))

    def call(*more):
        line = "-i data -o out -m mask -d design.mat -n 5 --seed 1 -x --quiet".split()
        return main_randomise(overriding(line, more))

    return call


def there():
    return {path.name for path in Path().glob("out*")}


def test_fewer_contrasts_take_away_the_maps_of_those_before(run, capsys):
    assert run("-t", "design.con", "-N") == 0
    record = json.loads(Path("out_randomise.json").read_text())
    assert set(record["files"]) == there() - {"out_randomise.json"}
    Path("out_tstat3_mine.nii.gz").write_text("another's")
    Path("out_notes.txt").write_text("another's")
    capsys.readouterr()
    assert run("-t", "one.con") == 0
    assert there() == {
        "out_tstat1.nii.gz", "out_vox_corrp_tstat1.nii.gz", "out_randomise.json", "out_tstat3_mine.nii.gz",
        "out_notes.txt",
    }  # fmt: skip
    said = capsys.readouterr().err
    assert "removed what an earlier run of other inputs had left: out_tstat2.nii.gz, out_tstat3.nii.gz, " in said


def test_other_statistics_of_the_same_inputs_stay(run, capsys):
    """As with FSL, one root may be filled by several runs."""
    assert run("-t", "design.con", "-T", "--skipTo", "1") == 0
    before = there()
    assert run("-t", "design.con", "--skipTo", "2") == 0
    assert before < there()
    assert "removed" not in capsys.readouterr().err


def test_what_is_read_or_newer_than_the_record_stays(run):
    assert run("-t", "design.con") == 0
    newer = Path("out_tstat2.nii.gz")
    newer.write_text("another's")
    os.utime(newer, ns=(2**62, 2**62))
    assert run("-t", "one.con", "-m", "out_tstat3") in (0, 2)  # a mask that an earlier run made
    assert newer.exists()
    assert Path("out_tstat3.nii.gz").exists()


def test_a_record_that_is_not_ours_is_left_alone(run):
    Path("out_tstat3.nii.gz").write_text("x")
    Path("out_randomise.json").write_text('{"maps": {"out_tstat3.nii.gz": {}}}')
    assert run("-t", "one.con") == 0
    assert Path("out_tstat3.nii.gz").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"software": 1}, {"software": ["gpuvox"]}, {"inputs": [1]}, {"inputs": {"a": 1}}, {"maps": [1]}, {"maps": 1},
        {"files": 1}, {"files": {"a": 1}}, {"files": ["\0", 1, None, "../precious.txt", "/precious.txt", ""]},
        {"files": ["out_link"], "design": "x", "contrasts": {"a": [1]}},
    ],
)  # fmt: skip
def test_a_record_of_others_may_hold_anything(content, tmp_path):
    """Nothing else than files of this root, in its folder, is removed, and a link's target is not."""
    precious, folder = tmp_path / "precious.txt", tmp_path / "results"
    folder.mkdir()
    precious.write_text("precious")
    (folder / "out_link").symlink_to(precious)
    (folder / "other_map").write_text("another's")
    (folder / "out_T1w.nii.gz").write_text("an image of one's own")
    record = {
        "software": {"gpuvox": "0.1.0"},
        "files": ["other_map", "out_T1w.nii.gz", str(precious), "../precious.txt"],
    } | content
    (folder / "out_randomise.json").write_text(json.dumps(record))
    os.utime(folder / "out_randomise.json", ns=(2**62, 2**62))
    remove_earlier(folder / "out", {"inputs": {"a": {"sha256": "0"}}}, [])
    assert precious.read_text() == "precious"
    assert (folder / "other_map").exists()
    assert (folder / "out_T1w.nii.gz").exists()


@pytest.mark.parametrize("film", [[], ["--film"]])
def test_every_name_of_a_run_is_known_as_one(run, film):
    line = "-x -T -c 1 -C 1 --uncorrp -R -N -P --permout --twopass --glm_output".split()
    assert run("-t", "design.con", *line, *film) == 0
    named = json.loads(Path("out_randomise.json").read_text())["files"]
    assert len(named) > 40
    assert [name for name in named if not OURS.fullmatch(name[len("out") :])] == []


def test_from_python_too(study):
    M = np.loadtxt("design.mat", skiprows=4)
    settings = {"mask": "mask", "n_permutations": 5, "seed": 1, "device": "cpu"}
    gpuvox.randomise("data", M, [[1, -1, 0], [0, 0, 1]], **settings).save("out")
    with pytest.warns(UserWarning, match=r"had left: out_tstat2\.nii\.gz, out_vox_corrp_tstat2\.nii\.gz"):
        gpuvox.randomise("data", M, [[1, -1, 0]], **settings).save("out")
    assert there() == {"out_tstat1.nii.gz", "out_vox_corrp_tstat1.nii.gz", "out_randomise.json"}
