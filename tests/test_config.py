"""The description of a study: its example, and what is said of mistakes in it."""

import dataclasses
import tomllib
import typing
import unicodedata

import pytest

from gpuvox.errors import FileError
from gpuvox.study.pipeline import config


def parse(tmp_path, text):
    (tmp_path / "study.toml").write_text(text)
    return config.read_config(tmp_path / "study.toml")


def test_the_example_is_read(tmp_path):
    found = parse(tmp_path, config.example())
    assert found.groups.order == ("MS", "HC")
    assert found.voxelwise.permutations == 5000
    assert found.out == tmp_path / "results"
    assert found.group_table[0].title == "Deep gray matter structures"
    assert found.regression[0].blocks == {"global": ("brain_volume", "lesion_load")}


def test_every_key_is_in_the_example_with_an_explanation():
    lines = config.example().splitlines()
    for part in dataclasses.fields(config.Config):
        kinds = dataclasses_in(typing.get_type_hints(config.Config)[part.name])
        for kind in kinds:
            for key in dataclasses.fields(kind):
                forms = (f"{key.name} =", f"[group_table.{key.name}]", f"[demographics.{key.name}.")
                assert any(line.lstrip("# ").startswith(forms) for line in lines), (kind, key.name)
    # A section without a comment at every key repeats one that has them.
    seen, section, before = set(), "", ""
    for line in lines:
        if line.startswith("["):
            seen, section = seen | {section}, line.split("#")[0].strip()
        elif line and not line.startswith("#"):
            explained = (
                "#" in line or before.startswith("#") or section in seen or section == "[group_table.families]"
            )
            assert explained, line
        before = line


def dataclasses_in(kind):
    if dataclasses.is_dataclass(kind):
        return [kind]
    return [found for each in typing.get_args(kind) for found in dataclasses_in(each)]


def test_what_the_example_says_of_defaults_is_true():
    """A key written with the value in brackets: leaving it out gives the same."""
    content = tomllib.loads(config.example())
    defaults = {
        ("voxelwise", "permutations"): 5000, ("voxelwise", "tfce_height"): 2, ("clusters", "p"): 0.05,
        ("clusters", "connectivity"): 26, ("voxelwise", "connectivity"): 6, ("study", "seed"): 1,
        ("study", "out"): "results", ("ironmyelin", "field_method"): "curve",
        ("ironmyelin", "reference"): "cohort", ("groups", "column"): "group",
    }  # fmt: skip
    kinds = {"voxelwise": config.Voxelwise, "clusters": config.Clusters, "study": config.Study}
    kinds |= {"ironmyelin": config.IronMyelin, "groups": config.Groups}
    for (section, key), value in defaults.items():
        field = next(f for f in dataclasses.fields(kinds[section]) if f.name == key)
        assert field.default == value
        assert f"[{value}]".replace("'", '"') in config.example() or f'["{value}"]' in config.example()
        assert content[section][key] == value


