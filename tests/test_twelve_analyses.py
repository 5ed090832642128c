"""The commands of docs/cookbook.md: each means the design, contrasts and permutations that are written here by hand.

That the maps of such commands are those of ``gpuvox randomise`` on such designs is tested in `test_front_door`,
`test_image_sets` and `test_visits`.
"""

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from gpuvox.application.voxelwise.analysis import prepare_analysis
from gpuvox.cli.voxelwise import describe, parse
from gpuvox.reporter import Reporter
from tests.front_door import centred, dummy, people

DOCS = Path(__file__).parent.parent / "docs" / "cookbook.md"
N = 24


def commands():
    """The commands of the section, by the name of their output folder."""
    section = DOCS.read_text().split("## Twelve analyses")[1].split("\n## ")[0]
    lines = re.sub(r"\\\n\s+", "", section).splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("    gpuvox voxelwise ")]
    return {Path(each[each.index("--out") + 1]).name: each[2:] for each in words}


def tables():
    rng = np.random.default_rng(3)
    one = people(
        N, group=np.resize(["HC", "MS"], N), stage=np.resize(["HC", "RRMS", "SPMS"], N),
        site=np.repeat(["a", "b"], N // 2),
        age=rng.integers(20, 60, N), sex=rng.choice(["F", "M"], N), tiv=rng.normal(1500, 90, N).round(1),
        score=rng.normal(20, 5, N).round(1),
    )  # fmt: skip
    one.loc[4, "score"] = np.nan
    return one, pd.concat([one.assign(session=session) for session in ("pre", "post")], ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every file that the commands name."""
    folder, (one, sessions) = tmp_path_factory.mktemp("docs"), tables()
    one.to_csv(folder / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    sessions.to_csv(folder / "sessions.tsv", sep="\t", index=False, na_rep="n/a")
    volume, stack = (nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4)) for shape in ((2, 2, 2), (2, 2, 2, N)))
    nib.save(volume, folder / "mask.nii.gz")
    for name in ("vbm", "cbf", "flow", "lesions", "dual_regression"):
        (folder / name).mkdir()
    for who in one.participant_id:
        for name in (f"vbm/{who}_label-GM_probseg", f"flow/{who}_cbf", f"lesions/{who}_lesion"):
            nib.save(volume, folder / f"{name}.nii.gz")
        for session in ("pre", "post"):
            nib.save(volume, folder / "cbf" / f"{who}_{session}_cbf.nii.gz")
    (folder / "lesions" / f"{one.participant_id[7]}_lesion.nii.gz").unlink()
    for name in ("fa_skeletons", *(f"dual_regression/ic{i:02d}" for i in range(10))):
        nib.save(stack, folder / f"{name}.nii.gz")
        one[["participant_id"]].to_csv(folder / f"{name}.tsv", sep="\t", index=False)
    return folder


def groups(t, *covariates):
    return [dummy(t.group, "HC"), dummy(t.group, "MS"), *(centred(t[name]) for name in covariates)]


def by_hand():
    """Design, contrasts and tests of each command, written by hand."""
    one, sessions = tables()
    complete = one.drop(index=[4, 7])
    male, stages = dummy(one.sex, "M"), [dummy(one.stage, level) for level in ("HC", "RRMS", "SPMS")]
    age = centred(one.age)
    people_of_sessions = [dummy(sessions.participant_id, who) for who in one.participant_id[1:]]
    return {
        "vbm": (np.column_stack(groups(one, "age")), [[1, -1, 0, 0, 0], [-1, 1, 0, 0, 0]], [male, centred(one.tiv)]),
        "tbss": (np.column_stack(groups(one, "age")), [[1, -1, 0]], []),
        "paired": (
            np.column_stack([dummy(sessions.session, "post"), dummy(sessions.session, "pre"), *people_of_sessions]),
            [[1, -1, *[0] * (N - 1)]], [],
        ),
        "mixed": (np.column_stack(groups(one, "age")), [[-1, 1, 0]], []),
        "slopes": (np.column_stack([*groups(one, "age"), dummy(one.group, "MS") * age]), [[0, 0, 0, 1]], []),
        "anova": (np.column_stack([*stages, age]), [[-1, 1, 0, 0], [-1, 0, 1, 0]], []),
        "pairs": (np.column_stack([*stages, age]), [[-1, 1, 0, 0], [-1, 0, 1, 0], [0, -1, 1, 0]], []),
        "age": (np.column_stack([dummy(one.sex, "F"), male, age]), [[0, 0, 1], [0, 0, -1]], []),
        "adjusted": (np.column_stack(groups(one, "age")), [[1, -1, 0, 0]], ["voxelwise"]),
        "mean": (np.ones((N, 1)), [[1]], []),
        "networks": (np.column_stack(groups(one, "age")), [[1, -1, 0], [-1, 1, 0]] * 10, []),
        "lesions": (
            np.column_stack([np.ones(N - 2), centred(complete.score), centred(complete.age)]), [[0, -1, 0]], []
        ),
        "sites": (np.column_stack([*groups(one), dummy(one.site, "b"), age]), [[1, -1, 0, 0]], []),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(commands()))
def test_a_command_of_the_documentation_means_this_design(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    analysis = prepare_analysis(describe(parse(commands()[name])), Reporter.silent())
    design, contrasts, more = by_hand()[name]
    mine = analysis.model.matrix
    if name == "vbm":
        design = np.column_stack([design, *more])
    if more == ["voxelwise"]:
        assert analysis.model.voxelwise == {3: "gm"}
        mine = mine[:, :3]
    assert_allclose(mine, design, atol=1e-12)
    assert_allclose(np.vstack([each.weights for each in analysis.hypotheses]), contrasts, atol=1e-12)
    assert [run.options.flip for run in analysis.runs] == [name == "mean"] * len(analysis.runs)
    assert all(each.is_f for each in analysis.hypotheses) == (name == "anova")
    assert analysis.across_tests == (name in ("pairs", "networks"))
    assert len(analysis.sets) == (10 if name == "networks" else 1)
    blocks = {"sites": N // 2 * [1] + N // 2 * [2], "paired": [*range(1, N + 1)] * 2}.get(name)
    assert (analysis.exchangeability.blocks is None) == (blocks is None)
    if blocks is not None:
        assert analysis.exchangeability.blocks.tolist() == blocks
    assert all(run.options.statistics.two_sided for run in analysis.runs) == (name in ("mixed", "pairs"))


def test_all_twelve_are_there():
    assert set(commands()) == set(by_hand())
