"""The report: what its HTML holds, against the files it was made from, and how it behaves in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gpuvox import files
from gpuvox.cli import report as command
from gpuvox.cli.main import guarded, main
from gpuvox.errors import FileError
from gpuvox.findings import figures, references, sentences, tables, viewer
from gpuvox.findings.scene import Turn
from gpuvox.grid import Grid
from gpuvox.reporter import Reporter
from gpuvox.study import phantom
from gpuvox.study.measures import clusters
from gpuvox.study.pipeline import manifest
from gpuvox.study.pipeline.config import read_config
from gpuvox.study.pipeline.pipeline import Pipeline
from gpuvox.study.report import build, findings, headlines, methods
from gpuvox.study.report.contents import Contents
from gpuvox.study.report.page import Page
from gpuvox.study.report.volumes import read_scene, read_tests

SHAPE = (13, 16, 11)
# x runs from right to left and the axes are permuted: voxel (i, j, k) lies at y = 2i − 12, x = 15 − 2j, z = 3k − 15 mm.
AFFINE = np.array([[0, -2.0, 0, 15], [2.0, 0, 0, -12], [0, 0, 3.0, -15], [0, 0, 0, 1]])
N = 200
NULL_P = 0.31


# -- a study --------------------------------------------------------------------------------------------------------


def millimetres() -> np.ndarray:
    """(nx, ny, nz, 3) position of every voxel."""
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]


def write_image(path: Path, volume: np.ndarray) -> None:
    grid = Grid(np.ones(SHAPE, dtype=bool), (2.0, 2.0, 3.0), AFFINE)
    files.write_map(path, grid.to_vector(volume.astype(np.float32)), grid)


def write_test(folder: Path, name: str, mask: np.ndarray, survives: bool, seed: int) -> dict[str, Any]:
    """A test whose blob lies left, anterior and superior; its clusters by `gpuvox clusters`."""
    rng = np.random.default_rng(seed)
    t = rng.normal(size=SHAPE)
    blob = np.linalg.norm(millimetres() - [-7, 8, 6], axis=-1) < 5.5
    t[blob] += 6 if survives else 0
    count = np.where(blob & survives, 3, rng.integers(NULL_P * N, N, SHAPE))
    write_image(folder / f"{name}_t", t * mask)
    write_image(folder / f"{name}_p", np.where(mask, np.float32(1) - (count / N).astype(np.float32), 0))
    (folder / f"{name}_null.txt").write_text("".join(f"{x:.6f} \n" for x in rng.gamma(2, 100, N)))
    options = clusters.Command(
        f"{folder}/{name}_p", f"{folder}/{name}", f"{folder}/{name}_t", extent=4, mask=f"{folder}/mask",
        atlas=f"{folder}/labels", names=f"{folder}/labels.tsv",
    )  # fmt: skip
    clusters.execute(options, Reporter.silent())
    return {
        "name": name, "map": name[:-3], "title": f"Map {name[:-3]}", "unit": "mg/kg", "contrast": f"A {name[-2:]} B",
        "method": "TFCE", "permutations": N, "df": 30, "smallest_p": 1 / N, "critical": 420.0,
        "observed_maximum": 900.0 if survives else 100.0, "statistic": f"{name}_t.nii.gz", "null": f"{name}_null.txt",
        "corrected": f"{name}_p.nii.gz", "clusters": f"{name}.tsv", "cluster_image": f"{name}.nii.gz",
    }  # fmt: skip


def make_study(folder: Path, survives: tuple[str, ...] = ("iron_gt",)) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    where = millimetres()
    mask = np.linalg.norm(where / [11, 11, 12], axis=-1) < 1
    write_image(folder / "mask", mask)
    write_image(folder / "underlay", 100 + 20 * rng.random(SHAPE) - 60 * (np.linalg.norm(where, axis=-1) < 4))
    write_image(folder / "labels", np.where(mask, 1 + (where[..., 0] > 0), 0))
    (folder / "labels.tsv").write_text("index\tname\n1\tleft_nucleus\n2\tright_nucleus\n")
    ids = [f"sub-{i:02d}" for i in range(34)]
    people = pd.DataFrame({"participant_id": ids, "group": ["A"] * 18 + ["B"] * 16, "age": rng.normal(40, 9, 34)})
    files.write_table(folder / "participants.tsv", people)
    design = np.column_stack(
        [people["group"] == "A", people["group"] == "B", people["age"] - people["age"].mean()]
    )
    files.write_vest(folder / "design.mat", design)
    files.write_vest(folder / "design.con", [[1, -1, 0], [-1, 1, 0]], "con", names=("A > B", "A < B"))
    z = rng.normal(size=(34, 3)) - np.outer(people["group"] == "A", [1, 0, 2])
    names = ["left.nucleus.iron", "right.nucleus.iron", "left.nucleus.volume"]
    files.write_table(
        folder / "z.tsv", pd.DataFrame({"participant_id": ids, **dict(zip(names, z.T, strict=True))})
    )
    write_tables(folder, rng)
    tests = [
        write_test(folder, name, mask, name in survives, seed)
        for seed, name in enumerate(("iron_gt", "iron_lt", "myel_gt"))
    ]
    return {
        "title": "A study", "created": "2026-01-02T03:04:05+00:00", "gpuvox": "9.9", "command": "gpuvox study s.toml",
        "versions": {"numpy": "2.0"}, "device": "CPU", "seed": 7, "config": {"path": "s.toml", "text": "[study]\n"},
        "cohort": {"table": "participants.tsv", "group": "group", "order": ["A", "B"], "covariates": ["age"],
                   "subset": "age > 5", "reference": "group == 'B'", "n": {"A": 18, "B": 16}},
        "design": {"matrix": "design.mat", "contrasts": "design.con"},
        "checks": [{"what": "sub-03: 12 voxels are 0", "kind": "warning"}],
        "mask": "mask.nii.gz", "underlay": "underlay.nii.gz", "labels": "labels.nii.gz", "names": "labels.tsv",
        "level": 0.05, "extent": 4, "tests": tests,
        "groups": [{"title": "Structures", "table": "groups.tsv", "demographics": "people.tsv", "json": "groups.json"}],
        "models": [{"title": "EDSS", "kind": "regression", "table": "models.tsv", "data": "models_data.tsv"}],
        "zscores": {"table": "z.tsv", "title": "z"}, "stages": [{"name": "iron", "seconds": 12.34}],
        "files": ["participants.tsv", "iron_gt_p.nii.gz", "design.mat"],
    }  # fmt: skip


ANCOVA = """\
variable\tfamily\tn\tmean_A\tsd_A\tmean_B\tsd_B\tdifference\tdifference_low\tdifference_high\tf\tdf_group\tdf_residual\tp\t\
p_corrected\td\tlevene_p
nucleus.iron\tall\t34\t784.1234\t131.9\t645.4\t140.02\t135.3\t90.2\t181.4\t34.6\t1\t31\t2.8e-08\t5.6e-08\t0.99123\t0.21
nucleus.volume\tall\t34\t0.68123\t0.1012\t0.76\t0.069\t-0.079\t-0.107\t-0.05\t1.2\t1\t31\t0.0498\t0.0996\t-0.35\t0.004
other\tall\t34\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a\tn/a
"""
PEOPLE = """\
variable\tlevel\tsummary_A\tsummary_B\tmean_A\tmean_B\ttest\tstatistic_name\tstatistic\tdf\tp
age\tn/a\t39.6 (10.5)\t39.3 (14.3)\t39.6\t39.3\tstudent\tt\t0.1234\t32\t0.902
"""
MODELS = """\
model\toutcome\tblock\tpredictors\tn\tr2\tr2_change\tbca_low\tbca_high\tf_change\tdf1\tdf2\tp_change\tp_corrected
iron.1\tedss\tglobal\tage\t34\t0.194\t0.194\t0.05\t0.347\t7.7\t1\t32\t0.009\tn/a
iron.1\tedss\tiron.1\tiron.1\t34\t0.2951\t0.1011\t0.02\t0.3\t4.45\t1\t31\t0.043\t0.0431
"""


def write_tables(folder: Path, rng: np.random.Generator) -> None:
    (folder / "groups.tsv").write_text(ANCOVA)
    (folder / "people.tsv").write_text(PEOPLE)
    (folder / "models.tsv").write_text(MODELS)
    about = {"ancova": {"covariates": ["age"], "correction": "fdr_bh", "columns": {"d": "Cohen's <d>"}}}
    files.write_json(folder / "groups.json", about)
    rows = ["model\tparticipant_id\trole\tblock\tvariable\tvalue\tresidual"]
    for i, (a, x, y) in enumerate(rng.normal(size=(34, 3))):
        rows += [f"iron.1\tsub-{i:02d}\toutcome\tn/a\tedss\t{y}\t{y}"]
        rows += [f"iron.1\tsub-{i:02d}\tpredictor\tglobal\tage\t{a}\tn/a"]
        rows += [f"iron.1\tsub-{i:02d}\tpredictor\tiron.1\tiron.1\t{x}\t{x}"]
    (folder / "models_data.tsv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(contents, folder, HTML) of a study in which one of three tests found something."""
    folder = tmp_path_factory.mktemp("study")
    contents = make_study(folder)
    return contents, folder, build(contents, folder)


@pytest.fixture(scope="module")
def page(study):
    return parse(study[2])


# -- reading HTML ---------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Elements in order, their text, and tables as rows of (text, values, is bold) of cells."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.tables: dict[str, list[list[dict[str, Any]]]] = {}
        self.rows: list[list[dict[str, Any]]] = []

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        self.elements.append((tag, found))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "table":
            self.rows = self.tables[found["id"]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(
                {"tag": tag, "text": "", "values": [], "bold": False, "scope": found.get("scope")}
            )
        if "table" in self.open and self.rows and self.rows[-1]:
            if tag == "data":
                self.rows[-1][-1]["values"].append(found["value"])
            if tag == "strong":
                self.rows[-1][-1]["bold"] = True

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1]["text"] += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def volumes(self) -> dict[str, Any]:
        return json.loads(next(s for s in self.scripts if s.startswith("{")))


def parse(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert not reader.open
    return reader


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.split(",", 1)[1])


def body(page: Reader, id: str) -> list[dict[str, dict[str, Any]]]:
    """Rows of a table by the text of the headings."""
    head, *rows = page.tables[id]
    names = [cell["text"].strip() for cell in head]
    return [dict(zip(names, row, strict=True)) for row in rows]


# -- the page -------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_anchors_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert not [id for id, n in Counter(ids).items() if n > 1]
    anchors = [a["href"][1:] for a in page.of("a") if a["href"].startswith("#")]
    assert len(anchors) > 20
    assert set(anchors) <= set(ids)
    for attributes in (a for _, a in page.elements):
        for key in ("aria-labelledby", "for", "aria-describedby"):
            assert attributes.get(key, ids[0]) in ids


def test_box_plots_have_the_titles_of_maps(page):
    """What is measured and no map has its own name."""
    found = [image["alt"] for image in page.of("img") if image["alt"].startswith("Box plots")]
    assert [alt.split(" by group")[0] for alt in found] == ["Box plots of Map iron", "Box plots of volume"]


def test_images_have_words_and_are_inside(page):
    images = page.of("img")
    # Slices, a montage of p, null distributions, box plots, colour bars, the design, a scatter plot.
    assert len(images) == 9 + 1 + 3 + 2 + 2 + 1 + 1
    for image in images:
        assert image["src"].startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
        assert len(image["alt"]) > 15
        assert int(image["width"]) > 50
        assert int(image["height"]) > 20


