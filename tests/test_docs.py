"""What the documentation names exists: tests, options, modules, functions and files.

| part | establishes |
|---|---|
| validation | every test that docs/faults.md and docs/validation.md name exists; every test file has a row |
| options | every option in README and docs belongs to a command (or to another program that is listed here) |
| names | every ``gpuvox.…`` can be imported, and every file of the package exists |
| architecture | the table of modules has every module of the package, and no other |
| workflows | the commands of the Snakemake and Nextflow examples parse |
| packaging | the recipe for conda-forge has our dependencies and commands; extras and files of containers exist |
| reference | docs/api.md has every public name |
| checks | what checks the site and its commands finds what is wrong |
"""

import argparse
import doctest
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import jinja2
import pytest
import yaml

import gpuvox
from gpuvox.cli.voxelwise import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}

# Options of Dask, Docker, Apptainer and of FSL's fdr, an option of FSL that gpuvox refuses, and a placeholder.
OTHERS = {"--gpus", "--memory-limit", "--minutes", "--nthreads", "--nv", "--oneminusp", "--multi", "--option"}


def _options(parser: argparse.ArgumentParser) -> set[str]:
    names = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                names |= _options(child)
    return names


def _known_options() -> set[str]:
    names = {"--record-paths", "--completion"}
    for module in sorted((ROOT / "gpuvox" / "cli").glob("*.py")):
        build = getattr(import_module(f"gpuvox.cli.{module.stem}"), "build_parser", None)
        names |= _options(build()) if build else set()
    return names


