"""Whatever a file holds, a reader reads it or says in one sentence what is wrong: no other error, no blow-up."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import struct
import tempfile
import tracemalloc
import zlib
from importlib import resources
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpuvox import checkpoint, files, ironmyelin
from gpuvox import randomise as api_randomise
from gpuvox.application import command, execute, inputs, plan
from gpuvox.checkpoint import RunIdentity
from gpuvox.errors import FileError
from gpuvox.files.locks import output
from gpuvox.findings import labels
from gpuvox.grid import Grid
from gpuvox.qmri import TissueModel
from gpuvox.reporter import Reporter
from gpuvox.study.ledger import STATE, Ledger
from gpuvox.study.measures import clusters, rois
from gpuvox.study.measures.map_checks import check_maps
from gpuvox.study.pipeline.config import example as example_study
from gpuvox.study.pipeline.config import read_config
from gpuvox.study.pipeline.stages import Stage, locked, remove_others, run
from gpuvox.study.report import build
from gpuvox.study.report.contents import read_contents
from tests.selection import few

SHAPE = (4, 3, 2)
MOST_BYTES = 32 << 20
"""What reading a file of some kilobytes may allocate."""

quick = settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

# -- text -----------------------------------------------------------------------------------------------------------

words = st.sampled_from(
    ["/Matrix", "/NumWaves", "/NumPoints", "/NumContrasts", "/ContrastName1", "0", "1", "2", "-1", "3.5", "1e999",
     "nan", "-inf", "1_0", "99999999999999999999", "name", "n/a", "participant_id", "a",
     '"', "'", "#", "é", "\ufeff", "",
     "٣", "0x10", "1e-320"]
)  # fmt: skip
gaps = st.sampled_from([" ", "\t", ",", "\n", "\r\n", "\r", "\x0b", "\x1c", "\u2028", "\n/Matrix\n", "\0", "  "])
texts = st.lists(st.tuples(words, gaps), max_size=40).map(lambda parts: "".join(w + g for w, g in parts).encode())
contents = st.one_of(texts, st.binary(max_size=300))

TEXT_READERS = {
    "read_matrix": files.read_matrix,
    "read_named_matrix": files.read_named_matrix,
    "read_permutations": files.read_permutations,
    "read_table": files.read_table,
    "read_table of columns": lambda path: files.read_table(path, ["a", "participant_id"]),
}


def read(reader, path):
    """What a reader gives, or None where it raises the one error that it may."""
    try:
        return reader(path)
    except FileError as error:
        said = str(error)
    assert "\n" not in said
    assert str(path.parent) in said
    return None


@pytest.mark.parametrize("name", TEXT_READERS)
@quick
@given(content=contents)
@example(content=b"")
@example(content=b"\xff\xfe\x00")
@example(content=b"a\n" + b'"' * 5)
@example(content=b"a,b\n1,2,3\n")
@example(content=b"1 2\n2 1\n")
@example(content=b'" ')
@example(content=b'" /Matrix\n/Matrix " ')
@example(content=b"a,b\n1," + b"2" * 200_000)
@example(content=b"/NumWaves 1\n/NumPoints 99999999999\n/Matrix\n1\n")
def test_text(tmp_path, name, content):
    path = tmp_path / "input.txt"
    path.write_bytes(content)
    found = read(TEXT_READERS[name], path)
    values = getattr(found, "values", found)
    if found is not None and "table" not in name:
        assert values.ndim == 2
        assert values.size
        assert np.isfinite(values).all()


@quick
@given(st.lists(st.permutations(range(1, 5)), min_size=1, max_size=4), st.data())
def test_permutations_that_are_almost_right(tmp_path, rows, data):
    rows = [list(row) for row in rows]
    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 3))
    index = rows[row][column]
    rows[row][column] = data.draw(st.sampled_from([index, -index, 0, 5, -1, 1.5, "x", "1e400", 2**70]))
    path = tmp_path / "perm.txt"
    path.write_text("\n".join(" ".join(map(str, row)) for row in rows))
    found = read(files.read_permutations, path)
    right = all(  # a negative index negates the row: each occurs once, with either sign
        sorted(str(index).removeprefix("-") for index in row) == ["1", "2", "3", "4"] for row in rows
    )
    assert (found is not None) == right
    if right:
        np.testing.assert_array_equal(found, rows)


@quick
@given(
    st.one_of(
        contents, st.sampled_from([b"[" * 100_000, b"{}", b"[]", b'{"a": NaN}', b'{"a": 1' + b"0" * 5000 + b"}"])
    )
)
def test_sidecars(tmp_path, content):
    path = tmp_path / "map.nii"
    path.touch()
    (tmp_path / "map.json").write_bytes(content)
    found = read(files.sidecar, path)
    assert found is None or isinstance(found, dict)


@quick
@given(
    st.lists(
        st.sampled_from(["a.nii", "", "#", "b", "../x", "*", "[", "\0", "a.nii.gz", "é" * 300, "."]), max_size=5
    )
)
def test_lists_of_images(tmp_path, lines):
    (tmp_path / "a.nii").touch()
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    read(files.image_names, path)
    table = tmp_path / "list.tsv"
    table.write_text("\n".join(["image", *lines]))
    read(lambda _: files.image_names(f"{table}:image"), table)
    read(lambda _: files.image_names(f"{table}:other"), table)


# -- images ---------------------------------------------------------------------------------------------------------


def image_bytes(dtype="<f4", version=1, n=3) -> bytes:
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    values = np.random.default_rng(0).normal(size=(*SHAPE, n)).astype(dtype)
    return kind(values, np.diag([2.0, 2, 2, 1])).to_bytes()


def read_all(path):
    """Every way in which an image is read."""
    found = None
    for reader in (
        files.read_header,
        files.read_mask,
        files.count_volumes,
        files.automatic_mask,
        lambda name: files.first_volumes(name, 2),
        lambda name: list(files.read_volumes(name)),
        lambda name: files.read_cohort(name, Grid(np.ones(SHAPE, dtype=bool))),
    ):
        found = read(reader, path)
    return found


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", few([".nii", ".nii.gz"], 1))
@quick
@given(st.lists(st.tuples(st.integers(0, 540), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_headers_with_bytes_changed(tmp_path, version, suffix, changes):
    content = bytearray(image_bytes(version=version))
    for start, values in changes:
        content[start : start + len(values)] = values
    path = tmp_path / f"image{suffix}"
    path.write_bytes(gzip.compress(bytes(content), 1) if suffix.endswith("gz") else bytes(content))
    read_all(path)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dims", [(10_000, 10_000, 10_000, 1), (32767, 32767, 32767, 32767), (10_000, 10_000, 100, 3)]
)
def test_headers_that_claim_more_than_there_is(tmp_path, version, suffix, dims):
    content = bytearray(image_bytes(version=version))
    place, kind = (40, "<5h") if version == 1 else (16, "<5q")
    struct.pack_into(kind, content, place, 4, *dims)
    path = tmp_path / f"image{suffix}"
    path.write_bytes(gzip.compress(bytes(content)) if suffix.endswith("gz") else bytes(content))
    tracemalloc.start()
    try:
        for reader in (files.read_mask, files.automatic_mask, lambda name: files.first_volumes(name, 2)):
            with pytest.raises(FileError):
                reader(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def write_zeros(path, shape, dtype=np.uint8, extra=0):
    """An image of zeros with a one, which compresses a thousand times, and so many bytes behind it."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(path, "wb", 9) as file:
        file.write(
            header.binaryblock + bytes(4) + b"\1" + bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize - 1)
        )
        for _ in range(extra >> 20):
            file.write(bytes(1 << 20))


