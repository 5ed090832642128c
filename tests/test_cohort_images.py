"""Images join the table by participant; order alone decides nothing."""

import json
import unicodedata

import nibabel as nib
import numpy as np
import pytest

from gpuvox.cohort.exchangeability import Columns, find_blocks
from gpuvox.cohort.hypotheses import read_hypothesis
from gpuvox.cohort.images import find_images
from gpuvox.cohort.model import build_model
from gpuvox.cohort.table import Cohort, complete, read_cohort
from gpuvox.errors import DesignError, FileError
from gpuvox.participants import Rows, join
from gpuvox.reporter import Reporter


class Listener:
    def __init__(self):
        self.warned = []
        self.reporter = Reporter(lambda text: None, self.warned.append)


def write_table(path, names, rows):
    path.write_text("\n".join("\t".join(map(str, row)) for row in [names, *rows]) + "\n")
    return read_cohort(path)


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_stack(path, n):
    values = np.broadcast_to(np.arange(n, dtype=np.float32), (2, 2, 2, n))
    nib.save(nib.Nifti1Image(np.ascontiguousarray(values), np.eye(4)), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(found, rows):
    return [path.as_posix() for path in found.names(rows)]


def find(source, cohort):
    return find_images(source, cohort, Listener().reporter)


# -- templates ------------------------------------------------------------------------------------------------------


def test_a_template_finds_each_row_whatever_the_order(folder):
    touch(folder, *(f"maps/{who}/anat/{who}_gm_probseg.nii.gz" for who in ("sub-01", "sub-02", "sub-10")))
    cohort = write_table(folder / "p.tsv", ["participant_id"], [["sub-10"], ["sub-01"], ["sub-02"]])
    found = find("maps/{participant_id}/anat/{participant_id}_*probseg.nii.gz", cohort)
    assert names_of(found, range(3)) == [
        f"maps/{w}/anat/{w}_gm_probseg.nii.gz" for w in ("sub-10", "sub-01", "sub-02")
    ]
    assert not found.missing
    assert not found.stacked


def test_sessions_and_runs_are_columns(folder):
    touch(folder, "sub-1_ses-a_t1.nii", "sub-1_ses-b_t1.nii", "sub-2_ses-a_t1.nii", "sub-2_ses-b_t1.nii")
    rows = [["sub-2", "b"], ["sub-1", "a"], ["sub-1", "b"], ["sub-2", "a"]]
    cohort = write_table(folder / "p.tsv", ["participant_id", "session"], rows)
    found = find("{participant_id}_ses-{session}_t1", cohort)
    assert names_of(found, range(4)) == [f"{who}_ses-{at}_t1.nii" for who, at in rows]
    with pytest.raises(
        FileError, match=r"several images match .* for 4 rows.*sub-2 at b: sub-2_ses-a_t1.nii, sub-2"
    ):
        find("{participant_id}_*_t1", cohort)


def test_patterns_in_cells_are_plain_text(folder):
    touch(folder, "a[1].nii.gz", "a1.nii.gz")
    cohort = write_table(folder / "p.tsv", ["participant_id", "file"], [["x", "a[1]"], ["y", "a1"]])
    assert names_of(find("{file}.nii.gz", cohort), range(2)) == ["a[1].nii.gz", "a1.nii.gz"]


def test_several_matches_are_refused_with_the_list(folder):
    touch(folder, "sub-1_a.nii", "sub-1_b.nii", "sub-2_a.nii")
    cohort = write_table(folder / "p.tsv", ["participant_id"], [["sub-1"], ["sub-2"]])
    with pytest.raises(FileError, match=r"sub-1: sub-1_a.nii, sub-1_b.nii") as caught:
        find("{participant_id}_*.nii", cohort)
    assert caught.value.option == "--images"


def test_a_pair_of_files_is_one_image(folder):
    touch(folder, "sub-1.hdr", "sub-1.img", "sub-2.hdr", "sub-2.img")
    cohort = write_table(folder / "p.tsv", ["participant_id"], [["sub-1"], ["sub-2"]])
    assert names_of(find("{participant_id}.*", cohort), range(2)) == ["sub-1.hdr", "sub-2.hdr"]


def test_a_name_that_goes_on_is_not_the_participant(folder):
    """``sub-1*`` matches the image of sub-10 where that of sub-1 is missing."""
    touch(folder, "sub-10_t1.nii", "sub-2_t1.nii")
    cohort = write_table(folder / "p.tsv", ["participant_id"], [["sub-1"], ["sub-2"]])
    with pytest.raises(FileError, match=r"sub-1.*sub-10"):
        find("{participant_id}*.nii", cohort)


def test_a_column_that_names_the_image_of_another_is_refused(folder):
    touch(folder, "sub-1.nii", "sub-2.nii")
    cohort = write_table(folder / "p.tsv", ["participant_id", "f"], [["sub-1", "sub-2"], ["sub-2", "sub-1"]])
    for source in ("{f}.nii", "f"):
        with pytest.raises(FileError, match=r"row 1 of .*p.tsv is sub-1, volume 1 of .* is sub-2"):
            find(source, cohort)


def test_an_image_of_two_rows_is_refused(folder):
    touch(folder, "sub-1.nii", "sub-2.nii")
    rows = [["sub-1", "a"], ["sub-1", "b"], ["sub-2", "a"]]
    cohort = write_table(folder / "p.tsv", ["participant_id", "session"], rows)
    with pytest.raises(FileError, match=r"sub-1.nii is the image both of sub-1 at a and of sub-1 at b"):
        find("{participant_id}.nii", cohort)


def test_missing_images_are_listed_or_dropped(folder):
    touch(folder, "sub-1.nii", "sub-3.nii")
    rows = [["sub-1", 30], ["sub-2", 40], ["sub-3", "n/a"], ["sub-4", "n/a"]]
    cohort = write_table(folder / "p.tsv", ["participant_id", "age"], rows)
    found = find("{participant_id}.nii", cohort)
    lacking = {row: [why] for row, why in found.missing.items()}
    for row, names in cohort.missing(["age"]).items():
        lacking.setdefault(row, []).extend(f"no {name}" for name in names)
    with pytest.raises(
        FileError, match=r"3 rows of 4 lack .*sub-2 \(no image matches sub-2.nii\), sub-3 \(no age\)"
    ):
        complete(cohort, lacking, "refuse")
    with pytest.raises(FileError, match=r"no row has an image"):
        complete(cohort, lacking | {0: ["x"]}, "drop")
    kept, dropped = complete(cohort, lacking, "drop")
    assert kept == [0]
    assert dropped.who == ("sub-2", "sub-3", "sub-4")
    assert dropped.joined(dropped).reasons_by_name() == {
        name + end: reason for end in ("", " (2)") for name, reason in zip(dropped.who, dropped.reasons)
    }
    assert dropped.lines(4, of_subjects=True)[0].startswith("3 subjects or visits dropped: sub-2 (no image")
    assert dropped.lines(4) == [
        "3 rows of 4 dropped: sub-2 (no image matches sub-2.nii), sub-3 (no age), "
        "sub-4 (no image matches sub-4.nii, no age)"
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "{participant_id}_x.nii",
            "no image matches .* for any of 2 rows; the first was looked for as sub-1_x.nii",
        ),
        ("{participant}.nii", "has no column 'participant'; it has participant_id, age"),
        ("{participant_id.nii", "is not a template"),
        ("{participant_id:3}.nii", "a column is named as in"),
        ("{}.nii", "a column is named as in"),
        ("*.nii", "does not name participants"),
        ("list.txt", "does not name participants"),
        ("p.tsv:age", "there is no image"),
        ("nothing.nii.gz", "there is no image"),
    ],
)
def test_templates_that_are_none(folder, source, said):
    touch(folder, "sub-1.nii", "sub-2.nii")
    cohort = write_table(folder / "p.tsv", ["participant_id", "age"], [["sub-1", 1], ["sub-2", 2]])
    with pytest.raises(FileError, match=said):
        find(source, cohort)