def _tool(name: str):
    """A script of tools/ as a module."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look themselves up
    specification.loader.exec_module(module)
    return module


def test_every_test_that_the_validation_names_exists():
    faults = TEXTS["docs/faults.md"]
    named = [
        (file, re.findall(r"`(test_\w+)`", names))
        for file, names in re.findall(r"`(test_\w+\.py)`([^;|]*)", faults)
    ]
    assert len(named) > 50
    for file, names in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        missing = [name for name in names if not re.search(rf"^def {name}\(", source, re.MULTILINE)]
        assert not missing, (file, missing)
    for file in re.findall(r"`(test_\w+\.py)`", faults + TEXTS["docs/validation.md"]):
        assert (ROOT / "tests" / file).is_file(), file


def test_every_test_file_has_a_row_in_the_validation():
    """One row, which may be that of several files; a new test file needs one."""
    tables = TEXTS["docs/validation.md"].split("## What each test file establishes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`test_\w+\.py`(?:, `test_\w+\.py`)*) \| .{15,} \|$", tables, re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"test_\w+\.py", row)]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))


def test_figures_of_the_readme_are_those_of_committed_files():
    readme, elsewhere = TEXTS["README.md"], json.loads((ROOT / "bench" / "elsewhere.json").read_text())
    fsl, nilearn = elsewhere["fsl_randomise_2.9"], elsewhere["nilearn_0.14_permuted_ols"]
    begin, end = elsewhere["start_to_finish"]["seconds"]
    cases = {
        name: sum(path.is_dir() for path in (ROOT / "tests" / "data" / name).iterdir()) for name in ("fsl", "palm")
    }
    differences = TEXTS["docs/validation.md"].split("## Deliberate differences from FSL")[1].split("\n\n")[1]
    said = (
        f"{fsl['milliseconds']['C 6']} ms for TFCE of a permutation, one sign"
        f" | {fsl['gpuvox_milliseconds']['C 6']} ms, both signs",
        f"{nilearn['seconds']} s for TFCE of the data and two permutations"
        f" | {nilearn['gpuvox_milliseconds']['C 6']:.0f} ms a permutation",
        f"{begin:.0f} to {end:.0f} s on two cores",
        f"{cases['fsl']} reference runs",
        f"{cases['palm']} of its runs",
        f"{differences.count(chr(10)) - 1} [deliberate differences]",
    )
    for each in said:
        assert each.replace(" ", "") in readme.replace("\n", "").replace(" ", ""), each


def test_every_option_belongs_to_a_command():
    known = _known_options() | OTHERS
    for page, text in TEXTS.items():
        lines = [
            line for line in text.splitlines() if not re.search(r"openssl|dask (scheduler|worker)|tls=\"", line)
        ]
        named = set(re.findall(r"(?<![\w-])--[A-Za-z]\w*(?:-\w+)*", "\n".join(lines)))
        assert not {name for name in named if name not in known and not name.endswith("_")}, page


@pytest.mark.parametrize("page", TEXTS)
def test_every_name_of_the_package_exists(page):
    for name in set(re.findall(r"\bgpuvox(?:\.[A-Za-z_]\w*)+", TEXTS[page])):
        if name.endswith((".toml", ".py", ".html", ".def", ".sif")):
            continue
        thing, parts = gpuvox, name.split(".")[1:]
        for i, part in enumerate(parts):
            try:
                thing = getattr(thing, part)
            except AttributeError:
                thing = import_module(".".join(["gpuvox", *parts[: i + 1]]))
    for file in set(re.findall(r"(?<!github\.com/)\b(?:gpuvox|kernels|tests|bench)/[\w./]*[a-z]\b", TEXTS[page])):
        assert (ROOT / file).exists(), file
    for target in set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS[page])):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_every_example_in_python_imports_what_exists(page):
    for code in re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL):
        compile(code, page, "exec")
        for module, names in re.findall(r"^from (gpuvox[\w.]*) import ([\w, ]+)$", code, re.MULTILINE):
            for name in names.split(", "):
                assert hasattr(import_module(module), name), (module, name)


def test_the_engine_of_the_documentation_runs():
    """In a process of its own: a module of the name of a function would hide it once it is imported."""
    examples = doctest.DocTestParser().get_examples(TEXTS["docs/api.md"])
    engine = "".join(example.source for example in examples)
    assert "Shuffler" in engine
    subprocess.run([sys.executable, "-c", f"{engine}assert block.maxima"], check=True, cwd=ROOT)


def test_links_to_headings_have_a_heading():
    for page, text in TEXTS.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
            other = TEXTS[str(((ROOT / page).parent / target).resolve().relative_to(ROOT))] if target else text
            headings = re.findall(r"^#+ (.*)$", other, re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, (page, target, anchor)


def test_the_table_of_modules_has_every_module_and_no_other():
    """A row for a package names each of its modules, except for packages whose modules are many and alike."""
    text = TEXTS["docs/architecture.md"].split("## Modules")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w/.]+)` \| (.*) \|$", text, re.MULTILINE))
    package = ROOT / "gpuvox"
    unnamed = ("__init__", "__main__")
    modules = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.stem not in unnamed}
    listed = set()
    for row, contents in rows.items():
        assert (package / row).exists(), row
        inside = {name for name in modules if name.startswith(row) and row.endswith("/")}
        listed |= inside if row.endswith("/") else {row}
        if row not in ("cli/", "study/report/"):
            names = {name[len(row) : -3] for name in inside}
            named = set(re.findall(r"`[\w/]+`", contents))
            missing = {name for name in names if not {f"`{name}`", f"`{name.split('/')[0]}/`"} & named}
            assert not missing, (row, missing)
    assert listed == modules, sorted(listed ^ modules)


def test_the_boutiques_descriptor_has_the_options_of_the_command():
    """Made by ``python tools/boutiques.py packaging/boutiques/gpuvox-randomise.json``."""
    committed = json.loads((ROOT / "packaging" / "boutiques" / "gpuvox-randomise.json").read_text())
    assert committed == _tool("boutiques").make_descriptor()


def test_packaging_names_the_dependencies_and_extras_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "packaging" / "conda-forge" / "meta.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(jinja2.Template(text, undefined=jinja2.StrictUndefined).render(PYTHON="python"))
    needed = [
        line.replace("matplotlib-base", "matplotlib").replace(" ", "") for line in recipe["requirements"]["run"]
    ]
    assert sorted(needed) == sorted([*project["dependencies"], f"python{project['requires-python']}"])
    assert recipe["build"]["entry_points"] == [
        f"{name} = {function}" for name, function in project["scripts"].items()
    ]
    oldest = f"python {project['requires-python'].removeprefix('>=')}"
    assert oldest in recipe["requirements"]["host"]
    assert oldest in recipe["test"]["requires"]
    files = [ROOT / "packaging" / name for name in ("Dockerfile", "Dockerfile.cuda", "gpuvox.def")]
    texts = [path.read_text(encoding="utf-8") for path in files]
    named = re.findall(r"(?:gpuvox|gpuvox-\*\.whl\)|source)\[([\w,]+)\]", "\n".join([*texts, *TEXTS.values()]))
    assert len(named) > 5
    assert {extra for each in named for extra in each.split(",")} <= set(project["optional-dependencies"])
    for text in texts:
        for path in re.findall(r"packaging/[\w.]+", text):
            assert (ROOT / path).is_file(), path


WORKFLOWS = {
    "Snakefile": r'"(gpuvox voxelwise .*)"\n        "(.*)"\n        "(.*)"',
    "main.nf": r"    (gpuvox voxelwise [^\"]*)",
}


@pytest.mark.parametrize("file", WORKFLOWS)
def test_the_commands_of_workflows_parse(file):
    """With a value in place of what the workflow fills in."""
    text = (ROOT / "examples" / "workflows" / file).read_text(encoding="utf-8")
    command = "".join(re.search(WORKFLOWS[file], text).groups()).replace("\\", " ")
    # A share of the permutations is I/N, and all else may be a number.
    filled = re.sub(r"\$\{(?:[^{}]|\{[^{}]*\})*\}|\{[^{}]*\}", "1", command).split()
    options = parse(filled[2:])
    assert (options.shard, options.seed, options.threads) == ((1, 1), 1, 1)


def test_the_reference_has_every_public_name():
    named = set(re.findall(r":: (gpuvox[\w.]+)", TEXTS["docs/api.md"]))
    inside = {name.rsplit(".", 1)[0] for name in named}  # a module with names of its own
    for name in set(gpuvox.__all__) - {"__version__"}:
        assert f"gpuvox.{name}" in named or any(each.startswith(f"gpuvox.{name}") for each in inside), name


def test_the_check_of_examples_finds_commands_and_what_else_they_print():
    tool = _tool("check_examples")
    page = "```console\n$ one \\\n    -x\nfirst …\nlast\n$ two\n> three\n```\nwords\n```text\n$ four\n```\n"
    (one, said), (two, nothing) = tool.examples(page)
    assert (one, two, nothing) == ("one \\\n    -x", "two\nthree", "")
    for printed in ("first 1 s\nlast\n", "First run: compiling the loops.\nfirst 2\nand more\nlast  \n"):
        assert tool.matches(said, printed)
    for printed in ("", "first 1 s\nlast\nWarning\n", "the first \nlast\n", "first 1 s\nlost\n"):
        assert not tool.matches(said, printed)
    assert tool.matches(nothing, "\n")
    assert not tool.matches(nothing, "an error\n")


def test_the_check_of_the_site_finds_what_is_broken(tmp_path):
    tool = _tool("check_site")
    article = '<article id="top"><a href="b.html#here">b</a><a href="https://example.org">out</a>'
    (tmp_path / "b.html").write_text('<p id="here"><a href="a.html#top">a</a>')
    (tmp_path / "a.html").write_text(f"{article}</article>")
    assert tool.faults(tmp_path) == []
    broken = '<a href="c.html">c</a><a href="b.html#there">b</a><img src="https://example.org/x.png">'
    (tmp_path / "a.html").write_text(f"{article}{broken}</article>")
    assert len(tool.faults(tmp_path)) == 3
    (tmp_path / "a.html").write_text(f"{article}{'word ' * 1200}</article>")
    assert "1202 words" in tool.faults(tmp_path)[0]