def peak(work):
    """Bytes that work takes for a while."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(work, *words):
    with pytest.raises(FileError) as caught:
        work()
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """A mask whose header is right, of 64 million voxels in some kilobytes."""
    path = tmp_path_factory.mktemp("bomb") / "mask.nii.gz"
    write_zeros(path, (400, 400, 400))
    assert path.stat().st_size < 100_000
    return path


def test_masks_of_another_grid_are_not_inflated(tmp_path, bomb):
    """Every command that takes a mask, or labels, beside images compares headers first."""
    bomb = shutil.copy(bomb, tmp_path)
    data, table, out = tmp_path / "data.nii", tmp_path / "table.tsv", tmp_path / "out"
    data.write_bytes(image_bytes())
    map_ = tmp_path / "map.nii"
    map_.write_bytes(image_bytes(n=1))
    table.write_text("participant_id\tmap\tlabels\n1\tmap.nii\tmask.nii.gz\n")
    randomise = command.RunDescription(str(data), str(out), mask=str(bomb), one_sample=True)
    works = [
        lambda: inputs.read_images(inputs.prepare_run(randomise), Reporter.silent()),
        lambda: plan.plan(randomise),
        lambda: execute.execute(randomise, Reporter.silent()),
        lambda: api_randomise(str(data), mask=str(bomb)),
        lambda: ironmyelin.execute(
            ironmyelin.Command(
                qsm=str(data), r1=str(data), mask=str(bomb), reference="none", out=str(out), from_field=3.0
            ),
            Reporter.silent(),
        ),
        lambda: clusters.execute(clusters.Command(str(map_), str(out), mask=str(bomb)), Reporter(str, str)),
        lambda: rois.execute(rois.Command(str(table), "labels", {"m": "map"}, str(out)), Reporter(str, str)),
        lambda: check_maps({"m": str(data)}, str(bomb), ["1", "2", "3"]),
        lambda: build(
            {"title": "t", "cohort": {}, "mask": "mask.nii.gz", "tests": [{"statistic": "map.nii"}]}, tmp_path
        ),
    ]
    for work in works:
        assert peak(lambda work=work: refused(work, "400 × 400 × 400", "4 × 3 × 2")) < MOST_BYTES
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".img.gz"])
def test_data_longer_than_the_header_promises(tmp_path, suffix):
    """A little padding may follow; more is refused after a megabyte, however much it is."""
    path = tmp_path / "mask.nii.gz"
    write_zeros(path, SHAPE, extra=1 << 20)
    assert files.read_mask(path).n_voxels == 1
    write_zeros(path, SHAPE, extra=64 << 20)
    if suffix == ".img.gz":
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[344:348] = b"ni1\0"
        struct.pack_into("<f", content, 108, 0)
        (tmp_path / "mask.hdr.gz").write_bytes(gzip.compress(bytes(content[:348])))
        (tmp_path / "mask.img.gz").write_bytes(gzip.compress(bytes(content[352:])))
        path.unlink()
        path = tmp_path / "mask.hdr.gz"
    assert peak(lambda: refused(lambda: files.read_mask(path), "more data than its header announces")) < MOST_BYTES


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("claimed", [1 << 30, (1 << 25) + 8, 1 << 20, 0, -1, 7, -(1 << 31)])
@pytest.mark.parametrize("suffix", few([".nii.gz", ".nii", ".hdr.gz"], 1))
def test_extensions_of_any_size(tmp_path, version, claimed, suffix):
    """An extension says how long it is, and its file is inflated that far: to the header's end at most."""
    size = 348 if version == 1 else 540
    content = bytearray(image_bytes(version=version)[:size]) + b"\1\0\0\0" + struct.pack("<ii", claimed, 6)
    kind, place = ("<f", 108) if version == 1 else ("<q", 168)
    struct.pack_into(kind, content, place, size + 4 + 160)
    if suffix == ".hdr.gz":
        at = 344 if version == 1 else 4
        content[at : at + 3] = b"ni" + str(version).encode()
    content += bytes(64 << 20)
    path = tmp_path / f"image{suffix}"
    path.write_bytes(gzip.compress(bytes(content), 1) if suffix.endswith("gz") else bytes(content))
    (tmp_path / "image.img.gz").write_bytes(gzip.compress(bytes(300), 1))
    if suffix != ".hdr.gz":
        (tmp_path / "image.img.gz").unlink()
    del content
    assert peak(lambda: refused(lambda: files.read_header(path), str(path))) < 3 * files.MOST_HEADER