def test_nothing_outside_is_named(study, page):
    html = study[2]
    plain = re.sub(r"[A-Za-z0-9+/=]{40,}", "", html)  # without what is packed in base64
    assert not re.search(r"\b(https?|ftp|wss?):|[\"'(]//[a-z]|@import|(?<!toData)url\(", plain, re.IGNORECASE)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not {"srcset", "background", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert {a["rel"] for a in page.of("link")} == {"icon"}
    assert all(a["href"].startswith(("#", "./")) for a in page.of("a"))
    for image in page.of("img"):
        if "svg" in image["src"][:20]:
            addresses = re.findall(r"https?://[^\"' <]+", decoded(image["src"]).decode())
            assert {a.split("/")[2] for a in addresses} <= {"www.w3.org", "purl.org", "creativecommons.org"}
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_script_and_style_has_its_hash_in_the_policy(study, page):
    """And nothing stands in attributes, which hashes do not cover."""
    html = study[2]
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "unsafe" not in policy
    rules = {words[0]: set(words[1:]) for words in (part.split() for part in policy.split(";"))}
    for kind in ("script", "style"):
        blocks = re.findall(rf"<{kind}([^>]*)>(.*?)</{kind}>", html, re.DOTALL)
        blocks = [text for attributes, text in blocks if "application/json" not in attributes]
        hashed = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in blocks]
        assert rules[f"{kind}-src"] == {f"'sha256-{each}'" for each in hashed}
        assert hashed
    assert rules["default-src"] == {"'none'"}
    for _, attributes in page.elements:
        assert "style" not in attributes
    script = "".join(re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL))
    assert not re.search(r"\beval\(|new Function|setAttribute\(.style|innerHTML|insertAdjacentHTML", script)
    # The slices are as wide as they are for each other, by rules in place of attributes.
    widths = re.findall(r'class="w(\d+)"', html)
    assert len(widths) == 9
    assert all(f".w{width}{{flex:{width} 1 0}}" in html for width in widths)


MARKS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def test_marks_of_direction_turn_nothing_round(study):
    """They are shown wherever they come from; a name that runs from right to left stands for itself."""
    contents, folder, _ = study
    contents = json.loads(json.dumps(contents))
    turning = {"title": "A\u202eB", "created": "\u2067now", "methods": ["Done\u202e by <b>."]}
    turning |= {"checks": [{"what": "age\u2066\u202e is missing in 3", "kind": "info"}]}
    contents |= turning
    contents["tests"][0]["title"] = "Iron\u202d"
    contents["tests"][1]["contrast"] = "עברית > B"
    html = build(contents, folder)
    page = parse(html)
    assert not MARKS.search(html)
    assert not re.search(
        r"\\u202[a-e]|\\u206[6-9]", re.search(r'id="viewer-data">(.*?)</script>', html)[1].replace("\\\\", "")
    )
    assert "<title>A\\u202eB</title>" in html
    assert "<h1><bdi>A\\u202eB</bdi></h1>" in html
    assert "<bdi>age\\u2066\\u202e is missing in 3</bdi>" in html
    assert re.search("<bdi>[^<]*עברית", html)
    for _, attributes in page.elements:
        assert not any("bdi" in str(value) or "\ufdd0" in str(value) for value in attributes.values())
    assert "\ufdd0" not in html


def test_every_table_has_heads(page):
    assert len(page.tables) >= 8
    for rows in page.tables.values():
        head, *others = rows
        assert all(cell["tag"] == "th" and cell["scope"] == "col" and cell["text"].strip() for cell in head)
        for row in others:
            assert len(row) == len(head)
            assert (row[0]["tag"], row[0]["scope"]) == ("th", "row")


def test_figures_are_xml_whatever_names_hold():
    """Else a browser shows no image."""
    name = "\x1b[31m\x00<!-- \u202e-->"
    pictures = [
        figures.box_plots(name, {name: {name: np.arange(5.0)}}), figures.design_matrix(np.eye(3), [name] * 3),
        figures.scatter(np.arange(9.0), np.arange(9.0) ** 2, (name, name), 0, name),
    ]  # fmt: skip
    for picture in pictures:
        assert ElementTree.fromstring(decoded(picture.uri)).tag.endswith("svg")


def test_the_same_study_gives_the_same_bytes(study):
    contents, folder, html = study
    assert build(contents, folder) == html


# -- numbers --------------------------------------------------------------------------------------------------------


def shown(text: str) -> float:
    return float(text.replace("−", "-").replace("<\u00a0.001", "0.0005"))


def check_numbers(page: Reader, id: str, path: Path, apart: tuple[str, ...] = ()) -> None:
    """Every cell of a file is in its row of the table, and what is shown of a number is it, rounded."""
    names, rows = tables.read_rows(path)
    found = page.tables[id][1:] + page.tables.get(f"{id}-more", [[]])[1:]
    for row in rows:
        key = next(iter(row.values()))
        values = {v for line in found if line[0]["values"][:1] == [key] for cell in line for v in cell["values"]}
        for name in names:
            if row[name] != "n/a" and name not in apart:
                assert row[name] in values, name
    for line in found:
        for cell in line:
            if len(cell["values"]) == 1 and not np.isnan(tables.number(cell["values"][0])):
                exact = float(cell["values"][0])
                assert shown(cell["text"].strip()) == pytest.approx(exact, rel=6e-3, abs=6e-3)


def test_group_tables_hold_the_numbers_of_their_files(study, page):
    constant = ("family", "n")
    check_numbers(page, "groups-0-table", study[1] / "groups.tsv", constant)
    check_numbers(page, "groups-0-demographics", study[1] / "people.tsv", ("mean_A", "mean_B"))
    check_numbers(page, "models-0-table", study[1] / "models.tsv", ("outcome", "n"))
    assert "In all rows: Outcome EDSS; n 34." in page.said()


def test_tables_of_another_tissue_model_have_its_units(study):
    contents, folder, _ = study
    few = {key: contents[key] for key in ("title", "cohort", "groups")}
    said = parse(build(few | {"units": {"iron": "ppm", "myelin": ""}}, folder)).said()
    assert "nucleus, iron (ppm)" in said
    assert "mg/kg" not in said


def test_group_tables_are_set_as_in_print(page):
    iron, volume, other = body(page, "groups-0-table")
    assert iron["Variable"]["text"] == "nucleus, iron (mg/kg)"
    assert volume["Variable"]["text"] == "nucleus, volume (mL)"
    assert iron["A, mean (SD)"]["text"] == "784 (132)"
    assert iron["Difference [95 % CI]"]["text"] == "135 [90, 181]"
    # One number of decimals in a row: two digits of the SD of both groups together, here 0.087.
    assert (volume["A, mean (SD)"]["text"], volume["B, mean (SD)"]["text"]) == ("0.681 (0.101)", "0.760 (0.069)")
    assert volume["Difference [95 % CI]"]["text"] == "−0.079 [−0.107, −0.050]"
    assert (iron["p"]["text"], iron["p"]["bold"]) == ("<\u00a0.001", True)
    assert (volume["p"]["text"], volume["p"]["bold"]) == (".0498", True)  # .050 would hide its side
    assert (volume["p, corrected"]["text"], volume["p, corrected"]["bold"]) == (".100", False)
    assert (iron["df"]["text"], iron["d"]["text"]) == ("1, 31", "0.99")
    assert {cell["text"] for name, cell in other.items() if name != "Variable"} == {"–"}
    checks = body(page, "groups-0-table-more")
    assert [row["Levene p"]["text"] for row in checks] == [".210", ".004", "–"]
    assert "title" not in next(a for t, a in page.elements if t == "th")
    assert any(a.get("title") == "Cohen's <d>" for a in page.of("th"))


def test_cluster_tables_hold_the_numbers_of_their_files(study, page):
    check_numbers(page, "clusters-0", study[1] / "iron_gt.tsv", ("regions",))
    row = pd.read_csv(study[1] / "iron_gt.tsv", sep="\t").iloc[0]
    button = next(a for a in page.of("button") if a.get("class") == "peak" and a["data-mm"])
    assert [float(v) for v in button["data-mm"].split()] == [row["x"], row["y"], row["z"]]
    assert body(page, "clusters-0")[0]["Regions"]["text"] == "left nucleus 100\u00a0%"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0009999, "<\u00a0.001"), (0.001, ".001"), (0.0314, ".031"), (0.0498, ".0498"), (0.0502, ".0502"),
     (0.05, ".050"), (0.04998, ".04998"), (0.9999, "1.000"), (1.0, "1.000"), (float("nan"), "–")],
)  # fmt: skip
def test_p(p, text):
    assert tables.p_text(p, 0.05) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [("left.pallidum.iron.mass", "left pallidum, iron mass"), ("caudate.iron.qsm_share", "caudate, iron share of QSM"),
     ("caudate.myelin.mass_raw", "caudate, myelin mass (raw volume)"),
     ("iron_MS_lt_HC.2", "iron MS < HC, cluster 2"),
     ("disease_duration", "disease duration"), ("edss", "EDSS"), ("iron_A_gt_B.1.mean", "iron A > B, cluster 1 mean")],
)  # fmt: skip
def test_names_of_variables(name, text):
    assert tables.variable_name(name) == text


@pytest.mark.parametrize(
    ("name", "unit"),
    [("left.pallidum.iron.mass", "mg"), ("caudate.myelin.mass_raw", "mL"), ("caudate.iron", "mg/kg"), ("age", ""),
     ("thalamus_lateral.volume_normalised", "mL"), ("caudate.myelin", ""), ("caudate.iron.qsm_share", ""),
     ("iron_A_gt_B.1", "")],
)  # fmt: skip
def test_units_of_measures(name, unit):
    assert tables.unit_of(name) == unit


@pytest.mark.parametrize(
    ("name", "unit"),
    [("caudate.iron", "ppm"), ("caudate.iron.median", "ppm"), ("caudate.iron.sd", "ppm"), ("caudate.myelin", "%"),
     ("caudate.iron.mass", "mg"), ("caudate.iron.qsm_share", ""), ("caudate.volume", "mL"), ("age", "")],
)  # fmt: skip
def test_units_of_measures_are_those_of_the_tissue_model(name, unit):
    assert tables.unit_of(name, {"iron": "ppm", "myelin": "%"}) == unit


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (786.4, "786"), (0.24123, "0.241"), (-13.28, "−13.3"), (99.97, "100"), (12345.6, "12346"),
     (0.00001234, "1.23 × 10⁻⁵"), (float("inf"), "∞"), (float("nan"), "–")],
)  # fmt: skip
def test_significant_digits(value, text):
    assert tables.significant(value) == text


def test_a_group_may_be_called_low_or_p():
    names = ["variable", "n_low", "n_high", "mean_low", "sd_low", "mean_high", "sd_high", "n_p", "p"]
    columns = tables.columns_of(names, {}, 0.05)
    assert [column.names for column in columns] == [
        ("variable",), ("n_low",), ("n_high",), ("mean_low", "sd_low"), ("mean_high", "sd_high"), ("n_p",), ("p",),
    ]  # fmt: skip
    assert columns[5].cell(["34"], None).html.striptags() == "34"


