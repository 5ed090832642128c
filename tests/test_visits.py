"""``gpuvox voxelwise --longitudinal``: one image for each subject, against ``gpuvox longitudinal`` and by hand."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpuvox
from gpuvox.cli.main import main
from gpuvox.cohort.longitudinal import Longitudinal, summarise
from gpuvox.cohort.table import as_cohort
from gpuvox.findings.methods import paragraphs
from gpuvox.findings.runs import read_run
from gpuvox.findings.tested import ClusterOptions
from tests.front_door import AFFINE, Cohort, dummy, people, same

TEMPLATE = "maps/{participant_id}_{session}_gm.nii.gz"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """10 subjects of two groups, two sessions a year or so apart; the change of MS differs."""
    rng = np.random.default_rng(5)
    one = people(10, group=np.resize(["HC", "MS"], 10), age=rng.integers(30, 60, 10))
    first = one.assign(session="ses-1", time=0.0)
    last = one.assign(session="ses-2", time=rng.uniform(0.8, 1.3, 10).round(2), age=one.age + 1)
    cohort = Cohort(tmp_path_factory.mktemp("visits"), pd.concat([first, last]))
    ms = ((cohort.table.group == "MS") & (cohort.table.session == "ses-2")).to_numpy()
    cohort.values[ms, 2:5, 2:5, 2:4] += 2
    cohort.write()
    return cohort


def of_subjects(cohort):
    """Subjects in the order of the table, and the row of each at both sessions."""
    t = cohort.table
    subjects = list(dict.fromkeys(t.participant_id))
    rows = {
        s: [int(t.index[(t.participant_id == s) & (t.session == v)][0]) for v in ("ses-1", "ses-2")]
        for s in subjects
    }
    return subjects, np.array(list(rows.values()))


def test_change_per_year_is_that_of_gpuvox_longitudinal(cohort):
    words = ["--model", "group", "--test", "MS - HC", "--longitudinal", "participant_id", "--visit", "session"]
    assert cohort.voxelwise(*words, "--years", "time", images=TEMPLATE) == 0
    out, table = cohort.folder / "out", cohort.folder / "participants.tsv"
    with_images = cohort.table.assign(gm=[f"maps/{name}.nii.gz" for name in cohort.names])
    with_images.to_csv(cohort.folder / "visits.tsv", sep="\t", index=False)
    line = ["longitudinal", "--table", str(cohort.folder / "visits.tsv"), "--visit", "session", "--group", "group"]
    assert (
        main(
            [
                *line,
                "--years",
                "time",
                "--map",
                "gm=gm",
                "--designs",
                "change",
                "--out",
                str(cohort.folder / "long"),
            ]
        )
        == 0
    )
    theirs = nib.load(cohort.folder / "long_gm_change_per_year.nii.gz").get_fdata()
    mine = nib.load(out / "randomise" / "images.nii.gz").get_fdata()
    order = json.loads((cohort.folder / "long_gm_change_per_year.json").read_text())["Subjects"]
    subjects = json.loads((out / "randomise" / "images.json").read_text())["Subjects"]
    assert_allclose(mine, theirs[..., [order.index(s) for s in subjects]], rtol=1e-6, atol=1e-6)
    assert subjects == list(dict.fromkeys(pd.read_csv(table, sep="\t").participant_id))


def test_group_by_time_by_hand(cohort):
    """The change, tested by permuting subjects; and its mean, by flips."""
    subjects, rows = of_subjects(cohort)
    t = cohort.table.iloc[rows[:, 0]].reset_index(drop=True)
    values, cohort.values = cohort.values, cohort.values[rows[:, 1]].astype(float) - cohort.values[rows[:, 0]]
    cohort.values = cohort.values.astype(np.float32)
    try:
        age = t.age - t.age.mean()
        design = np.column_stack([dummy(t.group, "HC"), dummy(t.group, "MS"), age])
        root = cohort.by_hand(design, [-1, 1, 0], "-T", rows=range(10))
        words = [
            "--model",
            "group + age",
            "--test",
            "MS - HC",
            "--longitudinal",
            "participant_id",
            "--visit",
            "session",
        ]
        assert cohort.voxelwise(*words, images=TEMPLATE, out="change") == 0
        same(cohort.folder / "change", "MSMinusHC", root, "tstat1")
        root = cohort.by_hand(None, None, "-1", "-T", rows=range(10))
        assert cohort.voxelwise(*words[4:], images=TEMPLATE, out="mean") == 0
        same(cohort.folder / "mean", "mean", root, "tstat1")
    finally:
        cohort.values = values
    saved = pd.read_csv(cohort.folder / "change" / "participants.tsv", sep="\t")
    assert list(saved.participant_id) == subjects
    assert set(saved.visits) == {"ses-1, ses-2"}
    record = json.loads((cohort.folder / "change" / "voxelwise.json").read_text())
    assert record["longitudinal"]["summary"] == "change"
    assert (record["rows"], record["rows_of_table"]) == (10, 20)


def test_change_equals_the_interaction_of_group_and_session(cohort):
    """t of the change scores is that of the model with a mean for each subject, which permutes whole subjects."""
    ordered = cohort.table.sort_values(["session", "participant_id"])
    common = {"mask": cohort.folder / "mask.nii.gz", "n_permutations": 5, "seed": 1, "voxel": True, "tfce": False}
    images, test = f"{cohort.folder}/{TEMPLATE}", "change: MS:ses-2 - MS:ses-1 - HC:ses-2 + HC:ses-1"
    model, whole = "participant_id + session + session:group", {"whole": "participant_id"}
    mixed = gpuvox.voxelwise(images, ordered, model, test, exchangeability=whole, **common)
    how = {"subject": "participant_id", "visit": "session"}
    plain = gpuvox.voxelwise(images, ordered, "group", "MS - HC", longitudinal=how, **common)
    assert_allclose(plain.maps["MS - HC", "t"], mixed.maps["change", "t"], rtol=1e-4, atol=1e-5)


def test_python_summarises_images_in_memory(cohort):
    how = {"subject": "participant_id", "visit": "session", "summary": "mean"}
    common = {
        "mask": cohort.folder / "mask.nii.gz", "n_permutations": 20, "seed": 1, "longitudinal": how, "voxel": True,
        "tfce": False,
    }  # fmt: skip
    args = (cohort.table, "group", "MS - HC")
    a = gpuvox.voxelwise(f"{cohort.folder}/{TEMPLATE}", *args, **common)
    stack = np.moveaxis(cohort.values, 0, -1)
    for held in (nib.Nifti1Image(stack, AFFINE), stack, [nib.Nifti1Image(v, AFFINE) for v in cohort.values]):
        b = gpuvox.voxelwise(held, *args, **common)
        assert_array_equal(a.maps["MS - HC", "voxFWE"], b.maps["MS - HC", "voxFWE"])
    with pytest.raises(TypeError, match="a dict is expected that takes subject, visit"):
        gpuvox.voxelwise(stack, *args, **{**common, "longitudinal": "participant_id"})
    with pytest.raises(TypeError, match="it takes one column"):
        gpuvox.voxelwise(stack, *args, **common, exchangeability={"whole": ["group", "age"]})
    mean = gpuvox.voxelwise(
        stack, cohort.table, None, None, **{**common, "longitudinal": {**how, "visits": "ses-1,ses-2"}}
    )
    assert mean.tested[0].meaning == "the mean is above 0; each image is the mean over session"


def visits(rows, columns=("participant_id", "session", "time", "group")):
    return as_cohort(pd.DataFrame(rows, columns=columns))


def test_slopes_are_those_of_least_squares():
    times = {"a": [0.0, 1, 3], "b": [0.5, 2.5, 3]}
    table = visits([[who, f"v{i}", t, "x"] for who, each in times.items() for i, t in enumerate(each, start=1)])
    how = Longitudinal("participant_id", "session", years="time")
    subjects = summarise(how, table, [0, 1, 2, 3, 5], [])  # b has no second visit
    values = np.random.default_rng(0).normal(size=6)
    for number, rows, at in ((0, [0, 1, 2], [0, 1, 3]), (1, [3, 5], [0.5, 3])):
        slope = np.polyfit(at, values[rows], 1)[0]
        assert sum(weight * values[row] for row, weight in subjects.weights[number]) == pytest.approx(slope)
    assert subjects.cohort.ids == ("a", "b")
    assert list(subjects.cohort.text.visits) == ["v1, v2, v3", "v1, v3"]
    mean = summarise(Longitudinal("participant_id", "session", summary="mean"), table, range(6), [])
    assert mean.weights[0] == ((0, 1 / 3), (1, 1 / 3), (2, 1 / 3))
    slope = Longitudinal("participant_id", "session", ("v1", "v2"), "time")
    assert "the slope of the line that least squares fit to all visits (v1, v2)" in slope.sentence
    change = summarise(replace(slope, years=""), table, [0, 1, 2, 3, 5], [])
    assert change.weights == (((0, -1.0), (1, 1.0)), ())
    assert change.missing == {1: "no v2"}


@pytest.mark.parametrize(
    ("rows", "how", "said"),
    [
        ([["a", "v1", 0, "x"], ["a", "v1", 1, "x"]], {}, "the only session is v1"),
        ([["a", "v1", 0, "x"], ["a", "v2", 1, "x"], ["a", "v2", 2, "x"]], {}, "has v2 of a twice"),
        ([["a", "v1", 0, "x"], ["a", "v2", 1, "y"]], {}, "group of a is x at one visit and y at another"),
        ([["a", "v1", 1, "x"], ["a", "v2", 1, "x"]], {"years": "time"}, "they must follow each other"),
        ([["a", "v1", 0, "x"], ["a", "v2", 365, "x"]], {"years": "time"}, "over at most 60 years"),
        ([["a", "pre", 0, "x"], ["a", "post", 1, "x"]], {}, "the order of session post, pre is unknown"),
    ],
)
def test_visits_that_cannot_be_summarised(rows, how, said):
    with pytest.raises(ValueError, match=said):
        summarise(Longitudinal("participant_id", "session", **how), visits(rows), range(len(rows)), ["group"])


def test_visits_are_refused_or_dropped(cohort, capsys):
    table = cohort.table.drop(index=3)
    table.to_csv(cohort.folder / "fewer.tsv", sep="\t", index=False)
    line = ["voxelwise", "--no-report", str(cohort.folder / "fewer.tsv"), "--images", str(cohort.folder / TEMPLATE),
            "--mask", str(cohort.folder / "mask"), "--out", str(cohort.folder / "fewer"), "-n", "5", "--seed", "1",
            "-x", "--longitudinal", "participant_id", "--visit", "session"]  # fmt: skip
    assert main(line) == 2
    assert f"{cohort.table.participant_id[3]} (no {cohort.table.session[3]})" in capsys.readouterr().err
    out = cohort.table.participant_id[0]
    assert main([*line, "--missing", "drop", "--subset", f"participant_id != '{out}'"]) == 0
    said = capsys.readouterr().out
    assert "8 subjects of the 19 rows of" in said
    assert f"17 rows of 19 selected: participant_id != '{out}'" in said
    assert "the change over session; values of the model are those of its first visit" in said
    assert "the mean is above 0; each image is the change over session\n" in said
    methods = paragraphs(read_run(cohort.folder / "fewer"), ClusterOptions())[0]
    assert f"17 of the 19 rows of the table were selected, by the condition participant_id != '{out}'" in methods
    assert "1 subject or visit was excluded for lack of an image or a value" in methods
    assert (
        "Each image is the change over session of one participant_id, the last visit minus the first;" in methods
    )
    assert "whether the mean is above 0; each image is the change over session." in methods
    for more, text in (
        (
            ["--paired", "participant_id", "--model", "age", "--test", "age"],
            "--paired participant_id has no rows to",
        ),
        (["--summary", "mean", "--years", "time"], "a mean has none"),
    ):
        assert main([*line, *more]) == 2
        assert text in capsys.readouterr().err
    assert main([*line[:-4], "--visit", "session"]) == 2
    assert "--visit needs --longitudinal" in capsys.readouterr().err