@pytest.mark.parametrize("offset", [1e30, float("nan"), float("inf"), -1e30, 2.0**31, 2.0**25])
def test_data_that_begin_anywhere(tmp_path, offset):
    content = bytearray(image_bytes())
    content[348] = 1
    struct.pack_into("<f", content, 108, offset)
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(bytes(content)))
    assert peak(lambda: refused(lambda: files.read_mask(path), str(path))) < MOST_BYTES


def test_extensions_are_read_over(tmp_path):
    image = nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"x" * 5000))
    for name in ("image.nii", "image.nii.gz", "pair.hdr"):
        kind = nib.Nifti1Pair if name == "pair.hdr" else nib.Nifti1Image
        nib.save(kind(image.dataobj, image.affine, image.header), tmp_path / name)
        assert files.read_mask(tmp_path / name).n_voxels == 24


@pytest.mark.parametrize("name", [*TEXT_READERS, "sidecar", "study", "report", "regions"])
def test_text_of_an_absurd_size(tmp_path, name):
    """A file with a hole of a terabyte takes no room on the disk, and is refused by its size."""
    readers = TEXT_READERS | {
        "sidecar": files.sidecar, "study": read_config, "report": read_contents, "regions": labels.read_regions,
    }  # fmt: skip
    path = tmp_path / "input.json"
    with path.open("wb") as file:
        file.write(b"a\n1\n")
        file.truncate(1 << 40)
    (tmp_path / "input.nii").touch()
    given = tmp_path / "input.nii" if name == "sidecar" else path
    assert peak(lambda: refused(lambda: readers[name](given), str(path), "MiB")) < MOST_BYTES