def test_the_band_of_a_regression_is_that_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    x, a, y = rng.normal(size=(3, 40)) + 5
    at, mean, half, slope = figures.regression_band(x, y)
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    ends = fit.get_prediction(sm.add_constant(at)).conf_int()
    np.testing.assert_allclose(np.column_stack([mean - half, mean + half]), ends, rtol=1e-10)
    Z = sm.add_constant(a)
    left = [v - sm.OLS(v, Z).fit().fittedvalues for v in (x, y)]
    at, mean, half, slope = figures.regression_band(*left, spent=1)
    whole = sm.OLS(y, np.column_stack([Z, x])).fit()
    assert slope == pytest.approx(whole.params[2])
    # half² = t²·s²·(1/n + (x₀ − x̄)²/Σ(x − x̄)²): without the first part, at distance 1, that of the slope.
    t = half[0] / np.sqrt(whole.mse_resid * (1 / 40 + (at[0] - left[0].mean()) ** 2 / (left[0] ** 2).sum()))
    low, high = whole.conf_int()[2]
    assert t * np.sqrt(whole.mse_resid / (left[0] ** 2).sum()) == pytest.approx((high - low) / 2)
    assert figures.regression_band(np.ones(5), np.arange(5.0)) is None


# -- findings -------------------------------------------------------------------------------------------------------


def test_findings_are_sentences_with_the_numbers_of_the_files(study, page):
    rows = pd.read_csv(study[1] / "iron_gt.tsv", sep="\t")
    assert len(rows) == 1
    volume = tables.significant(rows["mm3"].sum() / 1000)
    said = page.said()
    assert "One of three voxelwise tests found an effect with corrected p < .05." in said
    assert f"One cluster, {volume} mL, in the left nucleus; the smallest corrected p = .015." in said
    assert (
        said.count("Nothing survived correction; the smallest corrected p = .3") >= 4
    )  # at the top, and at its map
    assert (
        "One of two variables differs between the groups with corrected p < .05. Higher in A: iron of nucleus."
        in said
    )
    assert (
        "The last block of the only model explains additional variance of EDSS, with corrected p < .05: iron, cluster "
        "1 (ΔR² .101)." in said
    )


def test_headlines_are_the_findings(study):
    contents, folder, html = study
    files.write_json(folder / "headlines.json", contents)
    lines = headlines(folder / "headlines.json")
    assert len(lines) == 3
    said = parse(html).said().replace("\u00a0", " ")
    for line in lines:
        subject, sentence = line.replace("\u00a0", " ").split(": ", 1)
        assert subject in said
        assert sentence in said


def test_a_null_study_says_so(tmp_path):
    contents = make_study(tmp_path, survives=())
    page = parse(build(contents, tmp_path))
    smallest = 1 - max(float(np.max(image(tmp_path / f"{t['name']}_p"))) for t in contents["tests"])
    said = page.said()
    assert "Nothing survived: no voxel had corrected p < .05 in any of three voxelwise tests." in said
    assert f"The smallest corrected {tables.p_phrase(smallest)}".replace("\u00a0", " ") in said
    assert len([i for i in page.of("img") if "no voxel with corrected p < 0.05" in i["alt"]]) == 9
    assert not [id for id in page.tables if id.startswith("clusters")]
    assert said.count("Nothing survived correction") == 9  # findings, maps, clusters


def image(path: Path) -> np.ndarray:
    return next(files.read_volumes(path)).reshape(SHAPE, order="F")


def test_clusters_that_are_too_small_are_told_from_nothing(study):
    contents, folder, _ = study
    test = read_tests(Contents(contents, folder), read_scene(Contents(contents, folder)))[0]
    told = sentences.finding(test, [], 0.05, 500)
    assert told.sentence == (
        f"{test.survivors} voxels had corrected p\u00a0<\u00a0.05, but no cluster reached 500 voxels; the smallest "
        "corrected p\u00a0=\u00a0.015."
    )
    few = replace(test, permutations=10, corrected=np.where(test.significant, 0.97, 0).astype(np.float32))
    assert "no result could be" not in sentences.finding(few, None, 0.05, 1).sentence  # p were approximated
    assert few.p == 0.03
    none = replace(few, significant=np.zeros_like(few.significant))
    assert sentences.finding(none, None, 0.05, 1).sentence.startswith("No result could be significant: with ten")
    assert not told.survived
    assert "no cluster was large enough in one voxelwise test" in sentences.overall([told], [test], 0.05)


def test_what_files_of_a_study_hold():
    from gpuvox.study.report.listings import describe

    assert describe("groups/all.tsv") == "comparisons of groups, or descriptions of one"
    assert describe("groups/all_demographics.tsv").startswith("demographics")


def test_structures_of_clusters():
    rows = [
        {"voxels": "100", "regions": "left_putamen 60 %; left_caudate 39 %; elsewhere 1 %"},
        {"voxels": "50", "regions": "right_putamen 100 %; right_pallidum 0 %"},
        {"voxels": "20", "regions": "n/a"},
    ]
    assert sentences.structures(rows) == "putamen (both sides) and the left caudate"


def test_methods_cite_what_was_used(page):
    said, ids = page.said(), [a["id"] for a in page.of("li") if "id" in a]
    assert ids[:2] == ["ref-freedman1983", "ref-winkler2014"] or ids[0] == "ref-winkler2014"
    assert {"ref-smith2009", "ref-benjamini1995"} <= set(ids)
    assert "ref-stueber2014" not in ids  # no iron and myelin in this study
    assert "200 permutations" in said
    assert "numpy 2.0" in said
    marks, listed = references.cited(["a [@smith2009], b [@winkler2014], c [@smith2009] <d> [@nobody]"])
    assert [key for key, _ in listed] == ["smith2009", "winkler2014"]
    assert re.sub(r"<[^>]+>", "", marks[0]) == "a1, b2, c1 &lt;d&gt; [@nobody]"


def recorded(folder: Path, tables: dict[str, dict[str, Any]], **keys: str) -> list[dict[str, Any]]:
    """Entries of study.json, each with its JSON file; `keys` are those of all."""
    found = []
    for title, about in tables.items():
        files.write_json(folder / f"{title}.json", about)
        found.append({"title": title, "json": f"{title}.json", **keys})
    return found


def told(folder: Path, **keys: Any) -> str:
    """The methods of a study of which only this is known, as one text."""
    contents = Contents({"title": "t", "cohort": {}, **keys}, folder)
    return re.sub(r" \[@\w+\]", "", " ".join(methods.paragraphs(contents, [])))


def test_methods_say_of_each_group_table_what_differs(study):
    folder = study[1]
    one = {
        "ancova": {"covariates": ["age", "sex", "site"], "correction": "bonferroni", "log": [], "transforms": {}}
    }
    two = {"ancova": {"covariates": ["smoker", "headsize"], "correction": "none", "log": ["bv"],
                      "transforms": {"bv": "log(x)", "lesion_load": "log(x + 0.0512)"}}}  # fmt: skip
    text = told(folder, groups=recorded(folder, {"One": one, "Two": two}, table="groups.tsv"))
    assert (
        "In “One”, the covariates were age, sex and site. In “Two”, the covariates were smoker and headsize."
        in text
    )
    assert "In “One”, within each family, p was corrected for the family-wise error (Bonferroni)." in text
    assert "In “Two”, p was not corrected for the number of tests." in text
    assert "In “Two”, logarithms were analysed: log(bv) and log(lesion load + 0.0512)." in text
    assert text.count("logarithms") == text.count("Bonferroni") == 1
    three = {"ancova": {"transforms": {"bv": "log(x)", "caudate.iron": "log(x)"}}}
    parts = recorded(folder, {"One": one, "Three": three}, table="groups.tsv")
    said = methods.of_untransformed(Contents({"groups": parts}, folder))
    assert said == ", without the logarithm of caudate.iron"
    text = told(folder, groups=recorded(folder, {"One": one, "Two": one}, table="groups.tsv"))
    assert "One" not in text
    assert (
        " The covariates were age, sex and site. Within each family, p was corrected for the family-wise" in text
    )
    assert "pairs" not in text
    for method, how in (
        ("tukey", "was adjusted for their number by the method of Tukey and Kramer."),
        ("none", "was not adjusted for their number."),
    ):
        about = one | {"pairs": {"method": method}}
        assert f"For pairs of groups, p {how}" in told(
            folder, groups=recorded(folder, {"A": about}, table="groups.tsv")
        )
    about = one | {"subset": "`my group` == 'A'"}
    text = told(folder, groups=recorded(folder, {"One": one, "Two": one, "Three": about}, table="groups.tsv"))
    assert " In “Three”, only participants with my group == 'A' were analysed." in text


def test_methods_say_of_each_model_what_differs(study):
    folder = study[1]

    def about(correction: str, resamples: int, **options: Any) -> dict[str, Any]:
        boot = {"resamples": resamples} if resamples else None
        return {"options": options, "bootstrap": boot, "correction": {"method": correction}}

    nothing = {"note": "Gone: nothing to model, for no cluster survived that it is about"}
    models = {"One": about("bonferroni", 100, log=["lesion_load"]), "Two": about("fdr_bh", 300), "Gone": nothing}
    text = told(folder, models=recorded(folder, models, kind="regression"))
    assert "In “One”, the natural logarithm of lesion load was taken." in text
    assert "In “One”, across the models, p of the last block was corrected for the family-wise error" in text
    assert "In “Two”, across the models, p of the last block was corrected for the false discovery rate" in text
    for title, count in (("One", 100), ("Two", 300)):
        assert re.search(
            rf"In “{title}”, bootstrap intervals \([^.]*\) are based on {count} resamples of participants\.", text
        )
    assert "Gone" not in text
    few = about("none", 500)
    few["bootstrap"] |= {"within": ["sex"], "without_interval": ["age (edss)"], "minimum_share_determined": 0.9}
    text = told(folder, models=recorded(folder, {"Few": few}, kind="regression"))
    assert "are based on 500 resamples of participants within categories of sex; fewer than 90 % of them" in text
    assert "determine age (edss), reported without interval." in text
    models = {
        "One": about("none", 0, method="spearman", given=["age"]),
        "Two": about("none", 50, method="pearson"),
    }
    text = told(folder, models=recorded(folder, models, kind="correlation"))
    assert "In “One”, partial Spearman rank correlations given age were computed." in text
    assert "In “Two”, simple Pearson correlations were computed." in text
    assert " P was not corrected for the number of tests." in text
    assert "In “Two”, bootstrap" in text
    assert "In “One”, bootstrap" not in text
    assert "regression" not in told(folder, models=recorded(folder, {"Gone": nothing}, kind="regression"))


def test_methods_say_what_percentages_and_treatments_of_mixed_models_are(study):
    folder = study[1]
    options = {"order": ["MS"], "visits": [0, 1], "log": ["volume"], "covariates": ["age"]}
    one = {"options": options, "correction": {"method": "none"}}
    text = told(folder, models=recorded(folder, {"One": one}, kind="mixed"))
    assert " The covariate was age." in text
    assert "refer to the estimate at time 0. Those of logarithms are of the value itself" in text
    assert "which removes the whole change (power" in text
    two = {"options": {"order": ["MS", "HC"], "visits": [0, 1]}, "correction": {"method": "none"}}
    text = told(folder, models=recorded(folder, {"Two": two}, kind="mixed"))
    assert "which removes the whole difference of the changes (power" in text
    assert "logarithms" not in text


def test_tables_of_other_groups_are_told_by_their_own(tmp_path):
    """Neither the name of the higher group nor asterisks of box plots come from another comparison."""
    (tmp_path / "of.tsv").write_text("variable\td\tp\tp_corrected\nvolume\t0.9\t0.01\t0.01\n")
    (tmp_path / "one.tsv").write_text("variable\td\tp\tp_corrected\tagainst\niron\t0.9\t0.01\t0.01\t3\n")
    files.write_json(tmp_path / "of.json", {"group": "phenotype", "order": ["PMS", "RRMS"], "ancova": {}})
    files.write_json(tmp_path / "one.json", {"group": "group", "order": ["MS"], "description": {"against": 3}})
    groups = [{"title": "Types", "table": "of.tsv", "json": "of.json", "order": []},
              {"title": "One", "table": "one.tsv", "json": "one.json", "order": []}]  # fmt: skip
    cohort = {"group": "group", "order": ["MS", "HC"]}
    page = Page(Contents({"cohort": cohort, "groups": groups}, tmp_path), None, [], ".")
    assert [each.sentence.partition(". ")[2] for each in page._of_groups()] == [
        "Higher in PMS: volume.",
        "Higher: iron.",
    ]
    assert page._p_of_variables() == {}
    files.write_json(tmp_path / "of.json", {"group": "group", "order": ["MS", "HC"], "ancova": {}})
    assert list(page._p_of_variables().values()) == [0.01]


