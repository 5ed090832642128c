"""Records name files by their place beside the results; home folders, users and machines are not told."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from gpuvox import private
from gpuvox.cli import main
from gpuvox.study.ledger import Ledger


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/home/jane/ms/results/maps/a.nii", "maps/a.nii"), ("/home/jane/ms/data.nii", "../data.nii"),
        ("/home/bob/data.nii", "data.nii"), ("/data/x/", "x"), ("rel/x", "rel/x"), ("", ""),
    ],
)  # fmt: skip
def test_names_are_brief(name, expected):
    assert private.brief(name, "/home/jane/ms/results") == expected
    with private.names_as_given():
        assert private.brief(name, "/home/jane/ms/results") == name
    assert private.brief(name, "/home/jane/ms/results") == expected


def test_names_in_words_and_keys():
    given = ["-i", "/home/jane/d.nii", "--vxf=/home/jane/a,/home/jane/b", "m=/home/jane/m", "-n", "5"]
    assert private.words(given, "/srv/out") == ["-i", "d.nii", "--vxf=a,b", "m=m", "-n", "5"]
    assert private.keys({"/a/d.nii": 1, "/b/d.nii": 2, "x": 3}, "/srv/out") == {"d.nii": 1, "d.nii (2)": 2, "x": 3}


def test_a_run_tells_of_no_home(study, tmp_path_factory, monkeypatch):
    """Neither the record nor shards, which are merged all the same where they ran."""
    home = tmp_path_factory.mktemp("jane.doe") / "ms"
    shutil.copytree(study, home)
    line = f"randomise -i {home}/data -m {home}/mask -d {home}/design.mat -t {home}/design.con -n 10 --seed 1 -x"
    monkeypatch.chdir(home)
    os.mkdir("out")
    for i in (1, 2):
        assert main([*line.split(), "-o", f"{home}/out/r", "--shard", f"{i}/2"]) == 0
    assert main(["merge", "--quiet", *map(str, (home / "out").glob("*.tally"))]) == 0
    assert main([*line.split(), "-o", f"{home}/out/s"]) == 0
    for path in (home / "out").glob("*"):
        if path.suffix != ".gz":
            assert b"jane.doe" not in path.read_bytes(), path
    about = json.loads((home / "out" / "s_randomise.json").read_text())
    assert "../data" in about["command"]
    assert {"../data.nii.gz", "../mask.nii.gz", "../design.mat"} <= set(about["inputs"])
    assert main([*line.split(), "-o", f"{home}/out/t", "--record-paths"]) == 0
    assert f"{home}/data" in json.loads((home / "out" / "t_randomise.json").read_text())["command"]


def test_a_ledger_tells_of_no_home(tmp_path):
    folder = tmp_path / "jane.doe" / "results"
    folder.mkdir(parents=True)
    (tmp_path / "jane.doe" / "table.tsv").write_text("x")
    ledger = Ledger.open(folder)
    before = ledger.hash(str(tmp_path / "jane.doe" / "table.tsv"))
    ledger.save()
    assert "jane.doe" not in "".join(path.read_text() for path in folder.iterdir())
    assert Ledger.open(folder).hash(str(tmp_path / "jane.doe" / "table.tsv")) == before


def test_records_of_models_tell_of_no_home(tmp_path, monkeypatch):
    """Names are brief by the folder of the record, whatever the current folder is."""
    folder = tmp_path / "jane.doe" / "ms"
    (folder / "models").mkdir(parents=True)
    rows = "".join(f"s{i}\t{i % 7}\t{i * i % 11}\n" for i in range(30))
    (folder / "t.tsv").write_text(f"participant_id\ta\tb\n{rows}")
    monkeypatch.chdir(tmp_path)
    line = ["models", "correlation", "--table", f"{folder}/t.tsv", "--x", "a", "--y", "b"]
    assert main([*line, "--out", f"{folder}/models/m"]) == 0
    text = (folder / "models" / "m.json").read_text()
    assert "jane.doe" not in text
    assert "../t.tsv" in json.loads(text)["inputs"]