@quick
@given(st.integers(0, 2000), st.sampled_from([".nii", ".nii.gz"]), st.binary(max_size=20))
def test_images_cut_short_or_with_garbage_behind(tmp_path, size, suffix, garbage):
    whole = image_bytes()
    content = gzip.compress(whole, 1) if suffix.endswith("gz") else whole
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content[:size] + garbage)
    found = read_all(path)
    if len(content[:size]) < len(content) - 8 and not garbage:
        assert found is None


@quick
@given(st.one_of(st.binary(max_size=600), st.binary(max_size=600).map(lambda b: gzip.compress(b, 1))))
def test_files_that_are_no_images(tmp_path, content):
    for suffix in (".nii", ".nii.gz"):
        path = tmp_path / f"image{suffix}"
        path.write_bytes(content)
        assert read_all(path) is None


@quick
@given(st.integers(10, 500), st.binary(min_size=1, max_size=4))
def test_compressed_data_that_are_damaged(tmp_path, start, values):
    content = bytearray(gzip.compress(image_bytes(), 1))
    content[start : start + len(values)] = values
    path = tmp_path / "image.nii.gz"
    path.write_bytes(bytes(content))
    found = read_all(path)
    try:
        same = gzip.decompress(bytes(content)) == image_bytes()
    except (OSError, EOFError, zlib.error):
        same = None
    if same is None:
        assert found is None


def test_a_sidecar_that_is_deep(tmp_path):
    (tmp_path / "map.nii").touch()
    deep: dict = {}
    for _ in range(50):
        deep = {"a": deep}
    (tmp_path / "map.json").write_text(json.dumps(deep))
    assert files.sidecar(tmp_path / "map.nii") == deep