def test_methods_say_by_which_tests_demographics_were_compared(study):
    folder = study[1]
    for order, said in ((["MS", "HC"], (True, False)), (["A", "B", "C"], (True, True)), (["MS"], (False, False))):
        about = {"Demographics": {"order": order, "demographics": {"tests": {}}}}
        text = told(folder, groups=recorded(folder, about, demographics="groups.tsv"))
        assert ("Demographic variables were compared by Student" in text, "Kruskal" in text) == said


def test_methods_say_of_other_models_only_what_they_say(tmp_path):
    """Coefficients of another model need not be of post-mortem tissue, nor iron in mg/kg."""
    (tmp_path / "maps").mkdir()
    about = {"Model": {"name": "mine", "citation": "Me 2026", "qsm": [1, 2, 3], "r2star": [4, 5, 6], "field": None},
             "FieldConversion": None, "Reference": "subject"}  # fmt: skip
    files.write_json(tmp_path / "maps" / "iron.json", about)
    text = told(tmp_path, files=["maps/iron.json"])
    assert "Iron and myelin were computed in every voxel from qsm and r2star, by weighted least squares" in text
    assert "The maps are pseudo-quantitative: values are relative to cerebrospinal fluid." in text
    about["Model"] |= {"name": "stueber2014"}
    files.write_json(tmp_path / "maps" / "iron.json", about)
    text = told(tmp_path, files=["maps/iron.json"])
    assert "Iron concentration (mg per kg dry weight) and myelin volume fraction were computed" in text
    assert "the coefficients are those of post-mortem tissue, and values are relative to cerebrospinal" in text


def test_methods_say_how_regions_were_measured(tmp_path):
    head = "participant_id\tstructure\tside\tmap\tmean\tmass\n"
    rows = "s1\tputamen\tleft\tfa\t1\tn/a\ns1\tputamen\tleft\tiron\t1\t"
    (tmp_path / "rois.tsv").write_text(f"{head}{rows}2\n")
    how = {"labels": "native_labels", "labels_of": "participant", "erosion": 2, "lesions": "lesion_mask",
           "head_size": "vscaling", "merge": {"thalamus": "thalamus_*"}}  # fmt: skip
    text = told(tmp_path, rois="rois.tsv", regions=how)
    assert "Regions are defined by each participant’s own labels (native_labels)." in text
    assert (
        "Mean, median and SD of fa and iron were measured in every region and participant, excluding the two outermost "
        "layers of its voxels and voxels in lesions (lesion_mask). Volume is the number of voxels of the whole region, "
        "multiplied by the voxel volume; normalised volume is volume multiplied by the participant’s head-size factor "
        "(vscaling)."
    ) in text
    assert "Thalamus combines all structures that match thalamus_*." in text
    assert (
        "Iron mass is mean concentration multiplied by normalised volume, assuming 1 g/mL. A mass “(raw volume)” is "
        "the same with volume that is not normalised."
    ) in text
    text = told(tmp_path, rois="rois.tsv", regions=how | {"head_size": ""})
    assert "Iron mass is mean concentration multiplied by volume, assuming 1 g/mL." in text
    assert "yelin" not in text  # not measured
    assert "raw volume" not in text
    assert "share of a contrast" not in text
    (tmp_path / "without.tsv").write_text(f"{head}{rows}n/a\n")  # the model is not in mg/kg
    assert "mass" not in told(tmp_path, rois="without.tsv", regions=how)
    shares = head.replace("mean", "mean\tqsm_share")
    (tmp_path / "s.tsv").write_text(
        shares + "s1\tputamen\tleft\tiron\t1\t0.9\t2\ns1\tputamen\tleft\tmyelin\t1\tn/a\tn/a\n"
    )
    text = told(tmp_path, rois="s.tsv", regions=how)
    assert "The share of a contrast (QSM, R1) due to iron is |a·Fe| / (|a·Fe| + |b·My|)" in text
    text = told(tmp_path, rois="rois.tsv", regions={"labels": "l.nii", "labels_of": "everyone", "jacobian": "jac"})
    assert "Regions are defined by one label image for all participants (l.nii)." in text
    assert (
        "Volume is the sum of the Jacobian determinants of the template-to-subject transformation (jac) over"
        in text
    )
    assert "without" not in text
    text = told(tmp_path, rois="rois.tsv")  # nothing is known of how
    assert "Volume" not in text


def test_who_is_not_in_the_analysis_is_said(study, tmp_path):
    contents, folder, html = study
    light = {key: contents[key] for key in ("title", "cohort")}
    cohort = contents["cohort"] | {"subset": "`my age` > 5", "of": {"table": "all.tsv", "rows": 39},
                                   "left_out": {"subset": 4, "undecided": 1}}  # fmt: skip
    said = parse(build(light | {"cohort": cohort}, folder)).said()
    assert (
        "Inclusion condition: my age > 5. Of 39 in all.tsv, 5 are not included: four participants do not fulfil the "
        "condition and for one participant it cannot be evaluated, because a value is missing." in said
    )
    cohort["left_out"] = {"subset": 1, "undecided": 0}
    said = parse(build(light | {"cohort": cohort}, folder)).said()
    assert "Of 39 in all.tsv, 1 is not included: one participant does not fulfil the condition." in said
    assert "not included" not in parse(html).said()