MISTAKES = [
    ("permutations = 5000", "permutation = 5000", "voxelwise.permutation: this key is unknown; did you mean 'permuta"),
    ('order = ["MS", "HC"]', 'order = ["MS", "MS"]', "groups.order: is ['MS', 'MS']; expected each once"),
    ("# against = 0 ", "against = 0 ", "group_table[1].against: is for the mean of one group; groups are compared"),
    ('order = ["MS", "HC"]', 'order = "MS"', "groups.order: is 'MS'; expected a list"),
    ("from_field = 3", 'from_field = "3"', "ironmyelin.from_field: is '3'; expected a number"),
    ("from_field = 3", "from_field = nan", "ironmyelin.from_field: is nan; expected a number"),
    ("seed = 1 ", "seed = 1.5 ", "study.seed: is 1.5; expected a whole number"),
    ("seed = 1 ", "seed = true ", "study.seed: is True; expected a whole number"),
    ("p = 0.05 ", "p = 5 ", "clusters.p: is 5; expected a number between 0 and 1"),
    ('title = "A new study"', "title = 3", "sample_size[1].title: is 3; expected text in quotes"),
    ('tests = { edss = "mannwhitney" }', 'tests = { edss = "u" }', "demographics.tests: is {'edss': 'u'}; expected te"),
    ('log = ["lesion_load"]', 'log = ["lesion_load", 3]', "regression[1].log[2]: is 3; expected text"),
    ("[[correlation]]", "[[corelation]]", "corelation: this key is unknown; did you mean 'correlation'?"),
    ('method = "spearman"', 'method = "kendall"', "correlation[1].method: is 'kendall'; expected pearson or spearman"),
    ('title = "Deep gray matter structures, age up to 50"', 'title = "Deep gray matter  Structures"', "file called"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_mistakes_are_told_with_key_and_line(tmp_path, old, new, message):
    text = config.example()
    assert text.count(old) >= 1
    with pytest.raises(FileError) as caught:
        parse(tmp_path, text.replace(old, new, 1))
    line = text[: text.index(old)].count("\n") + 1
    assert f"study.toml, line {line}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [1,\n", "is not TOML"),
        ("[study]\n[groups]\norder=['a','b']\n", "line 1: study: the key 'table' is missing"),
        ("study = 3\ngroups = 4\n", "line 1: study: expected a section [study], not 3"),
        ("[study]\ntable=''\n[groups]\norder=['a','b']\n", "line 2: study.table: is ''; expected something"),
        (
            "[study]\ntable='t'\n[groups]\norder=['a','b']\n[voxelwise]\n",
            "line 5: voxelwise: needs the section [template]",
        ),
        (
            "[study]\ntable='t'\n[groups]\norder=['a','b']\n[clusters]\n",
            "line 5: clusters: needs the section [voxelw",
        ),
        ("[study]\ntable='t'\n[groups]\norder=['a','b']\n[rois]\n", "line 5: rois: needs labels"),
        (
            "[study]\ntable='t'\n[groups]\norder=['a','b']\n[template]\nmask='m'\n[voxelwise]\n",
            "there are no maps",
        ),
        (
            "[study]\ntable='t'\n[groups]\norder=['a','b']\n[maps]\nfa=3\n",
            "line 6: maps.fa: expected a section [maps.fa]",
        ),
        ("[study]\ntable='t'\n[groups]\norder=['a','b']\n[maps.'f a']\nimage='x'\n", "expected names of letters"),
        (
            "[study]\ntable='t'\n[groups]\norder=['a','b']\n[[regression]]\ntitle='r'\noutcome='y'\n",
            "needs blocks",
        ),
    ],
)
def test_what_is_missing(tmp_path, text, message):
    with pytest.raises(FileError) as caught:
        parse(tmp_path, text)
    assert message in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        config.read_config(tmp_path / "none.toml")


def test_lines_of_keys():
    text = 'a = """\nb = 1\n[c]\n"""\n[s]\nx = [ # [\n  "]",\n  2,\n]\ny = { z = 1 }\n'
    text += '[[t]]\nu.v = 1\n[[t]]\n"q" = 2\n[t.w]\ne = 3'
    lines = config.key_lines(text)
    assert lines == {
        ("a",): 1, ("s",): 5, ("s", "x"): 6, ("s", "y"): 10, ("t",): 11, ("t", 0): 11, ("t", 0, "u", "v"): 12,
        ("t", 1): 13, ("t", 1, "q"): 14, ("t", 1, "w"): 15, ("t", 1, "w", "e"): 16,
    }  # fmt: skip


def test_text_has_composed_accents_unless_it_names_a_file(tmp_path):
    """Columns look alike whatever the accents; a file has the name that it has on the disk."""
    e = unicodedata.normalize("NFD", "é")
    (tmp_path / f"kart{e}.nii.gz").touch()
    text = f"""
        [study]
        table = "t.tsv"
        [groups]
        column = "{e}tat"
        order = ["{e}", "x"]
        subset = "{e}tat != 'y'"
        [maps.a]
        image = "kart{e}"
        [maps.b]
        image = "imag{e}"
    """
    found = parse(tmp_path, text)
    assert (found.groups.column, found.groups.order, found.groups.subset) == ("état", ("é", "x"), "état != 'y'")
    assert {name: each.image for name, each in found.maps.items()} == {"a": f"kart{e}", "b": "imagé"}