def test_an_empty_cell_is_a_missing_image(folder):
    touch(folder, "sub-1_a.nii")
    cohort = write_table(folder / "p.tsv", ["participant_id", "x"], [["sub-1", "a"], ["sub-2", "n/a"]])
    assert find("{participant_id}_{x}.nii", cohort).missing == {1: "no x for the name of its image"}


# -- columns of paths -----------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_table(folder):
    touch(folder, "data/maps/a.nii.gz", "data/maps/b.nii.gz")
    rows = [["sub-1", "maps/b.nii.gz"], ["sub-2", "maps/a"], ["sub-3", "n/a"], ["sub-4", "maps/none"]]
    cohort = write_table(folder / "data" / "p.tsv", ["participant_id", "gm"], rows)
    found = find("gm", cohort)
    assert [path.name for path in found.names([0, 1])] == ["b.nii.gz", "a.nii.gz"]
    assert found.missing[2] == "no gm"
    assert "there is no image" in found.missing[3]


# -- 4D images ------------------------------------------------------------------------------------------------------


def test_a_4d_image_without_names_is_refused(folder):
    write_stack("all.nii.gz", 3)
    cohort = write_table(folder / "p.tsv", ["participant_id"], [["sub-1"], ["sub-2"], ["sub-3"]])
    with pytest.raises(
        FileError, match=r"nothing names the participants of the 3 volumes of all.nii.gz; list them in all.tsv"
    ):
        find("all", cohort)