def test_the_record_has_who_is_left_out_and_how_regions_were_measured(tmp_path):
    phantom.write(tmp_path, seed=0, scale="tiny")
    people = pd.read_csv(tmp_path / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    old = (people["age"].astype(float) > 50).to_numpy()
    young = np.flatnonzero(~old)
    people.loc[young[3:6], "age"] = "n/a"
    people.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    text = (tmp_path / "study.toml").read_text()
    for key, value in {"table": "people.tsv", "subset": "age <= 50", "lesions": "csf"}.items():
        text = re.sub(rf'(?m)^{key} = "[^"]*"', f'{key} = "{value}"', text, count=1)
    (tmp_path / "study.toml").write_text(text.replace("erosion = 0", "erosion = 1"))
    pipeline = Pipeline(read_config(tmp_path / "study.toml"))
    cohort = manifest._cohort(pipeline.inputs)
    assert cohort["of"] == {"table": "people.tsv", "rows": len(people)}
    assert cohort["left_out"] == {"subset": old.sum(), "undecided": 3}
    assert sum(cohort["n"].values()) == len(people) - old.sum() - 3
    assert manifest._regions(pipeline.inputs, pipeline.config.rois) == {
        "labels": "labels.nii.gz", "labels_of": "everyone", "jacobian": "jacobian", "lesions": "csf", "erosion": 1,
        "head_size": "", "merge": {"thalamus": "thalamus_*"},
    }  # fmt: skip
    native = replace(pipeline.config.rois, labels="csf")
    assert manifest._regions(pipeline.inputs, native)["labels_of"] == "participant"


def test_a_bootstrap_without_interval_is_said_below_the_table(tmp_path):
    head = "predictor\tB\tbootstrap_low\tbootstrap_high\tbca_low\tbca_high\tbootstrap_resamples\n"
    few = "center[b]\t1.5\tn/a\tn/a\tn/a\tn/a\t6\n"
    for lines, told in ((few, True), ("", False), ("center[b]\t1.5\tn/a\tn/a\tn/a\tn/a\tn/a\n", False)):
        (tmp_path / "t.tsv").write_text(head + "age\t2.5\t2.1\t2.9\t2.2\t3\t1000\n" + lines)
        main, more = tables.tables_of("t", "t", tmp_path / "t.tsv")
        assert ("too few of the resamples" in main.note) == told
    (tmp_path / "t.tsv").write_text(head + "age\t2.5\t2.1\t2.9\t2.2\t3\t1000\n" + few)
    _, more = tables.tables_of("t", "t", tmp_path / "t.tsv")
    assert [[cell.html.striptags() for cell in row] for row in more.rows] == [
        ["age", "[2.10, 2.90]", "1000"], ["center[b]", tables.DASH, "6"],
    ]  # fmt: skip


def decimals_in(table: tables.Table, headings: list[str]) -> list[set[int]]:
    """For each row, the numbers of decimals in the cells of some columns."""
    places = [i for i, head in enumerate(table.headings) if head.html.striptags() in headings]
    assert len(places) == len(headings)
    found = []
    for row in table.rows:
        numbers = re.findall(r"\d+(?:\.(\d+))?", " ".join(row[i].html.striptags() for i in places))
        found.append({len(decimals) for decimals in numbers})
    return found


def test_numbers_of_one_unit_have_the_same_decimals_in_a_row(tmp_path):
    """Means, SDs, differences and adjusted means of a variable; a coefficient with its error and intervals."""
    names = ["variable", "transform", "mean_A", "sd_A", "mean_B", "sd_B", "difference", "difference_low"]
    names += ["difference_high", *(f"adjusted_{part}_{g}" for g in "AB" for part in ("mean", "low", "high"))]
    rng = np.random.default_rng(0)
    lines = []
    for scale in (1e-3, 0.5, 9.6, 250.0):
        for transform in ("none", "log(x)"):
            spread = scale * rng.uniform(0.1, 3, 2)
            numbers = [5 * scale, spread[0], 40 * scale, spread[1], *(scale * rng.normal(size=9))]
            lines.append("\t".join(["age", transform, *map(str, numbers)]))
    (tmp_path / "t.tsv").write_text("\n".join(["\t".join(names), *lines]) + "\n")
    main, more = tables.tables_of("t", "t", tmp_path / "t.tsv")
    groups, estimate = ["A, mean (SD)", "B, mean (SD)"], "Difference [95 % CI]"
    plain = slice(0, None, 2)
    assert all(len(each) == 1 for each in decimals_in(main, [*groups, estimate])[plain])
    assert all(len(each) == 1 for each in decimals_in(main, groups))
    adjusted = decimals_in(more, [f"{g}, adjusted mean [95 % CI]" for g in "AB"])
    assert all(len(each) == 1 for each in adjusted)
    assert adjusted == decimals_in(main, [estimate])
    # The decimals themselves: two digits of the root mean square of the SDs.
    for each, line in zip(decimals_in(main, groups), lines):
        numbers = line.split("\t")
        size = np.hypot(float(numbers[3]), float(numbers[5])) / np.sqrt(2)
        assert each == {max(0, 1 - int(np.floor(np.log10(size))))}
    head = "predictor\tB\tse\tlow\thigh\tbca_low\tbca_high"
    (tmp_path / "c.tsv").write_text(
        f"{head}\nage\t-0.0312\t0.5\t-1.1\t1.05\t-0.9\t12.3\nx\t213.2\t3\t2\t1\t1\t1\n"
    )
    (table,) = tables.tables_of("t", "t", tmp_path / "c.tsv")
    assert decimals_in(table, ["B", "SE", "95 % CI", "95 % CI, BCa"]) == [{1}, {0}]


def heads_and_cells(table):
    return {
        head.html.striptags(): row.html.striptags()
        for head, row in zip(table.headings, table.rows[0], strict=True)
    }


def test_tables_of_mixed_models_say_what_their_columns_are(tmp_path):
    """With the outcome's unit, and the decimals of the standard error for all that has this unit."""
    change = "outcome\teffect\tn_visits\tchange\tse\tlow\thigh\tp\tbaseline\tsd_intercept\tsd_slope"
    change += "\tcorrelation\tsd_residual"
    (tmp_path / "m.tsv").write_text(
        f"{change}\nthalamus.volume\tMS\t18\t-0.16372\t0.03214\t-0.22673\t-0.1007\t.0001\t19.1634\t1.5\t0.05\t-0.5\t0.1\n"
    )
    changes, variances = tables.tables_of("t", "t", tmp_path / "m.tsv")
    assert heads_and_cells(changes) == {
        "Outcome": "thalamus, volume (mL)", "Effect": "MS", "Visits": "18", "Change per year": "−0.164", "SE": "0.032",
        "95 % CI": "[−0.227, −0.101]", "p": "< .001", "At baseline": "19.163",
    }  # fmt: skip
    assert heads_and_cells(variances) == {
        "Outcome": "thalamus, volume (mL)", "Effect": "MS", "SD of intercepts": "1.500", "SD of changes": "0.050",
        "Correlation of intercepts and changes": "−0.500", "SD of residuals": "0.100",
    }  # fmt: skip
    (tmp_path / "t.tsv").write_text(
        "outcome\teffect\tsd_change\tn_two_arms\tn_one_arm\tnote\niron\t0.0123\t0.0345\t9\t5\tx\n"
    )
    assert heads_and_cells(*tables.tables_of("t", "t", tmp_path / "t.tsv")[:1]) == {
        "Outcome": "iron", "Change that is removed": "0.012", "SD of an estimated change": "0.035",
        "n per arm, two arms": "9", "n, one arm": "5", "Note": "x",
    }  # fmt: skip
    (tmp_path / "s.tsv").write_text("variable\teffect\tn_t_test\nx\t0.5\t64\n")
    assert heads_and_cells(*tables.tables_of("t", "t", tmp_path / "s.tsv")[:1])["Effect (SD)"] == "0.50"


def test_an_sd_that_is_rounding_is_0_and_shares_have_their_decimals(tmp_path):
    head = "variable\tmean_A\tsd_A\tmean_B\tsd_B\tsame_sign\tnote"
    (tmp_path / "t.tsv").write_text(f"{head}\niron\t1.1498794\t2.4e-16\t1.1498794\t2.4e-16\t1\tsame value\n")
    (table,) = tables.tables_of("t", "t", tmp_path / "t.tsv", units={".iron": "mg/kg"})
    cells = heads_and_cells(table)
    assert cells["A, mean (SD)"] == "1.150 (0.000)"
    assert cells["Draws of the same sign"] == "1.000"
    assert cells["Variable"] == "iron (mg/kg)"
    assert tables.unit_of("iron") == ""
    (tmp_path / "t.tsv").write_text("variable\td\tp\td_low\td_high\tsame_sign\nx.iron\t0.6\t0.001\t0.5\t0.7\t1\n")
    assert (
        heads_and_cells(*tables.tables_of("t", "t", tmp_path / "t.tsv"))["d [95 % of the draws]"]
        == "0.60 [0.50, 0.70]"
    )
    head = "variable\tmean_A\tsd_A\tmean_B\tsd_B\tdifference\tdifference_low\tdifference_high"
    (tmp_path / "t.tsv").write_text(f"{head}\nx\t1.149874\t6e-5\t1.149873\t6.6e-5\t1.6e-6\t-2e-5\t2.3e-5\n")
    cells = heads_and_cells(*tables.tables_of("t", "t", tmp_path / "t.tsv"))
    assert cells["A, mean (SD)"] == "1.149874 (0.000060)"
    assert cells["Difference [95 % CI]"] == "0.000002 [−0.000020, 0.000023]"


def test_models_and_methods_are_named_in_words(tmp_path):
    (tmp_path / "t.tsv").write_text(
        "model\tmethod\tstatistic_course\td_adjusted\nedss: thalamus.chi\tpearson\t-0.0533\t.669\n"
    )
    assert list(heads_and_cells(*tables.tables_of("t", "t", tmp_path / "t.tsv")).values()) == [
        "EDSS: thalamus, chi", "Pearson", "−0.05", "0.67",
    ]  # fmt: skip


def test_names_with_commas_are_listed_with_semicolons():
    assert tables.listed(["age", "log(lesion load)"]) == "age, log(lesion load)"
    assert tables.listed(["caudate, iron", "age"]) == "caudate, iron; age"


def test_labels_of_axes_go_on_in_a_second_line():
    assert figures.on_lines("EDSS, residual", 34) == "EDSS, residual"
    assert (
        figures.on_lines("thalamus, volume normalised, residual", 34) == "thalamus, volume normalised,\nresidual"
    )
    assert figures.on_lines("word " * 40, 20).splitlines()[1].endswith("…")


def test_a_second_effect_size_is_a_further_column(tmp_path):
    head = "variable\tf\td\td_low\td_high\teta2_partial\teta2_partial_low\teta2_partial_high"
    (tmp_path / "t.tsv").write_text(f"{head}\nx\t5\t.4\t.1\t.7\t.03\t.01\t.1\n")
    main, more = (heads_and_cells(each) for each in tables.tables_of("t", "t", tmp_path / "t.tsv"))
    assert list(main) == ["Variable", "F", "d [95 % CI]"]
    assert more == {"Variable": "x", "η², partial [95 % CI]": "0.030 [0.010, 0.100]"}


@pytest.mark.parametrize("formula", ["log(x)", "log(x + 0.051234567)"])
def test_a_variable_whose_logarithm_was_compared_is_marked(tmp_path, formula):
    head, iron, *others = ANCOVA.splitlines()
    lines = [f"{head}\ttransform\tadjusted_mean_A", f"{iron}\t{formula}\t6.66", *(f"{o}\tnone\t1" for o in others)]
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    main, more = tables.tables_of("t", "t", tmp_path / "t.tsv")
    shown = formula.replace("x", "nucleus, iron").replace("0.051234567", "0.0512")
    for table in (main, more):
        assert [row[0].html.striptags() for row in table.rows] == [
            f"{shown} (mg/kg)", "nucleus, volume (mL)", "other",
        ]  # fmt: skip
        assert 'value="nucleus.iron"' in table.rows[0][0].html
    assert "means and SDs are those of the original values" in main.note
    (tmp_path / "t.tsv").write_text("\n".join([*lines[:1], *(f"{o}\tnone\t1" for o in (iron, *others))]) + "\n")
    assert "log" not in tables.tables_of("t", "t", tmp_path / "t.tsv")[0].note


def test_logarithms_of_models_are_marked(study):
    contents, folder, _ = study
    files.write_json(folder / "log.json", {"options": {"log": ["ed*", "age"]}})
    light = {key: contents[key] for key in ("title", "cohort")}
    page = parse(build(light | {"models": [contents["models"][0] | {"json": "log.json"}]}, folder))
    assert [row["Predictors"]["text"] for row in body(page, "models-0-table")] == ["log(age)", "iron, cluster 1"]
    assert "In all rows: Outcome log(EDSS); n 34." in page.said()
    assert "explains additional variance of log(EDSS), with corrected" in page.said()
    assert next(i["alt"] for i in page.of("img")).startswith("Scatter plot of log(EDSS), residual against iron")


def test_axes_of_models_of_one_block_say_that_the_mean_is_gone(study):
    contents, folder, _ = study
    rows = (folder / "models_data.tsv").read_text().splitlines()
    (folder / "one_block.tsv").write_text("\n".join(row for row in rows if "\tage\t" not in row) + "\n")
    light = {key: contents[key] for key in ("title", "cohort")}
    page = parse(build(light | {"models": [contents["models"][0] | {"data": "one_block.tsv"}]}, folder))
    alt = next(i["alt"] for i in page.of("img"))
    assert alt.startswith("Scatter plot of EDSS, minus its mean against iron, cluster 1, minus its mean")


@pytest.mark.parametrize(("p", "how"), [("0.2", "does not explain"), ("0.01", "explains")])
def test_one_model_and_one_variable_are_called_so(p, how):
    rows = [{"outcome": "edss", "block": "iron", "r2_change": "0.1", "p_corrected": p}]
    said = findings.of_regression("t", rows, 0.05).sentence.replace("\u00a0", " ")
    assert said.startswith(
        f"The last block of the only model {how} additional variance of EDSS, with corrected p < .05"
    )
    both = [
        rows[0] | {"model": "thalamus", "block": "iron"},
        rows[0] | {"model": "sdmt: pulvinar.chi", "block": "pulvinar.chi"},
        rows[0] | {"model": "iron.1", "block": "iron.1"},
    ]
    said = findings.of_regression("t", both, 0.05).sentence
    if how == "explains":
        assert said.endswith(
            "thalamus: iron (ΔR² .100); sdmt: pulvinar, chi (ΔR² .100); iron, cluster 1 (ΔR² .100)."
        )
    rows = [{"variable": "iron", "p": p, "p_corrected": p, "d": "1"}]
    said = findings.of_group_table("t", rows, ["A", "B"], 0.05).sentence.replace("\u00a0", " ")
    assert said.startswith(f"The only variable {'differs' if how == 'explains' else 'does not differ'} between")


# -- null distributions ---------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(study, monkeypatch):
    """Draws a null distribution: the figure as laid out, what is said of it, and its caption."""
    contents, folder, _ = study
    test = read_tests(Contents(contents, folder), read_scene(Contents(contents, folder)))[0]

    def draw(null: np.ndarray, critical: float, observed: float) -> tuple[Any, str, str]:
        changed = replace(test, critical=critical, observed=observed)
        figure, alt, caption = figures.null_distribution(changed, null, 0.05)
        figure.draw_without_rendering()
        return figure, alt, caption

    monkeypatch.setattr(figures, "_svg", lambda *parts: parts)
    return draw


def test_tick_labels_of_null_distributions_do_not_overlap(drawn):
    null = np.random.default_rng(0).gamma(2, 4e4, 1000)
    figure, *_ = drawn(null, 2e5, null[0])
    ax = figure.axes[0]
    low, high = ax.get_xlim()
    boxes = [t.label1.get_window_extent() for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert len(boxes) >= 3
    assert all(a.x1 + 3 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize("critical", [60.0, 450.0, 900.0])
def test_nothing_is_written_over_the_bars_of_null_distributions(drawn, critical):
    null = np.random.default_rng(0).uniform(0, 1000, 2000)
    figure, *_ = drawn(null, critical, null[0])
    (legend,), ax = figure.legends, figure.axes[0]
    assert [text.get_text() for text in legend.get_texts()] == ["5 % critical value", "observed"]
    assert legend.get_window_extent().y0 >= ax.get_window_extent().y1
    assert not ax.texts


def test_an_observed_maximum_far_beyond_does_not_squeeze_the_null(drawn):
    null = np.append(125000.0, np.random.default_rng(0).gamma(2, 100, 999))
    figure, alt, caption = drawn(null, 474.0, 125000.0)
    ax = figure.axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    assert sum(heights) == 1000 - (null > ax.get_xlim()[1]).sum()
    assert sum(h > 0 for h in heights) > 20
    beyond = int(sum(null > figures.histogram_range(null, 474.0, 125000.0)[1]))
    assert 1 <= beyond <= 5
    assert caption.endswith(f"; beyond the axis: {beyond} of 1000 permutations and the observed maximum")
    assert "observed maximum 1.25e+05" in alt
    assert [text.get_text() for text in figure.legends[0].get_texts()][1] == "observed: 125000"
    near = np.append(1200.0, null[1:])
    assert figures.histogram_range(near, 474.0, 1200.0) == (near.min(), 1200.0)
    assert "beyond" not in drawn(near, 474.0, 1200.0)[2]
    assert figures.histogram_range(np.full(5, 3.0), 3.0, 3.0) == (3.0, 3.0)
    assert "1 permutations" in drawn(np.full(1, 3.0), 3.0, 3.0)[1]


# -- maps -----------------------------------------------------------------------------------------------------------


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def unrolled(text: str, shape: list[int]) -> np.ndarray:
    pairs = unpacked(text, "<u2").reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).reshape(shape, order="F")


@pytest.mark.parametrize("step", [1, 2])
def test_the_viewer_holds_the_values_of_the_maps(study, monkeypatch, step):
    contents, folder, _ = study
    source = Contents(contents, folder)
    scene = read_scene(source)
    if step == 2:
        monkeypatch.setattr(viewer, "BUDGET", 5000)
    data = json.loads(json.dumps(viewer.viewer_data(scene, read_tests(source, scene), {"t": 9.0}, 0.05)))
    assert data["step"] == step
    affine, shape = np.array(data["affine"]), data["shape"]
    assert (np.diag(affine[:3, :3]) > 0).all()  # right, anterior, superior
    mask, labels = unrolled(data["mask"], shape), unrolled(data["labels"], shape)
    voxels = np.argwhere(mask)[np.lexsort(np.argwhere(mask).T)]  # x fastest
    back = np.linalg.inv(AFFINE)
    old = np.rint((voxels @ affine[:3, :3].T + affine[:3, 3]) @ back[:3, :3].T + back[:3, 3]).astype(int)
    if step == 1:
        assert len(old) == image(folder / "mask").sum()
    np.testing.assert_array_equal(labels[tuple(voxels.T)], image(folder / "labels")[tuple(old.T)])
    for packed, test in zip(data["tests"], contents["tests"], strict=True):
        t = unpacked(packed["statistic"], "<i2") * packed["scale"]
        exact = image(folder / test["statistic"])[tuple(old.T)]
        np.testing.assert_allclose(t, exact, atol=packed["scale"] * 0.501)
        p = unpacked(packed["p"], "<u2") / packed["count"]
        np.testing.assert_allclose(p, 1 - image(folder / test["corrected"])[tuple(old.T)].astype(float), atol=1e-6)
        assert packed["count"] == N
    assert data["names"] == {"1": "left nucleus", "2": "right nucleus"}
    grey = unpacked(data["underlay"], "<u1").reshape(shape, order="F")[tuple(voxels.T)]
    below = image(folder / "underlay")[tuple(old.T)]
    assert np.corrcoef(grey, below)[0, 1] > 0.99


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_show_the_finding_where_it_is(study, page, axis):
    """The blob lies left, anterior, superior: in the pictures at the side of L, of A, and up."""
    pytest.importorskip("PIL")
    from PIL import Image

    uri = [i["src"] for i in page.of("img") if "png" in i["src"][:20]][axis]
    picture = np.asarray(Image.open(BytesIO(decoded(uri))).convert("RGB")).astype(int)
    coloured = picture[..., 0] - picture[..., 2] > 90
    rows, columns = np.nonzero(coloured)
    height, width = coloured.shape
    across, up = [a for a in range(3) if a != axis]
    side = {0: -1, 1: 1}[across]  # left; anterior
    assert figures.EDGES[across][0 if side < 0 else 1] == "LA"[across]
    assert np.sign(columns.mean() - width / 2) == side
    assert rows.mean() < height / 2
    assert up in (1, 2)


def test_the_outline_is_white_as_the_page_shows_it(page):
    """In a page of about 1000 pixels a slice is drawn at less than half its size."""
    pytest.importorskip("PIL")
    from PIL import Image

    shown = []
    for uri in [i["src"] for i in page.of("img") if " slice, " in i["alt"]]:
        picture = Image.open(BytesIO(decoded(uri))).convert("L")
        middle = picture.crop([round(s * f) for f in (0.1, 0.9) for s in picture.size])
        small = np.asarray(middle.resize([round(0.44 * s) for s in middle.size], Image.Resampling.BOX))
        shown.append(int((small > 235).sum()))
    assert len(shown) == 9
    assert min(shown[:3]) > 100  # what survives is outlined
    assert max(shown[3:]) < 20  # there is nothing to outline; marks of the place, some voxels


@pytest.mark.parametrize("voxel", [3.6, 7.2, 30.0])
def test_the_outline_leaves_voxels_to_be_seen(voxel):
    """Pixels of a voxel: of whole brains of 1 and 2 mm, and of large voxels."""
    pixels = figures._outline_width(voxel) * 200 / 72
    assert 2 <= pixels < 0.6 * voxel


@pytest.mark.parametrize(
    ("affine", "axes", "signs"),
    [
        (np.diag([-2.0, 3, 1, 1]), (0, 1, 2), (-1, 1, 1)),
        (AFFINE, (1, 0, 2), (-1, 1, 1)),
        (np.array([[0.1, 0, 2.0, 0], [0, -2, 0.1, 0], [1, 0.1, 0, 0], [0, 0, 0, 1]]), (2, 1, 0), (1, -1, 1)),
    ],
)
def test_axes_are_turned_to_right_anterior_superior(affine, axes, signs):
    turn = Turn.of(affine)
    assert (turn.axes, turn.signs) == (axes, signs)
    volume = np.random.default_rng(0).random((3, 4, 5))
    turned, new = turn.apply(volume), turn.affine(affine, (3, 4, 5))
    for voxel in np.ndindex(turned.shape):
        old = np.linalg.solve(affine, new @ [*voxel, 1])[:3]
        assert turned[voxel] == volume[tuple(np.rint(old).astype(int))]


def test_edges_of_voxels():
    inside = np.zeros((3, 4), dtype=bool)
    inside[1, 1:3] = True
    edges = figures._edges(inside, (2.0, 3.0))
    found = {tuple(sorted(edge)) for edge in edges}
    assert len(edges) == len(found) == 6
    assert ((2.0, 3.0), (2.0, 6.0)) in found  # left
    assert ((4.0, 6.0), (6.0, 6.0)) in found  # above the second


def test_an_image_that_does_not_say_where_left_is(tmp_path):
    contents = make_study(tmp_path)
    grid = Grid(np.ones(SHAPE, dtype=bool), (2.0, 2.0, 3.0))
    for name in ("mask", "underlay", "labels", *(f"{t['name']}_{k}" for t in contents["tests"] for k in "tp")):
        values = grid.to_vector(image(tmp_path / name))
        header = files.read_header(tmp_path / name)
        for code in ("qform_code", "sform_code"):
            header.nifti[code] = 0
        files.write_map(tmp_path / name, values, grid, header)
    said = parse(build(contents, tmp_path)).said()
    assert "The images do not specify left and right" in said
    assert "Left is on the left" not in said


# -- text from outside ----------------------------------------------------------------------------------------------

EVIL = "</script><script>window.evil = 1</script><img src=x onerror=evil()>&\"'"


def test_text_from_outside_stays_text(tmp_path):
    contents = make_study(tmp_path)
    (tmp_path / "labels.tsv").write_text(f"index\tname\n1\tleft_{EVIL}\n2\tright_nucleus\n")
    contents |= {"title": EVIL, "command": EVIL, "gpuvox": EVIL, "device": EVIL, "versions": {EVIL: EVIL}}
    contents["config"] = {"path": EVIL, "text": EVIL}
    contents["checks"] = [{"what": EVIL, "kind": EVIL}]
    contents["cohort"] |= {"subset": EVIL, "reference": EVIL, "covariates": [EVIL]}
    contents["tests"][0] |= {
        "title": EVIL,
        "contrast": EVIL,
        "unit": EVIL,
        "method": EVIL,
        "name": EVIL,
        "map": EVIL,
    }
    contents["groups"][0]["title"] = contents["models"][0]["title"] = contents["stages"][0]["name"] = EVIL
    contents["methods"] = [EVIL]
    (tmp_path / "groups.tsv").write_text(ANCOVA.replace("other", EVIL).replace("levene_p", EVIL))
    (tmp_path / "iron_gt.tsv").write_text((tmp_path / "iron_gt.tsv").read_text().replace("left_nucleus", EVIL))
    strange = tmp_path / "javascript:evil()"
    strange.write_text("")
    contents["files"].append(strange.name)
    html = build(contents, tmp_path)
    page = parse(html)
    assert len(page.scripts) == 3
    assert not [script for script in page.scripts if "evil" in script and not script.startswith("{")]
    assert "<img src=x" not in html
    assert page.volumes()["tests"][0]["title"] == EVIL
    assert page.volumes()["names"]["1"].endswith(EVIL.lower().replace("_", " ").replace("-", " ")[-30:])
    assert page.said().count("window.evil = 1") > 15
    assert "./" + "./javascript%3Aevil%28%29" in [a["href"] for a in page.of("a")]


def test_dollar_signs_are_no_formulas(tmp_path):
    contents = make_study(tmp_path)
    contents["tests"][0]["method"] = "$\\frac$"
    contents["cohort"]["covariates"] = ["$a_$"]
    assert "$\\frac$" in parse(build(contents, tmp_path)).said()


# -- what may be missing, and what is wrong -------------------------------------------------------------------------


def test_a_study_of_nothing(tmp_path):
    page = parse(build({"title": "Nothing", "cohort": {"order": ["A", "B"]}}, tmp_path))
    said = page.said()
    assert "Voxelwise tests were not part of this study" in said
    links = [a["href"] for a in page.of("a") if a["href"].startswith("#")]
    assert links == ["#findings", "#findings", "#cohort", "#methods", "#record"]
    assert [section["id"] for section in page.of("section")] == ["findings", "cohort", "methods", "record"]
    assert len(page.scripts) == 1
    assert not page.tables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": None}, r"study\.json: title is missing"),
        ({"title": 3}, r"study\.json: title is 3; expected text"),
        ({"cohort": None}, r"cohort is missing"),
        ({"level": 1.5}, r"level is 1.5; expected a number between 0 and 1"),
        ({"seed": "x"}, r'seed is "x"; expected a whole number'),
        ({"mask": "gone.nii.gz"}, r"mask names gone.nii.gz, and there is no file .*gone.nii.gz"),
        ({"mask": "labels.tsv"}, r"mask cannot be shown: .*labels.tsv"),
        ({"files": ["gone.tsv"]}, r"files names gone.tsv"),
        ({"tests": {}}, r"tests is {}; expected a list"),
        ({"tests": [3]}, r"tests\[0\] is 3; expected an object"),
        ({"checks": [{"kind": "info"}]}, r"checks\[0\]\.what is missing"),
        ({"levle": 0.01}, r"study\.json: levle is unknown; did you mean level\?"),
        ({"nothing_like_it": 1}, r"nothing_like_it is unknown; expected one of title, created, "),
        ({"cohort": {"grup": "group"}}, r"study\.json: cohort\.grup is unknown; did you mean group\?"),
        ({"stages": [{"name": "a", "second": 1.0}]}, r"stages\[0\]\.second is unknown; did you mean seconds\?"),
        ({"zscores": {"table": "groups.tsv"}}, r"zscores\.table cannot be shown: .*no column 'participant_id'"),
    ],
)
def test_errors_name_the_key(study, change, message):
    heavy = ("tests", "groups", "models", "zscores", "design")
    light = {key: value for key, value in study[0].items() if key not in heavy}
    contents = {key: value for key, value in (light | change).items() if value is not None}
    with pytest.raises(FileError, match=message):
        build(contents, study[1])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("null", "gone.txt", r"tests\[1\]\.null names gone.txt"),
        ("null", "groups.tsv", r"tests\[1\]\.null cannot be shown"),
        ("corrected", "iron_gt_t.nii.gz", r"tests\[1\]\.corrected has values from .* expected 1 - p"),
        ("corrected", "mask.nii.gz", r"tests\[1\]\.corrected is 1 in some voxels, as p can be and 1 - p cannot"),
        ("statistic", "", r"tests\[1\]\.statistic is missing"),
        ("statistic", "small.nii.gz", r"tests\[1\]\.statistic cannot be shown: .*small.nii.gz"),
        ("clusters", "people.tsv", r"tests\[1\]\.clusters names .*no column 'cluster'"),
        ("permutations", "many", r'tests\[1\]\.permutations is "many"; expected a whole number'),
        ("critical", "high", r'tests\[1\]\.critical is "high"; expected a number'),
    ],
)
def test_errors_of_tests_name_the_key(study, key, value, message):
    contents, folder, _ = study
    small = Grid(np.ones((3, 3, 3), dtype=bool))
    files.write_map(folder / "small", np.zeros(27), small)
    light = {key: contents[key] for key in ("title", "cohort", "mask")}
    changed = light | {"tests": [dict(contents["tests"][1]) for _ in range(2)]}
    changed["tests"][1][key] = value
    with pytest.raises(FileError, match=message):
        build(changed, folder)