@quick
@given(
    st.lists(st.integers(0, 700), max_size=4),
    st.integers(0, 5000),
    st.sampled_from([b"", b"x", b"\x1f\x8b", b"\0x"]),
)
def test_compressed_files_of_several_members(tmp_path, cuts, zeros, garbage):
    """As gzip reads them: one after the other, zeros between and behind them left out, anything else an error."""
    whole = image_bytes()
    ends = [0, *sorted(cuts), len(whole)]
    members = [gzip.compress(whole[start:stop]) for start, stop in pairwise(ends)]
    path = tmp_path / "image.nii.gz"
    path.write_bytes(bytes(zeros % 2 * zeros).join(members) + bytes(zeros) + garbage)
    found = read(lambda name: files.read_cohort(name, Grid(np.ones(SHAPE, dtype=bool))), path)
    assert (found is None) == bool(garbage)
    if found is not None:
        np.testing.assert_array_equal(found.ravel(), np.frombuffer(whole[352:], dtype="<f4"))


# -- TOML and JSON of a study ---------------------------------------------------------------------------------------

EXAMPLE = example_study()
MODEL = (resources.files("gpuvox") / "relaxation" / "stueber2014.toml").read_text(encoding="utf-8")

fragments = st.sampled_from(
    ["=", "[", "]", "[[", '"', "'", '"""', "\n", "#", "{", "}", ",", "true", "1", "-1", "nan", "inf", "1e999", "0x1F",
     "1979-05-27", "[[regression]]", "[study]", "[maps.a.b]", "order", "[groups.order]", "\0", "\ud7ff", "é",
     "9" * 5000, "[" * 3000, "a." * 2000, "title = 3", "p = []", "merge = {a = 1}"]
)  # fmt: skip
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), fragments), min_size=1, max_size=4)


def edited(text, changes):
    """The text with pieces put in place of others."""
    for where, length, piece in changes:
        at = int(where * len(text))
        text = text[:at] + piece + text[at + length :]
    return text.encode("utf-8", "surrogatepass")


def refusal(work):
    """The sentence with which work is refused, None where it is done."""
    try:
        work()
    except ValueError as error:
        return str(error)
    return None


@quick
@given(edits)
@example([(0.3, 0, "\nx = " + "[" * 3000)])
def test_descriptions_of_a_study(tmp_path, changes):
    path = tmp_path / "study.toml"
    path.write_bytes(edited(EXAMPLE, changes))
    read(read_config, path)


@quick
@given(st.binary(max_size=200))
def test_files_that_describe_no_study(tmp_path, content):
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    read(read_config, path)


@quick
@given(edits)
def test_models_of_tissue(tmp_path, changes):
    path = tmp_path / "model.toml"
    path.write_bytes(edited(MODEL, changes))
    said = refusal(lambda: TissueModel.read(path))
    assert said is None or str(path) in said


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@quick
@given(json_values)
def test_ledgers_of_a_study(tmp_path, content):
    """What stages did before: whatever stands there, nothing outside the folder is touched."""
    folder = tmp_path / "results"
    folder.mkdir(exist_ok=True)
    ledger = {"format": 1, "stages": {"s": content}, "hashes": content}
    (folder / STATE).write_text(json.dumps(ledger))

    def work(talk):
        (folder / "o.txt").write_text("x")

    said = refusal(lambda: run([Stage("s", {}, ("o.txt",), work)], Ledger.open(folder), Reporter(str, str)))
    assert said is None or str(folder) in said


@quick
@given(
    st.dictionaries(st.sampled_from(["title", "cohort", "tests", "groups", "models", "mask", "seed"]), json_values)
)
def test_records_of_a_study(tmp_path, content):
    said = refusal(lambda: build(content, tmp_path))
    assert said is None or "study.json" in said


# -- links, and files of any size, in a folder of results that came from others -------------------------------------

HOLE = 1 << 40
"""Bytes of a file that is a hole: it takes no room on the disk."""


def hollow(path, beginning=b""):
    with path.open("wb") as file:
        file.write(beginning)
        file.truncate(HOLE)
    return path