@pytest.mark.parametrize("how", ["json", "tsv", "csv"])
def test_volumes_join_by_participant(folder, how):
    write_stack("all.nii.gz", 3)
    if how == "json":
        (folder / "all.json").write_text(json.dumps({"Subjects": ["sub-03", "sub-01", "sub-02"]}))
    else:
        (folder / f"all.{how}").write_text("participant_id\nsub-03\nsub-01\nsub-02\n")
    cohort = write_table(folder / "p.tsv", ["participant_id"], [["1"], ["2"], ["3"], ["4"]])
    found = find("all.nii.gz", cohort)
    assert found.volumes == {0: 1, 1: 2, 2: 0}
    assert found.ordered([0, 1, 2]) == [2, 0, 1]
    assert found.missing == {3: "no volume of all.nii.gz"}
    assert found.is_whole([2, 0, 1])
    assert not found.is_whole([2, 0])


def test_volumes_join_by_participant_and_visit(folder):
    write_stack("all.nii.gz", 4)
    (folder / "all.tsv").write_text("participant_id\tsession\n1\tpost\n1\tpre\n2\tpost\n2\tpre\n")
    rows = [["1", "ses-pre"], ["2", "ses-pre"], ["1", "ses-post"], ["2", "ses-post"]]
    cohort = write_table(folder / "p.tsv", ["participant_id", "session"], rows)
    assert find("all", cohort).volumes == {0: 1, 1: 3, 2: 0, 3: 2}
    (folder / "all.tsv").write_text("participant_id\n1\n1\n2\n2\n")
    with pytest.raises(FileError, match="nothing tells its volumes apart"):
        find("all", cohort)


def test_volumes_of_others_are_refused(folder):
    write_stack("all.nii.gz", 2)
    (folder / "all.tsv").write_text("participant_id\nA\nB\n")
    cohort = write_table(folder / "p.tsv", ["participant_id"], [["1"], ["2"]])
    with pytest.raises(FileError, match="have no participant in common"):
        find("all", cohort)
    (folder / "all.tsv").write_text("participant_id\n1\n2\n3\n")
    with pytest.raises(FileError, match=r"has 3 rows, and all\.nii\.gz beside it 2 volumes"):
        find("all", cohort)


# -- exchangeability ------------------------------------------------------------------------------------------------


def cohort_of(names, rows):
    import pandas as pd

    return Cohort(pd.DataFrame(rows, columns=names, dtype=object), "p.tsv")


ROWS = [["a", "x", "1", "pre"], ["b", "x", "1", "pre"], ["a", "x", "2", "post"], ["c", "y", "1", "pre"],
        ["b", "x", "2", "post"], ["c", "y", "3", "post"]]  # fmt: skip
VISITS = cohort_of(["participant_id", "site", "scanner", "session"], ROWS)


def test_blocks_are_where_all_columns_agree():
    found = find_blocks(Columns(blocks=("site",)), VISITS)
    assert found.blocks.tolist() == [1, 1, 1, 2, 1, 2]
    assert not found.whole
    assert found.sentence == "rows are permuted within each site only (2 blocks)"
    nested = find_blocks(Columns(blocks=("site",), within=("scanner",)), VISITS)
    assert nested.blocks.tolist() == [1, 1, 2, 3, 2, 4]
    assert "y 1, y 3 occurs in one row only" in nested.warnings[0]
    assert find_blocks(Columns(), VISITS).blocks is None