def test_the_command(study, tmp_path, capsys):
    contents, folder, _ = study
    files.write_json(folder / "study.json", contents)
    out = tmp_path / "out" / "r.html"
    out.parent.mkdir()
    assert guarded("report", lambda: command.run([str(folder / "study.json"), "--out", str(out)])) == 0
    assert str(out) in capsys.readouterr().out
    page = parse(out.read_text(encoding="utf-8"))
    link = next(a["href"] for a in page.of("a") if a["href"].endswith("design.mat"))
    assert (out.parent / link).resolve() == (folder / "design.mat").resolve()
    wrong = (("no.json", None, "no.json cannot be read"), ("bad.json", "{", "is not JSON"),
             ("list.json", "[]", "is not a JSON object"), ("poor.json", "{}", "poor.json: title is"))  # fmt: skip
    for name, text, message in wrong:
        if text is not None:
            (folder / name).write_text(text)
        target = tmp_path / "none.html"
        assert guarded("report", lambda n=name, t=target: command.run([str(folder / n), "--out", str(t)])) == 2
        assert message in capsys.readouterr().err
        assert not target.exists()


@pytest.mark.parametrize("way", ["absolute", "up", "link", "linked folder", "half of a pair"])
def test_a_study_from_others_has_no_other_files_read(study, tmp_path, capsys, way):
    """Nor is it told whether they are there; --within allows what the user knows."""
    contents = {key: study[0][key] for key in ("title", "cohort")}
    folder, home = tmp_path / "received", tmp_path / "home"
    shutil.copytree(study[1], folder)
    shutil.copytree(study[1], home)
    given = {"absolute": str(home / "labels.tsv"), "up": "sub/../../home/labels.tsv", "link": "link.tsv",
             "linked folder": "sub/labels.tsv", "half of a pair": "pair.hdr"}[way]  # fmt: skip
    if way == "link":
        (folder / "link.tsv").symlink_to(home / "labels.tsv")
    if way == "linked folder":
        (folder / "sub").symlink_to(home)
    if way == "half of a pair":
        nib.save(nib.Nifti1Pair(np.ones((2, 2, 2)), np.eye(4)), home / "pair.hdr")
        shutil.copy(home / "pair.hdr", folder)
        (folder / "pair.img").symlink_to(home / "pair.img")
    for key in ({"mask": given}, {"files": [given]}, {"mask": given.replace("labels", "missing")}):
        if way in ("link", "half of a pair") and "missing" in str(key):
            continue
        files.write_json(folder / "study.json", contents | key)
        assert guarded("report", lambda: command.run([str(folder / "study.json")])) == 2
        assert "which is outside" in capsys.readouterr().err
        assert not (folder / "report.html").exists()
    files.write_json(folder / "study.json", contents | {"files": [given]})
    if way != "up":
        assert guarded("report", lambda: command.run([str(folder / "study.json"), "--within", str(tmp_path)])) == 0