def test_tallies_and_ledgers_of_an_absurd_size(tmp_path):
    """They are refused by their size, before anything is read."""
    tally = hollow(tmp_path / "c.tally", b"gpuvox tally 1\n")
    assert peak(lambda: refused(lambda: checkpoint.read(tally), str(tally), "memory")) < MOST_BYTES
    ledger = hollow(tmp_path / STATE, b"{")
    assert peak(lambda: refused(lambda: Ledger.open(tmp_path), str(ledger), "damaged")) < MOST_BYTES


kinds = st.sampled_from(["file", "link", "folder link", "dangling", "loop", "hard link", "pipe", "folder"])
outputs = st.sampled_from(
    ["o.txt", "sub/o.txt", "sub/../o.txt", "../precious.txt", "sub/../../precious.txt", "sub", ".", "", "sub/x/o.txt",
     "..", "o.txt/..", "\0", "é" * 300, "/etc/hostname", "*"]
)  # fmt: skip


def plant(path, kind, precious):
    """Something at a place where a run may look for a file, or a folder, of its own."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        if kind == "file":
            path.write_text("x")
        elif kind in ("link", "folder link", "dangling", "loop"):
            target = {
                "link": precious,
                "folder link": precious.parent,
                "dangling": precious.parent / "new",
                "loop": path,
            }
            path.symlink_to(target[kind])
        elif kind == "hard link":
            os.link(precious, path)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()


def outside(folder, results):
    """All that is beside a folder of results: names, and what they hold."""
    return {
        path.relative_to(folder): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
        if results not in (path, *path.parents)
    }


@quick
@given(
    st.dictionaries(st.sampled_from(["o.txt", "sub", "sub/o.txt", f"{STATE}.lock"]), kinds, max_size=3),
    st.lists(outputs, max_size=3),
)
@example({"sub": "folder link"}, ["sub/precious.txt"])
@example({"o.txt": "link"}, ["o.txt"])
@example({f"{STATE}.lock": "link"}, [])
def test_links_in_the_results_of_a_study(planted, recorded):
    """Whatever stands in the folder, and in its ledger: nothing outside of it is written, removed or made."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        precious, results = top / "precious.txt", top / "results"
        precious.write_text("precious")
        results.mkdir()
        for place, kind in planted.items():
            plant(results / place, kind, precious)
        key = {"settings": {}, "sources": {}, "after": {}}
        done = {"key": key, "outputs": dict.fromkeys(recorded, "0"), "seconds": 1, "warnings": []}
        ledger = {"format": 1, "stages": {"s": done, "gone": done}, "hashes": {}}
        (results / STATE).write_text(json.dumps(ledger))
        before = outside(top, results)

        def work(talk):
            files.write_text(results / "o.txt", "x")
            files.write_text(results / "sub" / "o.txt", "x")

        def study():
            with locked(results, str):
                read_back = Ledger.open(results)
                remove_others(read_back, ["s"])
                run([Stage("s", {}, ("o.txt", "sub/o.txt"), work)], read_back, Reporter(str, str))

        refusal(study)
        assert outside(top, results) == before


@quick
@given(st.dictionaries(st.sampled_from(["", ".lock", "_randomise.json", "_tstat1.nii.gz"]), kinds, max_size=3))
@example({"": "link"})
@example({".lock": "hard link"})
def test_links_beside_the_outputs_of_a_run(planted):
    """A checkpoint, a lock, a record and a map are files of the run's own, or it does not begin."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        precious, results = top / "precious.txt", top / "results"
        precious.write_text("precious")
        results.mkdir()
        for ending, kind in planted.items():
            plant(results / f"out{ending}", kind, precious)
        before = outside(top, results)

        def work():
            with (
                output(results / "out", str),
                checkpoint.Checkpoint(results / "out", RunIdentity({}, {}), False, str) as kept,
            ):
                files.write_json(results / "out_randomise.json", {"a": 1})
                grid = Grid(np.ones(SHAPE, dtype=bool))
                files.write_map(results / "out_tstat1", np.zeros(24, np.float32), grid, None)
                kept.write()

        refusal(work)
        assert outside(top, results) == before