def test_pairs_and_wholes():
    paired = find_blocks(Columns(paired="participant_id"), VISITS)
    assert paired.blocks.tolist() == [1, 2, 1, 3, 2, 3]
    assert not paired.warnings
    whole = find_blocks(Columns(whole="participant_id"), VISITS)
    assert whole.blocks.tolist() == [1, 2, 1, 3, 2, 3]
    assert whole.whole
    assert not whole.warnings
    unnamed = Cohort(VISITS.text.rename(columns={"session": "month"}), "p.tsv")
    assert "in the order of the table" in find_blocks(Columns(whole="participant_id"), unnamed).warnings[0]
    assert whole.sentence == "the 3 blocks of participant_id are permuted as wholes, each with its 2 rows"


def test_blocks_that_cannot_be():
    with pytest.raises(DesignError, match="most have 4, unlike y"):
        find_blocks(Columns(whole="site"), VISITS)
    with pytest.raises(FileError, match="no column 'family'"):
        find_blocks(Columns(within=("family",)), VISITS)
    with pytest.raises(DesignError, match="nothing can be permuted"):
        find_blocks(Columns(within=("participant_id",)), VISITS.at([0, 1, 3]))
    other = cohort_of(["participant_id", "session"], [["a", "pre"], ["a", "post"], ["b", "post"], ["b", "pre"]])
    with pytest.raises(DesignError, match="a has pre, post, b has post, pre"):
        find_blocks(Columns(whole="participant_id"), other)


def test_three_visits_of_a_pair_have_a_warning():
    rows = [[who, visit] for who in "ab" for visit in "123"]
    found = find_blocks(Columns(paired="participant_id"), cohort_of(["participant_id", "session"], rows))
    assert "assumes that all have the same variance" in found.warnings[0]


# -- accents --------------------------------------------------------------------------------------------------------


def test_accents_that_look_alike_are_the_same_text(folder):
    """Some systems write é as one character, others as e and an accent: in names of columns, levels, ids and files."""
    one, two = (
        (unicodedata.normalize(form, "Zoé"), unicodedata.normalize(form, "état")) for form in ("NFC", "NFD")
    )
    touch(folder, *(f"{name}_{at}.nii" for name in (two[0], "Ann") for at in "ab"))
    rows = [[two[0], "a", two[1]], [one[0], "b", one[1]], ["Ann", "a", "x"], ["Ann", "b", "x"]]
    cohort = write_table(folder / "p.tsv", ["participant_id", "session", two[1]], rows)
    found = find("{participant_id}_{session}.nii", cohort)
    assert not found.missing
    assert len({path.name for path in found.paths.values()}) == 4
    assert cohort.who.keys(with_visits=True)[:2] == ["zoé at a", "zoé at b"]
    assert cohort.categories(one[1]) == ([one[1], one[1], "x", "x"], ("x", one[1]))
    for name in (one[1], two[1]):
        model = build_model(name, cohort)
        (weights,) = read_hypothesis(f"{name} - x", model).weights
        assert dict(zip(model.names, weights)) == {f"{one[1]}[x]": -1, f"{one[1]}[{one[1]}]": 1}
        assert Columns(paired=name).names == [one[1]]
    numbers = ["participant_id", one[1]], [["sub-1", 1], ["sub-2", 2]]
    assert write_table(folder / "q.tsv", *numbers).is_number(two[1])
    (folder / "q.json").write_text(json.dumps({two[1]: {"Levels": {"1": "x", "2": "y"}}}))
    assert not write_table(folder / "q.tsv", *numbers).at(range(2)).is_number(one[1])
    assert join(Rows((one[0],), "a"), Rows((two[0],), "b", "volume")) == {0: 0}


def test_columns_whose_names_look_alike_are_refused(folder):
    names = [unicodedata.normalize(form, "état") for form in ("NFC", "NFD")]
    with pytest.raises(FileError, match="two columns named"):
        write_table(folder / "p.tsv", ["participant_id", *names], [["sub-1", 1, 2]])


def test_the_micro_sign_is_not_the_greek_letter_that_python_reads(folder):
    cohort = write_table(folder / "p.tsv", ["participant_id", "\u00b5"], [["a", 1], ["b", 2], ["c", 4]])
    assert build_model("\u00b5", cohort).names == ("mean", "\u00b5")
    with pytest.raises(DesignError, match="rename \u00b5 in the table"):
        build_model("log(\u00b5)", cohort)