# -- F --------------------------------------------------------------------------------------------------------------


def run_randomise(folder: Path) -> None:
    """Three groups of five, by `gpuvox randomise`: F of two contrasts, and the contrasts' t; the blob differs."""
    rng, mask = np.random.default_rng(5), image(folder / "mask") > 0
    group = np.repeat(np.eye(3), 5, axis=0)
    blob = np.linalg.norm(millimetres() - [-7, 8, 6], axis=-1) < 7
    data = rng.normal(size=(15, *SHAPE)) + (group @ [0, 5, -5])[:, None, None, None] * blob
    grid = Grid(mask, (2.0, 2.0, 3.0), AFFINE)
    files.write_map(folder / "data", np.stack([grid.to_vector(each.astype(np.float32)) for each in data]), grid)
    files.write_vest(folder / "three.mat", group)
    files.write_vest(folder / "three.con", [[1, -1, 0], [0, 1, -1]], "con")
    files.write_vest(folder / "three.fts", [[1, 1]], "fts")
    command = "-i data -o three -m mask -d three.mat -t three.con -f three.fts -T -n 60 --seed 1 --quiet"
    words = [str(folder / w) if w in ("data", "three", "mask") or "." in w else w for w in command.split()]
    assert main(["randomise", *words]) == 0


def shown_test(name: str, **keys: Any) -> dict[str, Any]:
    about = {"name": name, "map": "iron", "title": "Iron", "contrast": name, "method": "TFCE", "permutations": 60}
    return about | {"statistic": f"three_{name}.nii.gz", "corrected": f"three_tfce_corrp_{name}.nii.gz"} | keys


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Folder with maps of F and t, and what a study says of them."""
    folder = tmp_path_factory.mktemp("three")
    contents = make_study(folder, survives=())
    run_randomise(folder)
    options = clusters.Command(
        f"{folder}/three_tfce_corrp_fstat1", f"{folder}/f", f"{folder}/three_fstat1", mask=f"{folder}/mask"
    )
    clusters.execute(options, Reporter.silent())
    f = shown_test("fstat1", contrast="any of A, B, C", clusters="f.tsv")
    return folder, {key: contents[key] for key in ("title", "cohort", "mask")} | {"tests": [f]}


def test_f_is_called_f_and_has_no_direction(three):
    folder, contents = three
    html = build(contents | {"files": ["three_randomise.json"]}, folder)
    page, said = parse(html), parse(html).said()
    assert "Slices through the largest F of each test" in said
    assert "The colour shows F, on the same scale in all maps: opaque" in said
    assert "elsewhere, opacity decreases with F. F has no direction" in said
    assert "the statistic is its largest F" in said
    assert (
        "F tests have no direction, and p is not corrected across maps and tests. All F values are shown" in said
    )
    assert "(H = 2, E = 0.5, 6 neighbours)" in said
    assert "one-sided" not in said
    assert not re.search(r"largest t\b|colour shows t\b|decreases with t\b|All t\b|\bt at least", said)
    alts = [i["alt"] for i in page.of("img")]
    assert len([alt for alt in alts if "mm: F of Iron, any of A, B, C; outlined voxels" in alt]) == 3
    assert not [alt for alt in alts if re.search(r"\bt of\b", alt)]
    assert len([alt for alt in alts if alt.startswith("Colour bar of F from 0 to")]) == 2
    assert "F" in [cell["text"] for cell in page.tables["clusters-0"][0]]
    (packed,) = page.volumes()["tests"]
    assert (packed["kind"], packed["vmax"]) == ("F", np.ceil(image(folder / "three_fstat1").max()))


def test_t_and_f_of_one_report_have_scales_of_their_own(three):
    folder, contents = three
    tests = [*contents["tests"], shown_test("tstat1")]
    page = parse(build(contents | {"tests": tests}, folder))
    said = page.said()
    assert "the largest F or t of each test" in said
    assert "on the same scale in all maps of the same statistic: opaque" in said
    assert "each direction of a t test is a separate one-sided test, F tests have no direction" in said
    assert "All F and t values are shown" in said
    tops = {name: np.ceil(image(folder / f"three_{name}").max()) for name in ("fstat1", "tstat1")}
    assert [each["vmax"] for each in page.volumes()["tests"]] == list(tops.values())
    bars = [i["alt"] for i in page.of("img") if i["alt"].startswith("Colour bar")]
    assert bars == 2 * [
        f"Colour bar of F from 0 to {tops['fstat1']:g}",
        f"Colour bar of t from 0 to {tops['tstat1']:g}",
    ]


@pytest.mark.parametrize("says", ["header", "record", "df", "kind", "nothing"])
def test_that_it_is_f_is_known_from_records_and_not_from_its_name(three, tmp_path, monkeypatch, says):
    """Also where the folder of the results is named from the current one."""
    folder, contents = three
    monkeypatch.chdir(tmp_path.parent)
    name = "any_tstat7.nii.gz"
    shutil.copy(folder / "mask.nii.gz", tmp_path)
    shutil.copy(folder / "three_tfce_corrp_fstat1.nii.gz", tmp_path)
    map_ = nib.load(folder / "three_fstat1.nii.gz")
    assert map_.header.get_intent() == ("f test", (2.0, 12.0), "")
    if says != "header":
        map_.header.set_intent("none")
    nib.save(map_, tmp_path / name)
    if says == "record":
        about = json.loads((folder / "three_randomise.json").read_text())["maps"]["three_fstat1.nii.gz"]
        files.write_json(tmp_path / "any_randomise.json", {"maps": {name: about}})
    keys = {"df": {"df": [2, 12]}, "kind": {"kind": "F"}}.get(says, {})
    changed = contents | {"tests": [shown_test("fstat1", statistic=name, **keys)]}
    source = Contents(changed, Path(tmp_path.name))
    assert read_tests(source, read_scene(source))[0].kind == ("t" if says == "nothing" else "F")


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"kind": "z"}, r'tests\[0\]\.kind is "z"; expected t or F'),
     ({"kind": "t"}, r"tests\[0\]\.statistic is t by kind, and F by the header of three_fstat1\.nii\.gz")],
)  # fmt: skip
def test_kinds_that_contradict_each_other_are_refused(three, keys, message):
    folder, contents = three
    with pytest.raises(FileError, match=message):
        build(contents | {"tests": [shown_test("fstat1", **keys)]}, folder)


# -- in a browser ---------------------------------------------------------------------------------------------------


class Browser:
    """A headless Chromium that is spoken to over a pipe (DevTools protocol): no driver, no port."""

    def __init__(self, path: str, folder: str) -> None:
        here, there = os.pipe(), os.pipe()
        high = [os.dup(fd) for fd in (here[0], there[1])]

        def connect() -> None:
            for target, fd in zip((3, 4), [os.dup2(fd, 20 + i) for i, fd in enumerate(high)], strict=True):
                os.dup2(fd, target)

        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [path, *arguments], preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for fd in (here[0], there[1], *high):
            os.close(fd)
        self.to, self.back = os.fdopen(here[1], "wb", buffering=0), os.fdopen(there[0], "rb", buffering=0)
        self.number, self.session, self.buffer, self.events = 0, None, b"", []
        target = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.to.write(json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = self.back.read(1 << 16)
            assert part, "the browser has ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int, mobile: bool) -> None:
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=mobile
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=mobile)
        self.send("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def run(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def choose(self, id: str, value: str, event: str) -> None:
        """Give a control a value, as a user would."""
        self.run(
            f"{{ let e = document.getElementById('{id}'); e.value = {value}; e.dispatchEvent(new Event('{event}')) }}"
        )

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """A real click (a tap on a phone) at a place within an element."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.run(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], **text
            )

    def complaints(self) -> list[dict[str, Any]]:
        """What the console was told, and exceptions."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        found = [
            e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in found if not url.startswith("data:")]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.to.close()
        self.back.close()


KEYS = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowUp": 38, "PageUp": 33}


@pytest.fixture(scope="module")
def browser():
    """For the page of `opened`, which stays open for several tests."""
    yield from started()


@pytest.fixture(scope="module")
def other_browser():
    """For pages that a test opens itself."""
    yield from started()


def started():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = Browser(path, folder)
        yield found
        found.close()


@pytest.fixture(scope="module", params=[1280, 390])
def opened(request, browser, study, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(study[2], encoding="utf-8")
    browser.open(path, request.param, mobile=request.param < 500)
    yield browser
    assert not browser.complaints()
    assert browser.requests() == [path.as_uri()]


def test_in_a_browser_nothing_sticks_out_and_images_load(opened):
    assert opened.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert opened.run("innerWidth") in (1280, 390)
    sizes = opened.run(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth])"
    )
    assert len(sizes) == 19
    assert all(complete and width > 50 and height > 20 and drawn > 50 for complete, width, height, drawn in sizes)
    details = "[...document.querySelectorAll('main details')]"
    opened.run(f"{details}.forEach(d => d.open = true)")
    assert opened.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    opened.run(f"{details}.forEach(d => d.open = false)")


def test_in_a_browser_tables_sort(opened):
    column = "[...document.querySelectorAll('#groups-0-table tbody tr')].map(r => r.cells[0].textContent.trim())"
    given = opened.run(column)
    heads = opened.run("[...document.querySelectorAll('#groups-0-table thead th')].map(h => h.textContent.trim())")
    place = heads.index("d") + 1
    head = f"#groups-0-table thead th:nth-child({place})"
    opened.click(f"{head} button")
    assert opened.run(f"document.querySelector('{head}').ariaSort") == "ascending"
    assert opened.run(column) == ["nucleus, volume (mL)", "nucleus, iron (mg/kg)", "other"]
    opened.press("Enter")  # the button has the focus
    assert opened.run(f"document.querySelector('{head}').ariaSort") == "descending"
    assert opened.run(column) == [
        "nucleus, iron (mg/kg)",
        "nucleus, volume (mL)",
        "other",
    ]  # what is missing stays last
    opened.click("#groups-0-table thead th:nth-child(1) button")
    assert opened.run("document.querySelectorAll('#groups-0-table [aria-sort=ascending]').length") == 1
    assert sorted(given) == opened.run(column)


READOUT = "document.getElementById('v-readout').textContent"


def said_at(folder: Path, test: dict[str, Any], readout: str) -> None:
    """What the viewer says is what the images hold there."""
    x, y, z = (float(v.replace("−", "-")) for v in re.search(r"\((.+?)\) mm", readout)[1].split(", "))
    voxel = tuple(np.rint(np.linalg.solve(AFFINE, [x, y, z, 1])[:3]).astype(int))
    if not image(folder / "mask")[voxel]:
        assert "outside the mask" in readout
        return
    t, p = image(folder / test["statistic"])[voxel], 1 - float(image(folder / test["corrected"])[voxel])
    assert f"t = {t:.2f}".replace("-", "−") in readout
    assert f"corrected {tables.p_phrase(p)}".replace("\u00a0", " ") in readout
    assert ("right" if x > 0 else "left") + " nucleus" in readout


def test_in_a_browser_the_viewer_moves_and_tells(opened, study):
    contents, folder, _ = study
    first = contents["tests"][0]
    opened.click("#v-peak")
    start = opened.run(READOUT)
    said_at(folder, first, start)
    row = pd.read_csv(folder / "iron_gt.tsv", sep="\t").iloc[0]
    assert start.startswith(f"({row['x']:g}, {row['y']:g}, {row['z']:g}) mm".replace("-", "−"))
    opened.click("#v-planes > div:nth-child(3) canvas", 0.5, 0.5)
    moved = opened.run(READOUT)
    assert moved != start
    said_at(folder, first, moved)
    opened.press("ArrowRight")
    x = [float(re.search(r"\((.+?),", text)[1].replace("−", "-")) for text in (moved, opened.run(READOUT))]
    assert x[1] - x[0] == 2  # a voxel to the right of the subject
    said_at(folder, first, opened.run(READOUT))
    opened.press("PageUp")
    z = [float(re.search(r", ([^,]+)\) mm", t)[1].replace("−", "-")) for t in (moved, opened.run(READOUT))]
    assert z[1] - z[0] == 3
    opened.choose("v-test", "1", "change")
    said_at(folder, contents["tests"][1], opened.run(READOUT))
    opened.click("#clusters-0 button.peak")
    assert opened.run(READOUT) == start
    assert opened.run("document.getElementById('v-test').value") == "0"
    assert opened.run("document.activeElement.tagName") == "CANVAS"


def test_in_a_browser_left_is_left_and_up_is_up(opened):
    """Where one clicks, and where the blob (left, anterior, superior) is drawn."""
    places = [
        ((0.75, 0.25), {"y": 1, "z": 1}),
        ((0.25, 0.75), {"x": -1, "z": -1}),
        ((0.75, 0.25), {"x": 1, "y": 1}),
    ]
    for number, ((x, y), signs) in enumerate(places, 1):
        opened.click(f"#v-planes > div:nth-child({number}) canvas", x, y)
        found = re.search(r"\((.+?)\) mm", opened.run(READOUT))[1].replace("−", "-").split(", ")
        for axis, sign in signs.items():
            assert np.sign(float(found["xyz".index(axis)])) == sign, (number, axis)
    opened.click("#v-peak")
    middle = opened.run(PIXELS.replace("RESULT", "[sx / n / c.width, sy / n / c.height]"))
    for (across, down), left in zip(middle, (False, True, True), strict=True):
        assert (across < 0.45) if left else (across > 0.55)
        assert down < 0.45


def test_in_a_browser_the_viewer_shows_f_and_t_on_their_scales(other_browser, three, tmp_path):
    folder, contents = three
    tests = [*contents["tests"], shown_test("tstat1")]
    (tmp_path / "report.html").write_text(build(contents | {"tests": tests}, folder), encoding="utf-8")
    other_browser.open(tmp_path / "report.html", 1280, mobile=False)
    bars = "[...document.querySelectorAll('#ortho .bar')].filter(b => b.offsetParent).map(b => b.dataset.kind)"
    for number, kind in (("0", "F"), ("1", "t")):
        other_browser.choose("v-test", f"'{number}'", "change")
        assert f"{kind} = " in other_browser.run(READOUT)
        assert other_browser.run("document.getElementById('v-kind').textContent") == kind
        assert other_browser.run(bars) == [kind]
        top = np.ceil(image(folder / f"three_{kind.lower()}stat1").max())
        assert float(other_browser.run("document.getElementById('v-t').max")) == top
    assert not other_browser.complaints()


HOSTILE = [
    "</script><script>document.title = 'owned'</script>", "<img src=x onerror=\"document.title='owned'\">", "x" * 300,
    "a\u202eb\u2066", "</style><style>*{display:none}</style>", "\x1b[31m\x07\x00", "שלום", "\"'`&amp;{{7*7}}", "<!--",
]  # fmt: skip


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_hostile_names_change_neither_page_nor_layout(other_browser, study, tmp_path, width):
    contents, folder = json.loads(json.dumps(study[0])), tmp_path / "study"
    shutil.copytree(study[1], folder)
    every = " ".join(HOSTILE)
    contents |= {"title": every, "command": every, "device": every, "methods": HOSTILE, "versions": {every: every}}
    contents["checks"] = [{"what": f"{each}: 12 voxels are 0", "kind": "warning"} for each in HOSTILE]
    contents["cohort"] |= {"covariates": HOSTILE, "subset": every}
    contents["groups"][0]["title"] = contents["models"][0]["title"] = HOSTILE[2]
    for number, test in enumerate(contents["tests"]):
        test |= {key: HOSTILE[number + place] for place, key in enumerate(("title", "contrast", "unit", "method"))}
    (folder / "labels.tsv").write_text(f"index\tname\n1\t{HOSTILE[0]}\n2\t{HOSTILE[2]}\n")
    path = tmp_path / "report.html"
    path.write_text(build(contents, folder), encoding="utf-8")
    other_browser.open(path, width, mobile=width < 500)
    assert other_browser.run("document.title").startswith(HOSTILE[0])
    assert other_browser.run("document.scripts.length") == 3
    other_browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert other_browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert other_browser.run("[...document.images].every(each => each.naturalWidth > 20)")
    other_browser.choose("v-test", "'1'", "change")
    assert "t = " in other_browser.run(READOUT)
    assert not other_browser.complaints()
    assert other_browser.requests() == [path.as_uri()]


PIXELS = """[...document.querySelectorAll('#v-planes canvas')].map(c => {
    const copy = document.createElement('canvas'); copy.width = c.width; copy.height = c.height;
    const context = copy.getContext('2d', { willReadFrequently: true }); context.drawImage(c, 0, 0);
    const d = context.getImageData(0, 0, c.width, c.height).data; let n = 0, sx = 0, sy = 0;
    for (let i = 0; i < d.length; i += 4) if (d[i] - d[i + 2] > 90) {
        n++; sx += (i / 4) % c.width; sy += Math.floor(i / 4 / c.width); }
    return RESULT; })"""
"""Of each canvas: coloured pixels, and where they are."""


def test_in_a_browser_the_slices_are_drawn_and_the_threshold_counts(opened):
    coloured = PIXELS.replace("RESULT", "n")
    opened.click("#v-peak")
    opened.click("#v-fade")
    only = opened.run(coloured)
    assert min(only) > 50
    opened.choose("v-t", "e.max", "input")
    assert max(opened.run(coloured)) < min(only)
    opened.choose("v-t", "0", "input")
    opened.choose("v-p", "'2'", "change")
    assert all(b > a for a, b in zip(only, opened.run(coloured), strict=True))
    opened.choose("v-p", "'0.05'", "change")
    opened.click("#v-fade")


def test_in_a_browser_everything_is_printed(opened):
    opened.send("Emulation.setEmulatedMedia", media="print")
    opened.run("dispatchEvent(new Event('beforeprint'))")
    assert opened.run("[...document.querySelectorAll('details')].every(d => d.open)")
    assert opened.run("getComputedStyle(document.getElementById('ortho')).display") == "none"
    assert opened.run("document.querySelector('.slices img').getBoundingClientRect().width") > 50
    opened.run("dispatchEvent(new Event('afterprint'))")
    assert not opened.run("[...document.querySelectorAll('main details')].some(d => d.open)")
    opened.send("Emulation.setEmulatedMedia", media="")


def test_uncorrected_p_is_called_so():
    rows = [
        {"variable": "a.iron", "p": "0.01", "p_corrected": "n/a", "d": "0.5"},
        {"variable": "b.iron", "p": "0.5", "p_corrected": "n/a", "d": "0.1"},
    ]
    told = findings.of_group_table("Table", rows, ["MS", "HC"], 0.05)
    assert "uncorrected p" in told.sentence.replace("\u00a0", " ")
    assert told.survived
    rows[0]["p_corrected"] = rows[1]["p_corrected"] = "0.5"
    told = findings.of_group_table("Table", rows, ["MS", "HC"], 0.05)
    assert "uncorrected" not in told.sentence
    assert not told.survived
